"""From a request to labelled items: the kind of a source, and labels by the crowd's answers."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.shop import tile

from semigrid.data.builder.gather import gather
from semigrid.data.builder.request import load_request
from semigrid.data.errors import InputError


def photos(folder: Path, images: int = 6) -> Path:
    folder.mkdir()
    for number in range(images):
        (folder / f"{number}.png").write_bytes(tile(number))
    return folder


def answers(folder: Path, rows: list[str], **options: Any) -> list[str | None]:
    """The labels of the photographs by their number."""
    (folder / "answers.csv").write_text("\n".join(["task,worker,label", *rows]) + "\n")
    given = {"answers": str(folder / "answers.csv"), **options}
    items, _ = gather(load_request(str(folder / "photos"), given))
    return [item.label for item in items]


def three(label_of: Any, task: str = "{}.png") -> list[str]:
    return [f"{task.format(n)},w{w},{label_of(n, w)}" for n in range(6) for w in range(3)]


def test_answers_and_gold_may_name_an_image_differently(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    rows = three(lambda n, w: "ab"[(n + (w == 2)) % 2], "s3://bucket/job/{}.png")
    (tmp_path / "gold.csv").write_text("task,label\n0.png,a\nhttps://host/1.png?x=1,b\n2.png,\n")
    found = answers(tmp_path, rows, gold=str(tmp_path / "gold.csv"))
    assert found == ["a", "b", "a", "b", "a", "b"]  # the third worker fails on gold


def test_normalize_unites_spellings_and_writes_them_as_the_classes(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    rows = three(lambda n, w: [["Cat", "cat ", "CAT"], ["Dog", "dog", "dog"]][n % 2][w])
    plain = answers(tmp_path, rows, normalize=True)
    assert Counter(plain) == {"cat": 3, "dog": 3}
    (tmp_path / "gold.csv").write_text("task,label\n0.png,cAT\n")
    given = {"normalize": True, "classes": ["Cat", "Dog"], "gold": str(tmp_path / "gold.csv")}
    assert Counter(answers(tmp_path, rows, **given)) == {"Cat": 3, "Dog": 3}
    with pytest.raises(InputError, match=r"every label is 'dog'(.|\n)*'CAT', 'Cat', 'cat ' differ"):
        answers(tmp_path, rows)


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        (
            three(lambda n, w: f"label {w}"),
            {},
            ["no image has a label", "18 of 18 answers", "0 of 6 tasks have a label (6 too few"],
        ),
        (
            three(lambda n, w: "ab"[n % 2]),
            {"gold": "gold.csv"},
            ["0 of 18 answers from 3 workers count (18 the worker answered no gold task)"]
            + ["gold.csv: no worker answered one of its 1 gold tasks, the first is 'gold/0.jpg'"],
        ),
        (three(lambda n, w: "a"), {}, ["every label is 'a'", "6 of 6 tasks have a label"]),
        (["x.png,w,a"], {}, ["none of 1 tasks is an image of"]),
    ],
)
def test_answers_that_make_no_classes_are_refused_with_their_audit(
    tmp_path: Path, rows: list[str], options: dict[str, str], expected: list[str]
) -> None:
    photos(tmp_path / "photos")
    (tmp_path / "gold.csv").write_text("task,label\ngold/0.jpg,a\n")
    options = {key: str(tmp_path / value) for key, value in options.items()}
    with pytest.raises(InputError) as caught:
        answers(tmp_path, rows, **options)
    for words in expected:
        assert words in str(caught.value)


def test_the_kind_is_told_by_the_ending_in_any_case(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    for name, separator in [("a.csv", ";"), ("b.tsv", "\t"), ("C.CSV", ",")]:
        rows = [f"photos/{n}.png{separator}{'ab'[n % 2]}" for n in range(6)]
        (tmp_path / name).write_text("\n".join([f"image{separator}label", *rows]) + "\n")
        items, _ = gather(load_request(str(tmp_path / name), {}))
        assert [item.label for item in items] == ["a", "b", "a", "b", "a", "b"]
    (tmp_path / "list.xlsx").write_bytes(b"PK\3\4")
    with pytest.raises(InputError, match=r"list.xlsx: a file, and its name ends in none of \.csv"):
        gather(load_request(str(tmp_path / "list.xlsx"), {}))


def test_no_file_of_a_table_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lists").mkdir()
    table = tmp_path / "lists" / "images.csv"
    table.write_text("image,label\nphotos/0.png,a\nphotos/1.png,b\n")
    expected = r"no such file: none of its 2 images is there; 'photos/0.png' was looked for at {}"
    with pytest.raises(
        InputError, match=expected.format(tmp_path / "lists/photos/0.png")
    ) as caught:
        gather(load_request(str(table), {}))
    assert "working folder" not in str(caught.value)
    photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="there is one in the working folder"):
        gather(load_request(str(table), {}))
    # one that is there is enough: the others are listed in the report
    table.write_text("image,label\nphotos/0.png,a\n../photos/1.png,b\n")
    assert len(gather(load_request(str(table), {}))[0]) == 2
