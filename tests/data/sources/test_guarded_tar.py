import io
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.shop import tile

from semigrid.data.errors import InputError
from semigrid.data.sources.archives import webdataset_items
from semigrid.data.sources.left_out import LeftOut

END = bytes(1024)


def header(name: bytes, size: bytes | int, kind: bytes = b"0", sparse: int | None = None) -> bytes:
    """A member's header in GNU's format; a size of 12 bytes stands as it is."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    block[124:136] = b"%011o\0" % size if isinstance(size, int) else size
    block[136:156] = b"00000000000\0" + b" " * 8
    block[156:157] = kind
    block[257:265] = b"ustar  \0"
    if sparse is not None:
        block[386:410] = b"00000000000\0" * 2
        block[483:495] = b"\x80" + sparse.to_bytes(11, "big")
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def binary(size: int) -> bytes:
    return (b"\xff" if size < 0 else b"\x80") + size.to_bytes(11, "big", signed=True)


def extended(content: bytes, kind: bytes = b"x") -> bytes:
    """A header that tells more of the next member, such as its long name."""
    return header(b"more", len(content), kind) + content + bytes(-len(content) % 512)


def member(name: str, content: bytes) -> bytes:
    return header(name.encode(), len(content)) + content + bytes(-len(content) % 512)


GOOD = member("a.png", tile(0)) + member("a.cls", b"cat")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (header(b"b.png", binary(-512)), ""),
        (header(b"b.png", binary(-1)), ""),
        (header(b"b.png", binary(-(2**80))), ""),
        (header(b"b.png", binary(2**80)), ""),
        (extended(b"9" * 100_000 + b" x") + header(b"b.png", 0), "no program writes"),
        (extended(b"1 hdrcharset=" * 8_000) + header(b"b.png", 0), "no program writes"),
        (extended(b"n" * 2_000_000, b"L") + header(b"b.png", 0), "header of more than"),
        (extended(b"", b"L") * 2_000 + header(b"b.png", 0), ""),
        (header(b"more", 40 * 2**30, b"x"), "header of more than"),
        (header(b"more", 40 * 2**30, b"L"), "header of more than"),
        (b"\xff" * 512, "damaged"),
        (GOOD[:300], "damaged"),
        (header(b"b.png", 10**6), "unexpected end"),
    ],
)
def test_a_small_tar_that_asks_for_much_is_refused_at_once(
    content: bytes, why: str, tmp_path: Path
) -> None:
    path = tmp_path / "0.tar"
    path.write_bytes(GOOD + content + END)
    if why == "damaged":
        path.write_bytes(GOOD + content)
    started = time.monotonic()
    with pytest.raises(InputError, match=f"0.tar: not an uncompressed tar: .*{why}"):
        webdataset_items(str(path))
    assert time.monotonic() - started < 1


def test_members_that_cannot_be_read_are_left_out_and_the_others_kept(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    sparse = header(b"s.png", 512, b"S", sparse=40 * 2**30) + bytes(512)
    path.write_bytes(sparse + member("h.heic", b"") + member("._a.png", b"") + GOOD + END)
    left_out = LeftOut()
    (item,) = webdataset_items(str(path), left_out=left_out)
    assert (item.image_id, item.label, item.read()) == ("0.tar/a", "cat", tile(0))
    assert left_out.lines() == [
        f"left out: 1 members of tars that are sparse, the first is {path}: s.png",
        f"left out: 1 images of a format that is not decoded, the first is {path}: h.heic",
        f"left out: 1 hidden files and folders, the first is {path}: ._a.png",
    ]


def test_a_comment_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    comment = b"200000 comment=".ljust(199_999, b"-") + b"\n"
    path.write_bytes(extended(comment) + GOOD + END)
    assert [item.label for item in webdataset_items(str(path))] == ["cat"]


def test_members_of_the_working_directory_are_not_hidden(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    path.write_bytes(member("./a.png", tile(0)) + member("./a.json", b'{"kind": "cat"}') + END)
    assert [item.label for item in webdataset_items(str(path), "kind")] == ["cat"]


def test_names_of_members_may_be_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    path.write_bytes(
        header(b"caf\xe9.png", 0) + header(b"caf\xe9.cls", 2) + b"\xe9!".ljust(512, b"\0")
    )
    (item,) = webdataset_items(str(path))
    assert (item.image_id, item.label) == (r"0.tar/caf\xe9", "\ufffd!")


def test_what_tar_and_python_write_is_read(tmp_path: Path) -> None:
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "0.tar", "w", format=format) as tar:
            for number in range(30):
                stem = "ü" * 30 + "/" + f"{number:03d}" * 10
                for name, content in ((f"{stem}.png", tile(number)), (f"{stem}.cls", b"1")):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        items = webdataset_items(str(tmp_path / "0.tar"))
        assert [item.read() for item in items] == [tile(number) for number in range(30)]


@pytest.mark.parametrize("folder", ["shards [v2]", "a*b", "c?", "d::e"])
def test_a_folder_is_itself_rather_than_a_pattern(folder: str, tmp_path: Path) -> None:
    for name in ("0.tar", "1.tar", "[2].tar"):
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(GOOD + END)
    for uri, found in [("", 3), ("/0.tar", 1), ("/[01].tar", 2), ("/[2].tar", 1), ("/*.tar", 3)]:
        assert len(webdataset_items(f"{tmp_path}/{folder}{uri}")) == found
    assert len(webdataset_items(f"{tmp_path}/**/*.tar")) == 3
    assert len(webdataset_items(f"{tmp_path}/*/1.tar")) == 1


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to write over for each example."""
    return tmp_path_factory.mktemp("tar") / "0.tar"


@given(at=st.integers(0, len(GOOD) - 1), content=st.binary(min_size=1, max_size=20))
def test_no_damage_makes_it_fall_over(at: int, content: bytes, damaged: Path) -> None:
    damaged.write_bytes(GOOD[:at] + content + GOOD[at + len(content) :] + END)
    try:
        for item in webdataset_items(str(damaged)):
            item.read()
    except InputError as error:
        assert "0.tar" in str(error)
