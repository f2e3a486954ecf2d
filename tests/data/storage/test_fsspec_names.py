"""The names of fsspec and s3fs that storage relies on: what to look at when they are upgraded."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import s3fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

from semigrid.data.storage import open_storage
from semigrid.data.storage.bucket import S3_OPTIONS, BucketFiles


class FarFile(AbstractBufferedFile):
    """Reads a local file in requests."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return Path(self.path).read_bytes()[start:end]


class FarFileSystem(LocalFileSystem):
    """A local folder behind a network."""

    protocol = "far"

    def _open(self, path: str, mode: str = "rb", **how: Any) -> FarFile:
        return FarFile(self, path, mode, size=Path(path).stat().st_size, **how)


def test_s3_options_are_parameters_of_s3fs() -> None:
    parameters = inspect.signature(s3fs.S3FileSystem.__init__).parameters
    assert "config_kwargs" in parameters
    # taken by fsspec's base class from the remaining ones
    fs = s3fs.S3FileSystem(**S3_OPTIONS, skip_instance_cache=True)
    assert fs.dircache.use_listings_cache is False


def test_retries_is_how_often_s3fs_asks_again() -> None:
    assert isinstance(s3fs.S3FileSystem.retries, int)
    assert "retries" in inspect.getsource(s3fs.S3FileSystem._call_s3)


def test_s3fs_reads_in_one_request_with_max_concurrency_1() -> None:
    source = inspect.getsource(s3fs.S3FileSystem._cat_file)
    assert "(max_concurrency or self.max_concurrency) > 1" in source


def test_s3fs_hands_conditions_on_to_a_put() -> None:
    parameters = inspect.signature(s3fs.S3FileSystem._pipe_file).parameters
    assert "mode" in parameters and "kwargs" in parameters


def test_stores_other_than_s3_create_what_is_not_there() -> None:
    files = BucketFiles(fsspec.filesystem("memory"), "/locks")
    for content in (b"one", b"two"):
        files._put_if_unchanged("/locks/lock.json", content, None, None)
    assert files.read("/locks/lock.json") == b"one"


def test_a_version_is_told_by_a_field_of_info() -> None:
    storage = open_storage("memory://versions")
    storage.write("file", b"one")
    first = storage.version("file")
    storage.write("file", b"two")
    assert storage.version("file") != first


def test_the_fetcher_of_a_files_cache_makes_its_requests(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    path, asked = str(tmp_path / "file"), []

    def do(fetch: Callable[[int, int], bytes], start: int, end: int) -> bytes:
        asked.append((start, end))
        return fetch(start, end)

    file = BucketFiles(FarFileSystem(), str(tmp_path)).open(path, False, do)
    assert file.read(3) == b"012" and asked == [(0, 3)]


def test_cache_type_none_fetches_what_is_asked_for_alone() -> None:
    assert "none" in fsspec.caching.caches and "readahead" in fsspec.caching.caches
