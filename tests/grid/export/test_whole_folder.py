"""A folder that is written whole or not at all."""

import os
from pathlib import Path

import pytest

from semigrid.data.errors import InputError
from semigrid.grid.export.whole_folder import whole_or_not


def export(target: Path, content: str) -> None:
    with whole_or_not(target, ["file"]) as folder:
        (folder / "file").write_text(content)


def test_an_export_that_fails_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "export"
    export(target, "first")
    rename = Path.rename

    def full_disk(self: Path, to: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(28, os.strerror(28))
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(OSError, match="No space left"):
        export(target, "second")
    monkeypatch.undo()
    assert (target / "file").read_text() == "first"
    export(target, "third")
    assert (target / "file").read_text() == "third" and list(tmp_path.iterdir()) == [target]


def test_what_was_put_there_meanwhile_stays(tmp_path: Path) -> None:
    target = tmp_path / "export"
    for replaced, words in (([], "not empty"), (["file"], "there is more in this folder .notes")):
        with (
            pytest.raises(InputError, match=f"{target}: .*{words}"),
            whole_or_not(target, replaced) as folder,
        ):
            (folder / "file").write_text("")
            target.mkdir(exist_ok=True)
            (target / "notes").write_text("mine")
        assert list(tmp_path.iterdir()) == [target]
        assert [(file.name, file.read_text()) for file in target.iterdir()] == [("notes", "mine")]


def test_the_folder_has_the_mode_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    export(tmp_path / "export", "")
    assert (tmp_path / "export").stat().st_mode == (tmp_path / "other").stat().st_mode
