"""The collection of nasty inputs: add what was reported next to the end of its list.

An attack makes its files in an empty folder and gives the command that meets them. What is right is
an exit code, and words that the command's output must have: the file, the value, what is allowed.
"""

import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.helpers.shop import tile
from tests.hostile.sources import class_folders, table

from semigrid.data.catalog import open_dataset

BUILD = ("data", "build")
REFUSED = 2


@dataclass(frozen=True)
class Attack:
    """``right`` are exit codes, ``says`` what the output must hold, as regular expressions."""

    name: str
    command: Callable[[Path], list[str]]
    right: tuple[int, ...] = (0,)
    says: tuple[str, ...] = ()


def _with_rows(*rows: str, name: str = "table.csv") -> Callable[[Path], list[str]]:
    """A table of sound images and these rows."""

    def make(folder: Path) -> list[str]:
        table(folder, {})
        with open(folder / "table.csv", "a", encoding="utf-8") as file:
            file.writelines(f"{row}\n" for row in rows)
        if name != "table.csv":
            (folder / "table.csv").rename(folder / name)
        return [*BUILD, name, "set"]

    return make


def _text(content: str | bytes, name: str, *options: str) -> Callable[[Path], list[str]]:
    """This file, beside sound photographs in ``photos``."""

    def make(folder: Path) -> list[str]:
        class_folders(folder, {})
        encoded = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        (folder / name).write_bytes(encoded)
        return [*BUILD, *(options or (name,)), "set"]

    return make


def _beside(make: Callable[[Path], None]) -> Callable[[Path], list[str]]:
    """Sound class folders, and what ``make`` puts into the one of the dots."""

    def command(folder: Path) -> list[str]:
        class_folders(folder, {})
        make(folder / "photos/dots")
        return [*BUILD, "photos", "set"]

    return command


def _header(name: bytes, size: bytes, kind: bytes = b"0", *more: tuple[int, bytes]) -> bytes:
    header = bytearray(512)
    parts = [(0, name), (100, b"0000644\0"), (124, size), (136, b"00000000000\0"), (148, b" " * 8)]
    for at, part in (*parts, (156, kind), (257, b"ustar  \0"), *more):
        header[at : at + len(part)] = part
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


_END = b"\0" * 1024
_NEGATIVE = b"\xff" + (-512).to_bytes(11, "big", signed=True)
_LONG = b"9" * 200_000 + b" x"
_SPARSE = (386, b"00000000000\0" * 2), (483, b"\x80" + (40 * 2**30).to_bytes(11, "big"))
TARS = {
    "negative": _header(b"a.png", b"00000000000\0") + _header(b"b.png", _NEGATIVE) + _END,
    "first-negative": _header(b"b.png", _NEGATIVE) + _END,
    "quadratic": _header(b"pax", b"%011o\0" % len(_LONG), b"x") + _LONG + b"\0" * 510 + _END,
    "sparse": _header(b"s.json", b"00000001000\0", b"S", *_SPARSE) + b"\0" * 512 + _END,
    "empty": b"",
    "zeros": b"\0" * 10240,
}


def _socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(folder / "socket.jpg"))


def _loop(folder: Path) -> None:
    (folder / "again").symlink_to("..")


def _large(folder: Path) -> None:
    with open(folder / "large.jpg", "wb") as file:
        file.truncate(2**36)


def _latin(folder: Path) -> None:
    """A file whose name is not UTF-8."""
    name = os.fsdecode(b"caf\xe9.png")
    (folder / name).write_bytes(tile(99))


def _dataset(**changes: object) -> Callable[[Path], list[str]]:
    """``data show`` of a dataset whose manifest says something else."""

    def make(folder: Path) -> list[str]:
        shutil.copytree(open_dataset("builtin://digits").storage.uri, folder / "set")
        manifest = json.loads((folder / "set/dataset.json").read_text()) | changes
        (folder / "set/dataset.json").write_text(json.dumps(manifest))
        return ["data", "show", "set"]

    return make


def _elsewhere(file: str) -> Callable[[Path], list[str]]:
    """A manifest whose first shard is this file."""

    def make(folder: Path) -> list[str]:
        made = Path(open_dataset("builtin://digits").storage.uri)
        manifest = json.loads((made / "dataset.json").read_text())
        manifest["shards"][0]["file"] = file
        _dataset(shards=manifest["shards"])(folder)
        return ["data", "check", "set"]

    return make


def _own(name: str, content: bytes | None = b"mine") -> Callable[[Path], list[str]]:
    """A file (or folder, without content) of the user's own in DEST."""

    def make(folder: Path) -> list[str]:
        class_folders(folder, {})
        place = folder / "set" / name
        place.parent.mkdir(parents=True)
        place.write_bytes(content) if content is not None else place.mkdir()
        return [*BUILD, "photos", "set"]

    return make


ADDRESSES = {
    "reference": "reference://x.png::http://127.0.0.1:1/refs.json",
    "chain": "simplecache::http://127.0.0.1:1/x.png",
    "zip": "zip://x.png::http://127.0.0.1:1/x.zip",
    "file": "file:///etc/hostname",
    "memory": "memory://x.png",
    "ssh": "sftp://127.0.0.1:1/x.png",
    "data": "data:image/png;base64,AAAA",
    "github": "github://a:b@main/x.png",
    "unknown": "nowhere://x.png",
}

YAML = {
    "deep": "source: photos\nclasses: " + "[" * 3000,
    "date": "source: photos\nname: 2001-99-99\n",
    "whole": "source: photos\nseed: " + "9" * 5000,
    "twice": "source: photos\nseed: 1\nseed: 2\n",
    "itself": "source: photos\npool: &a [*a]\n",
    "surrogate": 'source: photos\nname: "\\ud800"\n',
    "object": "source: !!python/object/apply:os.system [true]\n",
    "laughs": "source: photos\na: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in pairwise("abcdefgh")),
    "binary": "\0\1\2",
    "list": "- 1\n- 2\n",
}

ATTACKS = [
    *(
        Attack(f"address-{name}", _with_rows(f"{address},dots"), (0, REFUSED))
        for name, address in ADDRESSES.items()
    ),
    Attack("device", _with_rows("/dev/zero,dots"), (0,), ("1 file",)),
    Attack("process", _with_rows("/proc/self/mem,dots"), (0, REFUSED)),
    Attack("directory", _with_rows("/etc,dots"), (0,)),
    Attack("pipe", _beside(lambda folder: os.mkfifo(folder / "pipe.jpg"))),
    Attack("socket", _beside(_socket)),
    Attack("loop", _beside(_loop)),
    Attack("huge", _beside(_large)),
    Attack("dead-link", _beside(lambda folder: (folder / "gone.jpg").symlink_to("nowhere")), (0,)),
    Attack("unreadable-name", _beside(_latin), (0, REFUSED)),
    *(
        Attack(f"tar-{name}", _text(content, "x.tar"), (REFUSED,), (r"x\.tar",))
        for name, content in TARS.items()
    ),
    *(
        Attack(f"yaml-{name}", _text(content, "build.yaml"), (REFUSED,), (r"build\.yaml",))
        for name, content in YAML.items()
    ),
    *(
        Attack(f"shard-{number}", _elsewhere(file), (1, REFUSED), ("dataset.json",))
        for number, file in enumerate(("../../etc/passwd", "/etc/passwd", "", ".", "a/../../x"))
    ),
    Attack("no-classes", _dataset(classes=[]), (REFUSED,), ("dataset.json",)),
    Attack("classes-twice", _dataset(classes=["0"] * 10), (REFUSED,), ("dataset.json",)),
    Attack("format", _dataset(format=10**400), (REFUSED,), ("dataset.json",)),
    Attack("negative-pool", _dataset(pool=-1), (REFUSED,), ("dataset.json",)),
    Attack("control", _dataset(license="CC0\x1b]0;x\x07\x1b[2J", name="\u202e"), (0, REFUSED)),
    Attack("markup", _dataset(license="[/i] [v2]"), (0,), (re.escape("[/i] [v2]"),)),
    *(
        Attack(f"own-{name}", _own(name), (REFUSED,), (re.escape(name),))
        for name in ("report.json", "train-00000.parquet", ".building")
    ),
    Attack("one-class", _text("", "x", "photos/dots"), (REFUSED,)),
]
