"""Hypothesis strategies of damaged files: valid ones with some of their parts replaced."""

import copy
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st

# What json.dumps cannot write, by the text that stands for it until the document is text.
_RAW = {
    "<digits>": "9" * 5000,
    "<deep>": "[" * 3000,
    "<closed>": "[" * 300 + "]" * 300,
    "<huge>": "1e999999",
    "<long>": '"' + "x" * 20_000 + '"',
    "<repeated>": '{"a": 1, "a": 2}',
}

NAMES = (
    *("", " ", ".", "..", "/", "a/b", "../../etc/passwd", "/etc/passwd", "-rf", "\0", "\n", "\r"),
    *("[/b]", "[red]x[/red]", "=1+1", '=HYPERLINK("http://x","y")', "\x1b[2J\x07", "\u202e", "é"),
    *(
        "\ud800",
        "<script>alert(1)</script>",
        "a|b",
        "`x`",
        "$x$",
        "\\input{x}",
        "%s",
        "{x}",
        "{{1}}",
    ),
    *("reference://x::http://127.0.0.1:1/", "file:///etc/passwd", "data:x", "~/x", "$HOME/x"),
    *("s3://KEY:SECRET@bucket/x", "memory://x", "nan", "null", "true", "1", "1.0", "01", "9" * 30),
)

# Places as shares of a file, so that what is drawn does not depend on how long the file is. Made of
# bytes: of integers, Hypothesis draws small ones so often that most places would be the beginning.
_PLACE = st.binary(min_size=3, max_size=3).map(lambda drawn: int.from_bytes(drawn) / 2**24)

_VALUES = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, -0.0, 0.5, 1e308]),
    st.sampled_from([float("nan"), float("inf"), -float("inf")]),
    st.sampled_from([[], {}, [[]], {"": None}, [None], [0], ["a", "a"], {"a": {"a": {}}}]),
    st.sampled_from(NAMES),
    st.sampled_from(list(_RAW)),
    st.text(max_size=8),
    st.integers(),
    st.floats(),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values of a document."""
    found = [path]
    children: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    for key, child in children:
        found += _places(child, (*path, key))
    return found


@st.composite
def documents(draw: st.DrawFn, valid: Sequence[Any]) -> Any:
    """A valid document with up to three of its values replaced, removed, renamed or doubled."""
    document = copy.deepcopy(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(_places(document)))
        value = copy.deepcopy(draw(_VALUES))
        if not path:
            document = value if draw(st.booleans()) else document
            continue
        *parents, last = path
        section = document
        for key in parents:
            section = section[key]
        action = draw(st.sampled_from(["replace", "replace", "remove", "rename", "double", "wrap"]))
        if action == "replace":
            section[last] = value
        elif action == "wrap":
            section[last] = [section[last]]
        elif action == "remove":
            del section[last]
        elif isinstance(section, list):
            section.append(section[last])
        elif isinstance(value, (str, int, float)) or value is None:
            section[value] = section.pop(last) if action == "rename" else section[last]
    return document


def as_json(document: Any) -> bytes:
    text = json.dumps(document)
    for mark, raw in _RAW.items():
        text = text.replace(json.dumps(mark), raw)
    return text.encode()


def as_yaml(document: Any) -> bytes:
    text = yaml.dump(document, sort_keys=False, allow_unicode=True)
    for mark, raw in _RAW.items():
        text = text.replace(f"'{mark}'", raw).replace(mark, raw)
    return text.encode("utf-8", "surrogatepass")


@st.composite
def edited(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> bytes:
    """Bytes with some of them cut off, replaced, doubled or put in."""
    content = draw(contents)
    for _ in range(draw(st.integers(0, 3))):
        start = int(draw(_PLACE) * len(content))
        end = min(len(content), start + draw(st.integers(0, 64)))
        doubled = content[start:end] * 2
        put_in = [b"", b"\0" * 64, b"\xff" * 8, b"\x80\0\0\0", doubled]
        new = draw(st.one_of(st.binary(max_size=16), st.integers(0, 4).map(put_in.__getitem__)))
        content = content[:start] + new + content[end:]
        if draw(st.integers(0, 5)) == 0:
            content = content[: int(draw(_PLACE) * len(content))]
    return content


def any_bytes(valid: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Valid files with edits, and bytes of any kind."""
    return st.one_of(edited(st.sampled_from(valid)), edited(st.sampled_from(valid)), st.binary())


@st.composite
def delimited(draw: st.DrawFn, columns: Sequence[str], cells: st.SearchStrategy[str]) -> bytes:
    """CSV-like text: any separator, quoting, row length and encoding."""
    separator = draw(st.sampled_from(",,,;\t|"))
    quote = draw(st.sampled_from(['"', "", "'"]))
    names = [*columns, *draw(st.lists(st.sampled_from([*columns, *NAMES]), max_size=2))]
    rows = [
        names,
        *draw(st.lists(st.lists(cells, min_size=1, max_size=len(names) + 1), max_size=6)),
    ]
    end = draw(st.sampled_from(["\n", "\r\n", "\r", ",\n"]))
    text = end.join(separator.join(f"{quote}{cell}{quote}" for cell in row) for row in rows)
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    return text.encode(encoding, "replace" if encoding == "latin-1" else "surrogatepass")


_ARRAYS: dict[str, Callable[[int], pa.Array]] = {
    "text": lambda n: pa.array([f"x{i}" for i in range(n)]),
    "gaps": lambda n: pa.array([None if i % 2 else i for i in range(n)], pa.int64()),
    "large": lambda n: pa.array([2**53 + i for i in range(n)], pa.uint64()),
    "floats": lambda n: pa.array([float("nan"), *[0.5] * n][:n]),
    "flags": lambda n: pa.array([bool(i % 2) for i in range(n)]),
    "nothing": pa.nulls,
    "bytes": lambda n: pa.array([b"\xff\0"] * n),
    "lists": lambda n: pa.array([[1], None, []][:n] + [[2]] * (n - 3)),
    "structs": lambda n: pa.array([{"bytes": b"x", "path": None}] * n),
    "inner": lambda n: pa.array([{"bytes": "x", "path": 1}] * n),
    "maps": lambda n: pa.array([[("a", 1)]] * n, pa.map_(pa.string(), pa.int64())),
    "decimal": lambda n: pa.array([1] * n).cast(pa.decimal128(30, 2)),
    "time": lambda n: pa.array([2**62] * n, pa.timestamp("us", "Nowhere/Atlantis")),
    "date": lambda n: pa.array([2**31 - 1] * n, pa.date32()),
    "span": lambda n: pa.array([1] * n, pa.duration("ns")),
    "words": lambda n: pa.array(["a", None] * n)[:n].dictionary_encode(),
    "int8": lambda n: pa.array([-1] * n, pa.int8()),
}


@st.composite
def parquet_files(draw: st.DrawFn, valid: pa.Table, metadata: st.SearchStrategy[Any]) -> bytes:
    """A Parquet file with columns of other types, none, twice, or other metadata; or damaged."""
    damage = draw(st.sampled_from(["footer", "anywhere", "none", "none"]))
    if damage == "footer":
        return draw(other_footers(_saved(valid, draw)))
    table = valid
    for name in draw(st.lists(st.sampled_from(valid.column_names), max_size=2, unique=True)):
        array = _ARRAYS[draw(st.sampled_from(sorted(_ARRAYS)))](len(valid))
        table = table.set_column(table.column_names.index(name), name, array)
    change = draw(st.sampled_from(["", "", "drop", "double", "rename", "empty"]))
    name = draw(st.sampled_from(valid.column_names))
    if change == "drop":
        table = table.drop_columns([name])
    elif change == "double":
        table = table.append_column(name, table[name])
    elif change == "rename":
        new = draw(st.sampled_from([n for n in NAMES if n.isprintable()]))
        table = table.rename_columns([new if n == name else n for n in table.column_names])
    elif change == "empty":
        table = table.slice(0, 0)
    if draw(st.booleans()):
        table = table.replace_schema_metadata({b"huggingface": as_json(draw(metadata))})
    content = _saved(table, draw)
    return draw(edited(st.just(content))) if damage == "anywhere" else content


def _saved(table: pa.Table, draw: st.DrawFn) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=draw(st.sampled_from([2, 1000])))
    return sink.getvalue()


@st.composite
def other_footers(draw: st.DrawFn, content: bytes) -> bytes:
    """A Parquet file with a byte or two of its footer, which readers believe, replaced."""
    damaged = bytearray(content)
    length = int.from_bytes(content[-8:-4], "little")
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        at = len(content) - 9 - int(draw(_PLACE) * length)
        damaged[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
    return bytes(damaged)


@st.composite
def tars(draw: st.DrawFn, members: Sequence[tuple[str, bytes]]) -> bytes:
    """A tar with members of any name, kind and claimed size, its sums right, or damaged."""
    sink = io.BytesIO()
    formats = st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
    with tarfile.open(fileobj=sink, mode="w", format=draw(formats)) as tar:
        for name, content in draw(st.lists(st.sampled_from(members), max_size=5)):
            info = tarfile.TarInfo(draw(st.sampled_from([name, name, f"d/{name}", f"/{name}"])))
            info.size = len(content)
            if draw(st.integers(0, 5)) == 0:
                info.type = draw(
                    st.sampled_from([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"S"])
                )
                info.linkname = draw(st.sampled_from(["/etc/passwd", "a.png", name]))
            try:
                tar.addfile(info, io.BytesIO(content))
            except ValueError:  # a name that this format cannot hold
                continue
    made = bytearray(sink.getvalue())
    for _ in range(draw(st.integers(0, 2))):
        block = 512 * int(draw(_PLACE) * (len(made) // 512))
        at, new = draw(
            st.sampled_from(
                [
                    (124, b"\xff" + (-512).to_bytes(11, "big", signed=True)),
                    (124, b"\x80" + (2**60).to_bytes(11, "big")),
                    (124, b"77777777777\0"),
                    (124, b"-0000000001\0"),
                    (156, b"S"),
                    (156, b"x"),
                    (156, b"L"),
                    (156, b"g"),
                    (386, b"00000000000\0" * 2),
                    (483, b"\x80" + (40 * 2**30).to_bytes(11, "big")),
                    (0, b"caf\xe9.png\0"),
                    (0, b"\0" * 100),
                ]
            )
        )
        header = made[block : block + 512]
        header[at : at + len(new)] = new
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        made[block : block + 512] = header
    return draw(edited(st.just(bytes(made)))) if draw(st.booleans()) else bytes(made)
