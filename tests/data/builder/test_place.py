"""What a build may write over, and what a second one does in the same folder."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.shop import SETTINGS, shop

from semigrid.data.builder.check import check_dataset
from semigrid.data.builder.ingest import build_dataset
from semigrid.data.builder.place import BUILDING, CLAIM
from semigrid.data.catalog import open_dataset
from semigrid.data.errors import InputError
from semigrid.data.schema import MANIFEST
from semigrid.data.sources.files import folder_items
from semigrid.data.storage import open_storage


def build(source: Path, to: Path | str, **more: Any) -> str:
    """The fingerprint of what was built."""
    items, progress = folder_items(str(source)), more.pop("progress", lambda done, total: None)
    request = SETTINGS.model_copy(update=more)
    built, _ = build_dataset(str(to), items, request, progress=progress)
    return built.manifest.fingerprint


def interrupted(done: int, total: int) -> None:
    if done > total / 2:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "name",
    ["report.json", "train-00000.parquet", "README.md", "photos/a.png", ".building/notes"]
    + [".building/build.json", ".building/0123456789abcdef/chunk-000000-once.parquet"],
)
def test_files_of_the_user_are_named_and_stay(tmp_path: Path, name: str) -> None:
    source, mine = shop(tmp_path / "shop"), tmp_path / "set" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(InputError, match=f"set: this folder has files .*: {name.split('/')[0]};"):
        build(source, tmp_path / "set")
    assert mine.read_text() == "mine"
    left = [path for path in (tmp_path / "set").rglob("*") if path.is_file()]
    assert left == [mine]


def test_a_file_is_no_place(tmp_path: Path) -> None:
    (tmp_path / "set").write_text("mine")
    with pytest.raises(InputError, match="set: this is a file"):
        build(shop(tmp_path / "shop"), tmp_path / "set")


def test_what_lies_here_hidden_stays(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / ".DS_Store").write_text("mine")
    build(shop(tmp_path / "shop"), tmp_path / "set")
    assert (tmp_path / "set" / ".DS_Store").read_text() == "mine"


def test_files_that_appear_during_a_build_stay(tmp_path: Path) -> None:
    def appear(done: int, total: int) -> None:
        (tmp_path / "set" / "report.json").write_text("mine")

    source = shop(tmp_path / "shop")
    with pytest.raises(InputError, match=r"set: this folder has files .*: report.json;"):
        build(source, tmp_path / "set", progress=appear)
    assert (tmp_path / "set" / "report.json").read_text() == "mine"
    (tmp_path / "set" / "report.json").unlink()
    build(source, tmp_path / "set")


@pytest.mark.parametrize("seed", [0, 1], ids=["the same", "another"])
def test_the_rest_of_an_unfinished_build_is_replaced(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, to = shop(tmp_path / "shop"), tmp_path / "set"
    whole = build(source, tmp_path / "whole", seed=seed)
    with monkeypatch.context() as patch:  # dies before the manifest
        patch.setattr("semigrid.data.builder.write.Manifest", None)
        with pytest.raises(TypeError):
            build(source, to)
    # what a write leaves when its process is killed in the middle
    rest = to / f".train-00000.parquet.{'0' * 32}-123-456.tmp"
    rest.write_text("half")
    (to / BUILDING / f".build.json.{'0' * 32}-123-456.tmp").write_text("half")
    assert (to / "train-00000.parquet").exists() and (to / "report.json").exists()
    assert build(source, to, seed=seed) == whole
    assert sorted(os.listdir(to)) == sorted(os.listdir(tmp_path / "whole"))
    assert check_dataset(open_dataset(str(to))) == []


def test_a_claim_names_no_file_elsewhere(tmp_path: Path) -> None:
    """A folder from somebody else, with a claim that would have the build delete files."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "set" / BUILDING).mkdir(parents=True)
    claim = {"token": "", "builder": "", "files": ["../precious"]}
    (tmp_path / "set" / CLAIM).write_text(json.dumps(claim))
    with pytest.raises(InputError, match=r"this folder has files .*: \.building"):
        build(shop(tmp_path / "shop"), tmp_path / "set")
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize("second_ends", [True, False])
def test_the_second_of_two_builds_in_a_bucket_takes_over(tmp_path: Path, second_ends: bool) -> None:
    one, two = shop(tmp_path / "one"), shop(tmp_path / "two", 40)
    to = f"memory://{tmp_path.name}/set"
    found: list[str] = []

    def overtaken(done: int, total: int) -> None:
        if done > total / 2 and not found:
            found.append("interrupted")
            if second_ends:
                found.append(build(two, to))
            else:
                with pytest.raises(KeyboardInterrupt):
                    build(two, to, progress=interrupted)

    what = "ended" if second_ends else r"began \(.* process \d+, since .*\)"
    with pytest.raises(InputError, match=f"another build {what} here, so this one stops"):
        build(one, to, progress=overtaken)
    if second_ends:
        dataset = open_dataset(to)
        assert dataset.manifest.fingerprint == found[1] == build(two, tmp_path / "set")
        assert check_dataset(dataset) == []
    else:
        assert not open_storage(to).exists(MANIFEST)


def test_the_second_of_two_builds_on_a_disk_is_refused(tmp_path: Path) -> None:
    source, to = shop(tmp_path / "shop"), tmp_path / "set"

    def beside(done: int, total: int) -> None:
        with pytest.raises(InputError, match="another process is writing here"):
            build(source, to, seed=1)

    whole = build(source, tmp_path / "whole")
    assert build(source, to, progress=beside) == whole
    assert sorted(os.listdir(to)) == sorted(os.listdir(tmp_path / "whole"))
