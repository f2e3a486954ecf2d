"""Secrets of addresses are neither shown nor kept; what tells one file from another is."""

import time

import pytest

from semigrid.data.errors import InputError, StorageGoneError
from semigrid.data.redact import shown, without_secrets

SECRET = "SECRET"
ADDRESSES = [
    ("https://SECRET@host/a.png", "https://host/a.png"),
    ("https://user:SECRET@host:8080/a@2x.png", "https://host:8080/a@2x.png"),
    ("https://user:SE@SECRET@host/a.png", "https://host/a.png"),
    ("s3://KEY:ab/SECRET@bucket/a", "s3://bucket/a"),
    ("S3://KEY:SECRET@bucket", "S3://bucket"),
    ("abfss://data:SECRET@account.dfs.core.windows.net/a", "abfss://account.dfs.core.windows.net/a"),
    (
        "https://b.s3.amazonaws.com/a.png?X-Amz-Algorithm=AWS4&X-Amz-Credential=SECRET"
        "&X-Amz-Signature=SECRET&versionId=7",
        "https://b.s3.amazonaws.com/a.png?versionId=7",
    ),
    ("https://host/i?id=5&token=SECRET&size=2", "https://host/i?id=5&size=2"),
    ("https://host/i?token=SECRET&id=5", "https://host/i?id=5"),
    ("https://host/i?accessToken=SECRET#id_token=SECRET", "https://host/i"),
    ("https://a.blob.core.windows.net/c/a?sv=2024&se=2030&sp=r&sig=SECRET", "https://a.blob.core.windows.net/c/a"),
    ("https://host/a?Expires=1&Signature=SECRET&Key-Pair-Id=SECRET", "https://host/a"),
    ("https://host/a?AWSAccessKeyId=SECRET&Signature=SECRET&Expires=1", "https://host/a"),
    ("https://host/a?api_key=SECRET", "https://host/a"),
    ("s3://bucket/a?access_key=AK&secret_key=SECRET", "s3://bucket/a"),
    ("https://h/p?url=https://u:SECRET@h/y&b=1", "https://h/p?url=https://h/y&b=1"),
    ("https://h/p/https://u:SECRET@h/y", "https://h/p/https://h/y"),
    ("https://h/p?url=https%3A%2F%2Fu%3ASECRET%40h%2Fy%3Fsig%3DSECRET", "https://h/p?url=https%3A%2F%2Fh%2Fy"),
    ("https://h/p?hdnts=exp=1~hmac=SECRET&b=1", "https://h/p?b=1"),
    ("https://h/p?other=exp%3D1~hmac%3DSECRET&b=1", "https://h/p?b=1"),
    ("https://h/p;jsessionid=SECRET?b=1", "https://h/p?b=1"),
    ("https://h/p;JSESSIONID=SECRET/q.png", "https://h/p/q.png"),
    ("https://h/p?%73ig=SECRET&b=1", "https://h/p?b=1"),
    ("https://h/p?code=SECRET&country_code=de", "https://h/p?country_code=de"),
]  # fmt: skip
PLAIN = [
    "photos/a@b.png",
    "/photos/image.php?id=5&token=6.jpg",
    "s3://bucket/user:name@home/a.png",
    "s3://bucket/a?b#c&d=e.png",
    "s3://arn:aws:s3:us-east-1:123:accesspoint/name/a@b.png",
    "https://host/@scope/a.png?design=5&author=x&monkey=2&se=1",
    "http://[::1]:8080/a@b.png",
    "http://127.0.0.1:8080/a@b.png?id=1&id=2",
    "abfss://container@account.dfs.core.windows.net/a",
    "hf://datasets/owner/name@main/a.png",
    "https://host/a?u=http://h:80/b&mail=a@b&x=resign=1&q=a%20b%3A%2F%2Fc",
    "data:image/png;base64,AAAA",
    "a::b",
    "",
]


@pytest.mark.parametrize(("address", "expected"), ADDRESSES)
def test_secrets_are_left_out(address: str, expected: str) -> None:
    assert shown(address) == expected
    assert shown(expected) == expected


@pytest.mark.parametrize("address", PLAIN)
def test_what_is_no_secret_stays(address: str) -> None:
    assert shown(address) == address


@pytest.mark.parametrize("address", [address for address, _ in ADDRESSES])
@pytest.mark.parametrize(
    "words", ["{}", "{}: no such file", "403, url='{}'", 'Could not connect: "{}"', "<{}> and {}"]
)
def test_secrets_are_left_out_of_texts(words: str, address: str) -> None:
    assert SECRET not in without_secrets(words.format(address, address))


@pytest.mark.parametrize("address", PLAIN)
def test_texts_keep_what_is_no_secret(address: str) -> None:
    assert without_secrets(f"{address}: 5 of 7 (a@b): no") == f"{address}: 5 of 7 (a@b): no"


def test_paths_in_messages_of_urllib3_have_no_secrets() -> None:
    said = (
        "HTTPSConnectionPool(host='h', port=443): Max retries exceeded with url: /a?sig=SECRET&b=1"
    )
    assert without_secrets(said).endswith("with url: /a&b=1")


def test_spaces_hide_no_secret() -> None:
    assert shown("https://user:SE CRET@host/a b.png?sig=SE CRET&b=1") == "https://host/a b.png?b=1"
    assert SECRET not in without_secrets("https://host/a b's.png?sig=SECRET: not found")


def test_passwords_with_spaces_are_left_out_of_texts() -> None:
    said = without_secrets("https://u:SE CRET@host/a: no, https://host: ask a@b")
    assert said == "https://host/a: no, https://host: ask a@b"


@pytest.mark.parametrize(
    ("start", "again"),
    [
        *(("ftp://", "a"), ("ftp://", "a-"), ("ftp://", "aA-"), ("http://h?token=", ".")),
        *(("http://h?a=", ":"), ("http://h?a=", ".x"), ("http://h?", "a"), ("http://h", "?")),
        *(("http://h", "&a"), ("http://h", "&a="), ("http://", "a:b@"), ("http://", "a:")),
        *(("", "http://"), ("", "http://u:p "), ("", "://"), ("", "a://h/;jsessionid=")),
        *(("http://h?u=", "http://a:b@"), ("http://h?u=", "%253A"), ("http://u:", "p ")),
        *(("http://h?a=://", "sig"), ("http://h?u=http%3A%2F%2F", "%25"), ("url: /", "@")),
    ],
)
def test_long_texts_take_little_time(start: str, again: str) -> None:
    text = start + again * (500_000 // len(again))
    started = time.process_time()
    without_secrets(text)
    without_secrets(f"{text}@")
    shown(text)
    assert time.process_time() - started < 12  # seconds; many minutes if it grew with the square


def test_halves_of_characters_stop_nothing() -> None:
    assert SECRET not in shown("https://h/p?u=\udc80https%3A%2F%2Fu%3ASECRET%40h%ff")


def test_errors_show_no_secret() -> None:
    refused = InputError("https://h/a?sig=SECRET: no", "https://SECRET@h/a: no")
    assert refused.problems == ("https://h/a: no", "https://h/a: no")
    assert str(refused) == "https://h/a: no\nhttps://h/a: no"
    assert str(StorageGoneError("https://SECRET@h is away")) == "https://h is away"
