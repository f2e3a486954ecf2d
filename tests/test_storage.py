import pickle
import uuid
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

from data.storage import Storage


@pytest.fixture(params=["folder", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return Storage(tmp_path / "store")
    return Storage(f"memory://{uuid.uuid4().hex}")


def test_what_was_written_is_read(storage: Storage) -> None:
    assert not storage.exists("a/b.json")
    storage.write("a/b.json", b"one")
    assert storage.exists("a/b.json")
    assert storage.read("a/b.json") == b"one"
    assert storage.folder("a").read("b.json") == b"one"


def test_writing_again_replaces_the_whole_file(storage: Storage) -> None:
    storage.write("file", b"a long first content")
    storage.write("file", b"short")
    assert storage.read("file") == b"short"
    assert storage.names("") == ["file"]


def test_names_are_sorted_and_chosen_by_suffix(storage: Storage) -> None:
    for name in ("trials/b.json", "trials/a.json", "trials/c.txt"):
        storage.write(name, b"")
    assert storage.names("trials") == ["a.json", "b.json", "c.txt"]
    assert storage.names("trials", ".json") == ["a.json", "b.json"]
    assert storage.names("nowhere") == []


def test_names_are_of_files_not_of_folders(storage: Storage) -> None:
    storage.write("file", b"")
    storage.write("folder/file", b"")
    assert storage.names("") == ["file"]


def test_names_sees_what_another_process_wrote(storage: Storage) -> None:
    storage.write("one", b"")
    assert storage.names("") == ["one"]
    Storage(storage.uri).write("two", b"")
    assert storage.names("") == ["one", "two"]


def test_a_missing_file_is_an_error(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read("nowhere")


def test_delete_takes_files_and_folders(storage: Storage) -> None:
    storage.write("a/one", b"")
    storage.write("a/two", b"")
    storage.write("b", b"")
    storage.delete("a/one")
    assert storage.names("a") == ["two"]
    storage.delete("a")
    assert not storage.exists("a")
    storage.delete("a")  # nothing is there: nothing happens
    assert storage.read("b") == b""
    storage.delete("")
    assert not storage.exists()


def test_the_uri_leads_to_the_same_place(storage: Storage) -> None:
    storage.write("file", b"content")
    assert Storage(storage.uri).read("file") == b"content"
    assert pickle.loads(pickle.dumps(storage)).read("file") == b"content"


def test_check_writable_leaves_nothing_behind(storage: Storage) -> None:
    storage.check_writable()
    assert storage.names("") == []


def test_check_writable_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError):
        Storage(tmp_path / "file" / "folder").check_writable()


def test_a_write_that_fails_leaves_the_old_content_and_no_litter(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.write("file", b"old")
    with pytest.raises(TypeError):
        storage.write("file", "text is no bytes")  # type: ignore[arg-type]
    assert storage.read("file") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_writer_left_is_not_listed(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.write("a.json", b"")
    (tmp_path / ".a.json.0123.tmp").write_bytes(b"half of")
    assert storage.names("") == ["a.json"]


def test_relative_paths_are_fixed_when_the_storage_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray's workers run in another folder
    monkeypatch.chdir(tmp_path)
    storage = Storage("results")
    assert storage.uri == str(tmp_path / "results")


class FarFile(AbstractBufferedFile):
    """Reads a local file in requests, as files in buckets are read, and notes what it fetched."""

    fetched: ClassVar[list[int]] = []

    def _fetch_range(self, start: int, end: int) -> bytes:
        self.fetched.append(end - start)
        return Path(self.path).read_bytes()[start:end]


class FarFileSystem(LocalFileSystem):
    """A local folder behind a network."""

    protocol = "far"

    def _open(self, path: str, mode: str = "rb", **how: Any) -> FarFile:
        return FarFile(self, path, mode, size=Path(path).stat().st_size, **how)


def test_of_a_file_in_a_bucket_only_the_parts_asked_for_are_read(tmp_path: Path) -> None:
    images = pa.array([bytes(10_000)] * 100, pa.binary())
    table = pa.table({"label": list(range(100)), "image": images})
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10, **plain)
    storage = Storage(tmp_path)
    storage.fs, storage.is_local = FarFileSystem(), False
    FarFile.fetched.clear()
    with storage.open("a.parquet") as file:
        rows = pq.ParquetFile(file).read_row_group(4)
    assert rows["label"].to_pylist() == list(range(40, 50))
    # ten images of a hundred, and what Parquet says of itself at its end
    assert 100_000 < sum(FarFile.fetched) < 200_000
