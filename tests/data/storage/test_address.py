"""The door for addresses: which ones pass, and what a name in a table means."""

import os

import pytest

from semigrid.data.errors import InputError
from semigrid.data.storage.address import (
    base_name,
    beside,
    ids_in,
    local_path,
    scheme_of,
    suffix_of,
    unique_names,
)


@pytest.mark.parametrize(
    "address",
    ["", "a", "/a/b", "~/a", "a::b", "zip::a", "data:x", "a/b://c", "file:/a", "::", "-x", "a?b=c",
     "./reference://x"],
)  # fmt: skip
def test_paths_are_paths(address: str) -> None:
    assert scheme_of(address) == ""


@pytest.mark.parametrize(
    ("address", "scheme"),
    [
        ("s3://b/a::b", "s3"),
        ("S3A://b", "s3a"),
        ("gs://b/a", "gs"),
        ("abfss://c@a/b", "abfss"),
        ("hf://datasets/a/b", "hf"),
        ("HTTPS://h/a?b=c::d", "https"),
        ("http://[::1]:80/a", "http"),
    ],
)
def test_schemes_that_are_opened(address: str, scheme: str) -> None:
    assert scheme_of(address) == scheme


@pytest.mark.parametrize(
    "address",
    ["reference://x.png::http://h/refs.json", "file:///etc/passwd", "local:///a", "zip://a::s3://b",
     "simplecache::http://h/a".replace("::", "://x::"), "ssh://h/a", "ftp://h/a", "github://a:b@c/",
     "data://x", "dir://a", "filecache://a", "smb://h", "jupyter://h", "builtin://x", "x://"],
)  # fmt: skip
def test_other_schemes_are_refused_by_name(address: str) -> None:
    with pytest.raises(InputError, match=r"cannot be opened; give a path on this machine, or s3:"):
        scheme_of(address)


@pytest.mark.parametrize("address", ["s3://", "http:///a", "http://h:x/", "http://[::1", "a\0b", "https://",
                                     "gs:///", "http://h:99999/a", "s3://b/\udcff"])  # fmt: skip
def test_what_names_nothing_is_refused(address: str) -> None:
    with pytest.raises(InputError):
        scheme_of(address)


def test_a_refusal_shows_no_secret() -> None:
    with pytest.raises(InputError) as refused:
        scheme_of("ftp://user:SECRET@host/a?sig=SECRET")
    assert "SECRET" not in str(refused.value) and "ftp://host/a" in str(refused.value)


def test_local_paths_are_absolute() -> None:
    assert local_path("./a") == local_path("a") == f"{os.getcwd()}/a"
    assert local_path("~") == os.path.expanduser("~") and local_path("/a/../b") == "/a/../b"


@pytest.mark.parametrize(
    ("table", "name", "expected"),
    [
        ("/t/a.csv", "b.png", "/t/b.png"),
        ("/t/a.csv", "../b.png", "/t/../b.png"),
        ("/t/a.csv", "/b.png", "/b.png"),
        ("/t/a.csv", "~/b$HOME.png", "/t/~/b$HOME.png"),
        ("/t/a.csv", "a::b", "/t/a::b"),
        ("/t/a.csv", "http://h/b.png", "http://h/b.png"),
        ("s3://b/t/a.csv", "c.png", "s3://b/t/c.png"),
        ("http://h/t/a.csv?sig=x/y", "c.png?d=1", "http://h/t/c.png?d=1"),
    ],
)
def test_names_in_a_table_begin_at_its_folder(table: str, name: str, expected: str) -> None:
    assert beside(table, name) == expected


@pytest.mark.parametrize(
    "table", ["http://h/a.csv?sig=SECRET", "s3://b/a.csv", "hf://datasets/a.csv"]
)
def test_a_table_from_elsewhere_names_no_file_of_this_machine(table: str) -> None:
    with pytest.raises(InputError, match="names /etc/passwd, a file on this machine") as refused:
        beside(table, "/etc/passwd")
    assert "SECRET" not in str(refused.value)


def test_names_of_files_are_without_parameters() -> None:
    assert base_name("https://h/t/a.csv?sig=b/c.d") == "a.csv"
    assert base_name("s3://b/a#b?c.csv") == "a#b?c.csv" and base_name("a/b/") == "b"


def test_ids_are_the_names_of_a_table_without_secrets() -> None:
    names = ["b.png?sig=SECRET&n=1", "http://h/t/c.png?sig=SECRET", "s3://b/c"]
    assert ids_in("http://h/t/a.csv?sig=x", names) == ["b.png?n=1", "http://h/t/c.png", "s3://b/c"]
    names = ["b.png?sig=1", "/c.png", "http://h/c.png?sig=SECRET"]
    assert ids_in("/t/a.csv", names) == ["b.png?sig=1", "/c.png", "http://h/c.png"]


def test_names_that_are_kept_are_unique_and_survive_a_new_signature() -> None:
    once = [f"https://h/{name}.png?id=1&sig={name}1" for name in "ab"]
    again = [f"https://h/{name}.png?id=1&sig={name}2" for name in "ab"]
    assert (
        unique_names(once)
        == unique_names(again)
        == ["https://h/a.png?id=1", "https://h/b.png?id=1"]
    )
    keys = ["https://h/i?key=1", "https://h/i?key=2", "https://h/i?key=1"]
    assert unique_names(keys) == ["https://h/i", "https://h/i#2", "https://h/i"]


@pytest.mark.parametrize(
    ("uri", "suffix"),
    [
        ("A.CSV", ".csv"),
        ("s3://b/a.b/t.Parquet", ".parquet"),
        ("https://h/t.tsv?token=a.csv&b=/x", ".tsv"),
        ("what?.tsv", ".tsv"),
        ("photos.csv/cats", ""),
        (".csv", ""),
        ("https://h/t.csv#part", ".csv"),
    ],
)
def test_the_ending_of_a_name(uri: str, suffix: str) -> None:
    assert suffix_of(uri) == suffix
