import io
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semigrid.data.builder import chunks
from semigrid.data.builder.chunks import read_patiently
from semigrid.data.decoding import UnusableImageError
from semigrid.data.errors import InputError
from semigrid.data.sources import items as items_module
from semigrid.data.sources.archives import parquet_items, webdataset_items
from semigrid.data.sources.items import Extent, Item
from semigrid.data.storage import storage
from semigrid.data.storage.files import UnusableFileError


def test_a_file_has_a_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(items_module, "IMAGE_BYTES", 10)
    (tmp_path / "a.png").write_bytes(bytes(11))
    for inside in (None, Extent(0, 11)):
        with pytest.raises(UnusableFileError, match="larger than 10 bytes"):
            Item("a", str(tmp_path / "a.png"), inside=inside).read()
        assert Item("a", str(tmp_path / "a.png"), inside=Extent(1, 10)).read() == bytes(10)


def test_a_file_that_no_attempt_reads_is_asked_for_once() -> None:
    # three attempts would take more than a second
    for uri, why in [("/dev/zero", "not a regular file"), ("/", "Is a directory")]:
        with pytest.raises(UnusableImageError, match=why):
            read_patiently(Item("a", uri))


def images(path: Path, contents: list[bytes | None]) -> list[Item]:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": content, "path": None} for content in contents], kind)
    pq.write_table(pa.table({"image": rows}), path, row_group_size=3, compression="zstd")
    return parquet_items(str(path), label=None)


def test_rows_are_read_in_any_order(tmp_path: Path) -> None:
    contents = [b"a", b"b", None, b"d", b"e"]
    items = images(tmp_path / "a.parquet", contents)
    for number in (0, 1, 2, 3, 4, 4, 1, 0, 3):
        assert items[number].read() == (contents[number] or b"")


def test_a_row_that_unpacks_into_too_much_is_one_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(items_module, "IMAGE_BYTES", 10**6)
    small, large, other = images(tmp_path / "a.parquet", [b"a", bytes(10**7), b"c"])
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    assert (small.read(), other.read()) == (b"a", b"c")
    with pytest.raises(UnusableFileError, match="larger than 1,000,000 bytes"):
        large.read()


@pytest.mark.parametrize("items_of", [parquet_items, webdataset_items])
def test_a_pipe_is_no_archive(items_of: Callable[[str], list[Item]], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(InputError, match="pipe.tar: .*not a regular file"):
        items_of(str(tmp_path / "pipe.tar"))


def test_damaged_labels_are_told_as_such(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": b"", "path": None}] * 9, kind)
    table = pa.table({"image": rows, "label": ["a", "b", "c"] * 3})
    pq.write_table(table, tmp_path / "a.parquet", compression="none")
    whole = (tmp_path / "a.parquet").read_bytes()
    told = set()
    for at in range(100, 200):  # the pages of the labels, with their numbers of values
        (tmp_path / "a.parquet").write_bytes(whole[:at] + b"\x04" + whole[at + 1 :])
        try:
            assert len(parquet_items(str(tmp_path / "a.parquet"))) == 9
        except InputError as error:
            told.add(str(error))
    where = f"{tmp_path}/a.parquet: the column 'label'"
    assert f"{where} is damaged: it has 2 values in 9 rows" in told


def test_damaged_rows_are_told_as_such(tmp_path: Path) -> None:
    items = images(tmp_path / "a.parquet", [bytes([n]) * 3000 for n in range(3)])
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[4:60] = bytes(56)
    (tmp_path / "a.parquet").write_bytes(content)
    items_module._rows.cache_clear()
    for item in items:
        with pytest.raises(UnusableFileError, match="damaged"):
            item.read()


open_file = storage.LocalFiles.open


def failing_at(monkeypatch: pytest.MonkeyPatch, reads: set[int]) -> None:
    """A disk on which some reads of files fail, counted from 0."""
    counted = count()

    class File(io.BufferedReader):
        def read(self, size: int | None = -1) -> bytes:
            if next(counted) in reads:
                raise OSError("the host answered HTTP 503")
            return super().read(size)

    monkeypatch.setattr(storage.LocalFiles, "open", lambda *args: File(open_file(*args).detach()))


def test_an_error_of_the_network_costs_no_image(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    contents = [bytes([n]) * 3000 for n in range(12)]
    items = images(tmp_path / "a.parquet", contents)
    items_module._rows.cache_clear()
    monkeypatch.setattr(chunks.time, "sleep", lambda seconds: None)
    failing_at(monkeypatch, {0, 2, 9, 11, 15})
    assert [read_patiently(item) for item in items] == contents
    failing_at(monkeypatch, {*range(10**4)})
    items_module._rows.cache_clear()
    with pytest.raises(UnusableImageError, match="cannot be read: the host answered HTTP 503"):
        read_patiently(items[0])
    failing_at(monkeypatch, set())
    assert read_patiently(items[1]) == contents[1]


@pytest.mark.parametrize("items_of", [parquet_items, webdataset_items])
def test_an_archive_whose_storage_fails_is_not_called_damaged(
    items_of: Callable[[str], list[Item]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{'tar' if items_of is webdataset_items else 'parquet'}"
    path.write_bytes(bytes(1000))
    failing_at(monkeypatch, {*range(10**4)})
    with pytest.raises(InputError, match=f"{path}: cannot be read: the host answered HTTP 503"):
        items_of(str(path))
