import errno
import os
import pickle
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

from semigrid.data.errors import InputError, StorageGoneError
from semigrid.data.storage import Storage, cache_folder, open_storage
from semigrid.data.storage.bucket import BucketFiles
from semigrid.data.storage.files import UnusableFileError
from semigrid.data.storage.local import MOST_LINKS, LocalFiles
from semigrid.data.storage.storage import storage_patience


@pytest.fixture(params=["folder", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_storage(tmp_path / "store")
    return open_storage(f"memory://{uuid.uuid4().hex}")


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
    open_storage(storage.uri).write("two", b"")
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
    assert open_storage(storage.uri).read("file") == b"content"
    assert pickle.loads(pickle.dumps(storage)).read("file") == b"content"


def test_check_writable_leaves_nothing_behind(storage: Storage) -> None:
    storage.check_writable()
    assert storage.names("") == []


def test_check_writable_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError):
        open_storage(tmp_path / "file" / "folder").check_writable()


def test_a_write_that_fails_leaves_the_old_content_and_no_litter(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write("file", b"old")
    with pytest.raises(TypeError):
        storage.write("file", "text is no bytes")  # type: ignore[arg-type]
    assert storage.read("file") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_writer_left_is_not_listed(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write("a.json", b"")
    (tmp_path / ".a.json.0123.tmp").write_bytes(b"half of")
    assert storage.names("") == ["a.json"]


def test_relative_paths_are_fixed_when_the_storage_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray's workers run in another folder
    monkeypatch.chdir(tmp_path)
    storage = open_storage("results")
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
    storage = Storage(BucketFiles(FarFileSystem(), str(tmp_path)), str(tmp_path))
    FarFile.fetched.clear()
    with storage.open("a.parquet") as file:
        rows = pq.ParquetFile(file).read_row_group(4)
    assert rows["label"].to_pylist() == list(range(40, 50))
    # ten images of a hundred, and what Parquet says of itself at its end
    assert 100_000 < sum(FarFile.fetched) < 200_000


def move_away(folder: Path, times: int, enough: threading.Event, stop: threading.Event) -> None:
    """Moves a folder away for a moment and back, again and again; notes if it was made anew.

    So many times, and until there was enough of it: a slow disk may need longer.
    """
    away, deadline = folder.with_name("away"), time.monotonic() + 60
    while times > 0 or not enough.is_set():
        assert time.monotonic() < deadline, "nothing is written between the moves"
        times -= 1
        os.rename(folder, away)
        time.sleep(0.3)
        assert not folder.exists(), "something was written at the vanished place"
        os.rename(away, folder)
        time.sleep(0.2)
    stop.set()


def test_storage_that_vanishes_for_a_while_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    open_storage(folder).write("experiment.yaml", b"")
    # as Ray hands it on, and a folder below: both keep their patience
    storage = pickle.loads(pickle.dumps(open_storage(folder, patience=30)))
    checkpoints = storage.folder("checkpoints", "one")
    checkpoints.write("fixed", b"always here")
    enough, stop, written = threading.Event(), threading.Event(), 0
    with ThreadPoolExecutor(1) as pool:
        mover = pool.submit(move_away, folder, 6, enough, stop)
        while not stop.is_set() and not mover.done():
            checkpoints.write("latest", str(written).encode())
            storage.write(f"ledger/{written}.json", b"{}")
            assert checkpoints.read("latest") == str(written).encode()
            assert checkpoints.exists("fixed") and checkpoints.names("") == ["fixed", "latest"]
            assert not storage.exists("nowhere") and storage.names("nowhere") == []
            storage.write("gone", b"")
            storage.delete("gone")
            assert not storage.exists("gone")
            written += 1
            if written > 5:
                enough.set()
        mover.result()
    names = {path.name for path in folder.rglob("*") if not path.name.startswith(".")}
    assert {f"{n}.json" for n in range(written)} <= names


def test_a_missing_file_in_patient_storage_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    storage = open_storage(tmp_path, patience=60)
    started = time.monotonic()
    with pytest.raises(FileNotFoundError):
        storage.read("nowhere")
    with pytest.raises(NotADirectoryError):
        storage.write("file/below", b"")
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("place", ["missing", "an empty mount point"])
def test_patience_ends_with_one_clear_error_and_nothing_made(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    if place != "missing":
        folder.mkdir()
    storage = open_storage(folder, patience=0.2)
    for work in (
        lambda: storage.read("file"),
        lambda: storage.folder("a").write("file", b""),
        lambda: storage.exists("file"),
        lambda: storage.names("ledger"),
        lambda: storage.delete("file"),
    ):
        started = time.monotonic()
        with pytest.raises(StorageGoneError, match=r"has been away for 0\.2 seconds") as error:
            work()
        assert str(folder) in str(error.value)
        assert 0.1 < time.monotonic() - started < 2
    assert [path.name for path in tmp_path.rglob("*")] == (["store"] if folder.exists() else [])


class Flaky(LocalFileSystem):
    """A local folder that answers with an error so many times first."""

    protocol = "flaky"
    errors: ClassVar[list[Exception]] = []

    def cat_file(self, path: str, **how: Any) -> bytes:
        if self.errors:
            raise self.errors.pop()
        return bytes(super().cat_file(path, **how))


class StrangeError(Exception):
    """As some library has it: no OSError."""


def test_errors_of_libraries_are_oserrors(tmp_path: Path) -> None:
    storage = Storage(BucketFiles(Flaky(), str(tmp_path)), str(tmp_path), 20)
    for error in (StrangeError("https://SECRET@h/a?sig=SECRET"), NotImplementedError("no lists")):
        Flaky.errors[:] = [error]
        with pytest.raises(OSError, match=f"{type(error).__name__}: ") as raised:
            storage.read("file")
        assert "SECRET" not in str(raised.value) and str(tmp_path) in str(raised.value)
    Flaky.errors[:] = [KeyError("a mistake of our own")]
    with pytest.raises(KeyError):
        storage.read("file")


class HTTPClientError(Exception):
    """As botocore has it: no OSError."""


class EndpointConnectionError(HTTPClientError):
    """As botocore has it."""


@pytest.mark.parametrize(
    ("error", "waited_for"),
    [
        (OSError(errno.ESTALE, "stale file handle"), True),
        (OSError(errno.ETIMEDOUT, "timed out"), True),
        (ConnectionResetError("by peer"), True),
        (TimeoutError(), True),
        (EndpointConnectionError("endpoint"), True),
        (OSError(errno.ENOSPC, "no space left"), False),
        (OSError(errno.EDQUOT, "quota"), False),
        (PermissionError(errno.EACCES, "denied"), False),
    ],
)
def test_only_what_passes_is_waited_for(error: Exception, waited_for: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    storage = Storage(BucketFiles(Flaky(), str(tmp_path)), str(tmp_path), 20)
    Flaky.errors[:] = [error, error]
    if waited_for:
        assert storage.read("file") == b"content"
        return
    started = time.monotonic()
    with pytest.raises(type(error)):
        storage.read("file")
    assert time.monotonic() - started < 1
    Flaky.errors.clear()


@pytest.mark.parametrize(("number", "passes"), [(errno.ESTALE, True), (errno.ENOSPC, False)])
def test_a_local_disks_errors_are_told_apart(number: int, passes: bool, tmp_path: Path) -> None:
    asked = []

    def confirm() -> None:
        asked.append(number)
        if len(asked) == 1:
            raise OSError(number, os.strerror(number))

    storage = Storage(LocalFiles(), str(tmp_path), 20, confirm)
    if passes:
        storage.write("file", b"content")
        assert storage.read("file") == b"content" and len(asked) == 2
    else:
        with pytest.raises(OSError, match="No space left"):
            storage.write("file", b"content")
        assert len(asked) == 1 and list(tmp_path.iterdir()) == []


def test_a_swap_needs_the_content_that_was_read(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    assert storage.swap("file", None, b"one")
    assert not storage.swap("file", None, b"two")
    assert storage.swap("file", b"one", b"three")
    assert not storage.swap("file", b"one", b"four")
    assert storage.read("file") == b"three"
    assert not storage.swap("file", b"two", None)
    assert storage.swap("file", b"three", None) and storage.names() == []


def test_all_files_below_a_folder(storage: Storage) -> None:
    for name in ("a/1.tar", "a/[b] c/3 #?.tar", "4.tar", ".hidden/5.tar", "a/Thumbs.db"):
        storage.write(name, b"")
    found = storage.walk()
    assert list(found) == sorted(found)
    assert [n for n, why in found.items() if why is None] == [
        "4.tar",
        "a/1.tar",
        "a/[b] c/3 #?.tar",
    ]
    assert {why for why in found.values() if why} == {"hidden files and folders"}


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "disk/birds").mkdir(parents=True)
    (tmp_path / "disk/birds/1.png").write_bytes(b"")
    (tmp_path / "photos/cats").mkdir(parents=True)
    for link, target in [
        ("photos/birds", "../disk/birds"),
        ("photos/one.png", "birds/1.png"),
        ("disk/birds/photos", "../../photos"),
        ("photos/itself", "itself"),
        ("photos/gone.png", "nowhere"),
    ]:
        (tmp_path / link).symlink_to(target)
    os.mkfifo(tmp_path / "photos/cats/pipe.png")
    (tmp_path / "photos/to-pipe.png").symlink_to("cats/pipe.png")
    found = open_storage(tmp_path / "photos").walk()
    assert found == {
        "birds/1.png": None,
        "birds/photos": "links in a circle",
        "cats/pipe.png": "pipes, sockets and devices",
        "gone.png": "links that lead nowhere",
        "itself": "links that lead nowhere",
        "one.png": None,
        "to-pipe.png": "pipes, sockets and devices",
    }


def test_links_to_links_do_not_multiply_without_end(tmp_path: Path) -> None:
    for level in range(20):  # 2^20 ways to the last folder
        (tmp_path / f"{level}").mkdir()
        for way in "ab":
            (tmp_path / f"{level}" / way).symlink_to(f"../{level + 1}")
    (tmp_path / "20").mkdir()
    (tmp_path / "20/x.png").write_bytes(b"")
    found = open_storage(tmp_path / "0").walk()
    assert sum(why is None for why in found.values()) <= MOST_LINKS


def test_what_never_ends_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UnusableFileError, match="not a regular file"):
            open_storage(path).read(limit=10)
        with pytest.raises(UnusableFileError, match="not a regular file"):
            open_storage(path).open()
    (tmp_path / "large").write_bytes(bytes(11))
    with pytest.raises(UnusableFileError, match="larger than 10 bytes"):
        open_storage(tmp_path / "large").read(limit=10)
    assert open_storage(tmp_path / "large").read(limit=11) == bytes(11)


def test_patience_is_set_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage_patience() == 120
    monkeypatch.setenv("SEMIGRID_STORAGE_PATIENCE", "7.5")
    assert storage_patience() == 7.5
    for wrong in ("soon", "-1", "inf", "nan"):
        monkeypatch.setenv("SEMIGRID_STORAGE_PATIENCE", wrong)
        with pytest.raises(InputError, match=f"SEMIGRID_STORAGE_PATIENCE={wrong}"):
            storage_patience()


def test_what_is_kept_stays_when_the_first_name_is_written_again(storage: Storage) -> None:
    for content in (b"one", b"two", b"three"):
        storage.write("latest", content)
        assert storage.read("latest") == content
        storage.keep("latest", "previous")
    storage.write("latest", b"four")
    assert storage.read("previous") == b"three"


def test_a_size_is_of_a_file_that_is_there(storage: Storage) -> None:
    storage.write("a/file", b"12345")
    assert storage.size("a/file") == 5
    assert storage.size("a/none") is None


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "a/../../secret", ".."])
def test_no_name_leads_out_of_the_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    storage = open_storage(tmp_path / "folder")
    storage.write("a/file", b"")
    attempts: list[Callable[[], object]] = [
        lambda: storage.read(name),
        lambda: storage.open(name),
        lambda: storage.exists(name),
        lambda: storage.write(name, b""),
        lambda: storage.delete(name),
        lambda: storage.folder("a").swap(f"../{name}", None, b""),
    ]
    for attempt in attempts:
        with pytest.raises(InputError, match="is no name of a file in this folder"):
            attempt()
    assert storage.location("/etc/passwd") == f"{tmp_path}/folder//etc/passwd"
    assert (tmp_path / "secret").read_bytes() == b"secret"


def test_names_in_the_root() -> None:
    assert open_storage("/").location("a") == "/a" and open_storage("/").exists("etc")
    assert open_storage("data:x/a::b").uri == f"{os.getcwd()}/data:x/a::b"


def test_the_cache_is_made_for_its_user_alone_and_a_shared_one_stays_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, shared = tmp_path / "of/me", tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    before = os.umask(0)
    try:
        for folder in (made, shared):
            monkeypatch.setenv("SEMIGRID_CACHE", str(folder))
            assert cache_folder() == folder
    finally:
        os.umask(before)
    assert (made.stat().st_mode & 0o777, shared.stat().st_mode & 0o777) == (0o700, 0o777)
