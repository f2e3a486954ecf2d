"""Every kind of source, with every kind of file in it."""

import json
from pathlib import Path

import pytest
from tests.helpers.command import semigrid
from tests.hostile.sources import SOUND, SOURCES, bad, good
from tests.hostile.watch import Watch

from semigrid.grid.predict.images import find_images


@pytest.mark.parametrize("source", SOURCES)
def test_good_images_are_kept_and_bad_ones_named_and_nothing_else_is_touched(
    source: str, tmp_path: Path
) -> None:
    images = {**good(), **bad()}
    args = SOURCES[source](tmp_path, images)
    with Watch(tmp_path):
        done = semigrid("data", "build", *args, "set", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "set/report.json").read_text())
    assert report["images"] == len(SOUND) + len(images)
    assert len(report["quarantined"]) == len(bad()), report["quarantined"]
    assert report["kept"] + len(report["duplicates"]) == len(SOUND) + len(good())
    assert semigrid("data", "check", "set", cwd=tmp_path).returncode == 0


def test_a_prediction_sets_the_same_files_aside(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    for name, content in {**good(), **bad()}.items():
        (folder / name).write_bytes(content)
    with Watch(tmp_path):
        parts = find_images([str(folder)]).parts.values()
        found = {name: problem for part in parts for name, _, problem in part.decoded()}
    assert {name for name, problem in found.items() if problem is None} == set(good())
    assert {name for name, problem in found.items() if problem} == set(bad())
