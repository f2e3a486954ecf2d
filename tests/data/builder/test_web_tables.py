"""Tables of strangers with web addresses: what is asked for, what is kept and what is refused."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.shop import tile
from tests.helpers.web import Web, busy_for, status, web_server

from semigrid.data.builder.gather import gather
from semigrid.data.builder.ingest import build_dataset
from semigrid.data.builder.request import BuildRequest, load_request
from semigrid.data.errors import InputError, StorageGoneError
from semigrid.data.schema import Dataset
from semigrid.data.storage.storage import PATIENCE


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as server:
        yield server


def build(source: str, to: Path) -> tuple[Dataset, dict[str, Any]]:
    request = BuildRequest(source=source, kind="table", val_share=0.2, test_share=0.2)
    items, audit = gather(request)
    return build_dataset(str(to), items, request, audit=audit)


def fill(web: Web, signature: str) -> None:
    """A table of 40 signed addresses in two classes, some of which are no good."""
    rows, page = ["image,label,page"], f"{web.url}/page?token={signature}"
    for number in range(40):
        web.answers[f"/{number}.png"] = tile(number)
        place = f"{web.url}/{number}.png" if number % 2 else f"{number}.png"
        rows.append(f"{place}?sig={signature}&n={number},{'ab'[number % 2]},{page}")
    web.answers["/broken.png"] = status(403)
    user = f"http://user:{signature}@{web.host}"
    rows += [f"{web.url}/broken.png?sig={signature},a,{page}", f"{user}/none.png,a,{page}"]
    rows += [
        f"reference://x::{web.url}/refs.json,a,{page}",
        f"ftp://me:{signature}@host/x,b,{page}",
    ]
    web.answers["/t.csv"] = "\n".join(rows).encode()


def test_signatures_are_used_and_not_kept(web: Web, tmp_path: Path) -> None:
    fingerprints = []
    for signature in ("SECRET1", "SECRET2"):
        fill(web, signature)
        dataset, report = build(f"{web.url}/t.csv?sig={signature}", tmp_path / signature[-1])
        fingerprints.append(dataset.manifest.fingerprint)
        for file in (tmp_path / signature[-1]).iterdir():
            assert b"SECRET" not in file.read_bytes(), file
        assert "SECRET" not in str(report)
    assert fingerprints[0] == fingerprints[1]
    assert dataset.manifest.source == f"{web.url}/t.csv"
    ids = {i for split in ("train", "val", "test") for i in dataset.read(split).ids}
    assert {f"{web.url}/1.png?n=1", "2.png?n=2"} <= ids
    assert report["kept"] == 40 and set(report["quarantined"]) == {
        f"{web.url}/broken.png",
        f"http://{web.host}/none.png",
        f"reference://x::{web.url}/refs.json",
        "ftp://host/x",
    }
    reasons = report["quarantined"]
    assert "HTTP 403" in reasons[f"{web.url}/broken.png"]
    assert "reference:// cannot be opened" in reasons[f"reference://x::{web.url}/refs.json"]
    assert not [path for path, _ in web.asked if "refs.json" in path]


def test_answers_to_signed_addresses_are_matched_and_not_kept(web: Web, tmp_path: Path) -> None:
    fill(web, "SECRET1")
    rows = ["task,worker,label"]
    for number in range(1, 40, 2):
        task = f"{web.url}/{number}.png?n={number}&sig=SECRET2"
        rows += [f"{task},{worker},{'ab'[number % 4 // 2]}" for worker in "xyz"]
    rows += [f"{web.url}/unknown.png?sig=SECRET2,{worker},a" for worker in "xyz"]
    web.answers["/answers.csv"] = "\n".join(rows).encode()
    request = BuildRequest(
        source=f"{web.url}/t.csv?sig=SECRET1",
        kind="table",
        answers=f"{web.url}/answers.csv?sig=SECRET1",
        group_column="page",
        id_column="image",
        slices=["page"],
        min_gold_score=0,
    )
    items, audit = gather(request)
    assert [item.label for item in items[1:4]] == ["a", None, "b"]
    assert audit is not None and audit.unknown_tasks == [f"{web.url}/unknown.png"]
    kept = [[item.image_id, item.group, item.slices, item.label, item.votes] for item in items]
    assert "SECRET" not in str([kept, audit])


def test_settings_from_elsewhere_name_no_files_here(web: Web, tmp_path: Path) -> None:
    for key in ("source", "answers", "gold", "pool"):
        value = f"[{tmp_path}]" if key == "pool" else str(tmp_path)
        first = "" if key == "source" else f"source: {web.url}/t.csv\n"
        web.answers["/b.yaml"] = f"{first}{key}: {value}\n".encode()
        with pytest.raises(InputError, match=rf"b.yaml: {key}: names .*, a file on this machine"):
            load_request(f"{web.url}/b.yaml", {})
    assert load_request(f"{web.url}/b.yaml", {"pool": ["photos"]}).pool == ["photos"]


def test_a_table_from_elsewhere_names_no_files_here(web: Web, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(tile(1))
    web.answers["/t.csv"] = f"image,label\n{tmp_path / 'x.png'},a\n".encode()
    with pytest.raises(InputError, match=r"t.csv: names .*/x.png, a file on this machine"):
        build(f"{web.url}/t.csv", tmp_path / "out")


def test_a_build_ends_while_a_server_is_busy_and_goes_on_later(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0.2")
    fill(web, "SECRET")
    web.answers["/broken.png"] = tile(40)
    table = web.answers["/t.csv"]
    assert isinstance(table, bytes)
    rows = table.decode().splitlines()[:-3]
    web.answers["/t.csv"] = "\n".join(rows).encode()
    for number in range(10, 20):
        web.answers[f"/{number}.png"] = busy_for(10**6, 503, b"")

    def again() -> dict[str, Any]:
        request = BuildRequest(
            source=f"{web.url}/t.csv", kind="table", chunk_images=7, val_share=0.2, test_share=0.2
        )
        items, _ = gather(request)
        web.asked.clear()
        return build_dataset(str(tmp_path / "set"), items, request)[1]

    with pytest.raises(StorageGoneError) as raised:
        again()
    missing = re.fullmatch(
        rf"(\d+) of 41 images are missing, since their servers were busy: {web.host} \((\d+)\); "
        r"the first is .*1\d\.png.*run the same command again later.*",
        str(raised.value),
    )
    assert missing and missing[1] == missing[2] and 10 <= int(missing[1]) < 41
    assert "SECRET" not in str(raised.value)
    time.sleep(0.3)
    for number in range(10, 20):
        web.answers[f"/{number}.png"] = tile(number)
    report = again()
    assert (report["images"], report["kept"], report["quarantined"]) == (41, 41, {})
    read = [path for path, _ in web.asked if not path.startswith("/t.csv")]
    assert len({*read}) == 41


def test_a_dead_server_that_says_that_it_is_busy_is_set_aside(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0.2")
    fill(web, "SECRET")
    with web_server() as dead:
        table = web.answers["/t.csv"]
        assert isinstance(table, bytes)
        web.answers["/t.csv"] = table + f"\n{dead.url}/a.png,a,\n{dead.url}/b.png,b,".encode()
        for name in "ab":
            dead.answers[f"/{name}.png"] = busy_for(10**6, 503, b"")
        _, report = build(f"{web.url}/t.csv", tmp_path / "set")
        assert report["kept"] == 40
        assert "HTTP 503" in report["quarantined"][f"{dead.url}/a.png"]
        assert len(dead.asked) < 6  # once for both images, and not for long
        # one that counts our requests lives
        for name in "ab":
            dead.answers[f"/{name}.png"] = busy_for(10**6, 429, b"")
        time.sleep(0.3)
        with pytest.raises(StorageGoneError, match=rf"2 of 46 images .* {dead.host} \(2\)"):
            build(f"{web.url}/t.csv", tmp_path / "other")
        monkeypatch.setenv(PATIENCE, "0")  # the way to do without them
        _, report = build(f"{web.url}/t.csv", tmp_path / "other")
        assert report["kept"] == 40 and "HTTP 429" in report["quarantined"][f"{dead.url}/a.png"]
