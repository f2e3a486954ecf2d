"""Where hashes are kept, and when a file is read again."""

import hashlib
import os
import tempfile
from pathlib import Path

import pytest

from semigrid.data.storage.hashes import file_hash


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary directory's folder of hashes, which stands in for a cache that is a file."""
    (tmp_path / "cache").touch()
    monkeypatch.setenv("SEMIGRID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path / f"semigrid-hashes-{os.getuid()}"


def hashes(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hash of a file, twice, and what was read of it."""
    read: list[str] = []
    real = hashlib.file_digest

    def digest(file: object, kind: str) -> object:
        read.append(kind)
        return real(file, kind)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", digest)
        assert {file_hash(str(path)) for _ in range(2)} == {hashlib.sha256(b"words").hexdigest()}
    return read


def test_without_a_cache_hashes_are_kept_in_the_temporary_directory(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"words")
    assert len(hashes(tmp_path / "file", monkeypatch)) == 1
    assert temporary.stat().st_mode & 0o777 == 0o700


def test_a_folder_there_that_others_can_write_is_not_believed(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"words")
    temporary.mkdir()
    temporary.chmod(0o777)
    assert len(hashes(tmp_path / "file", monkeypatch)) == 2
    assert list(temporary.iterdir()) == []
    temporary.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    temporary.symlink_to(tmp_path / "elsewhere")
    assert len(hashes(tmp_path / "file", monkeypatch)) == 2
