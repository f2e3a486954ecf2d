"""Addresses: the one door for every path and URI that semigrid opens.

An address is a path on this machine, or begins with one of ``SCHEMES``. The chains of fsspec
(``zip://a::http://…``) and its other file systems do not pass: ``a::b`` is the name of a file.
"""

import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from semigrid.data.errors import InputError
from semigrid.data.redact import shown

S3 = ("s3", "s3a")
BUCKETS = (*S3, "gs", "gcs", "abfs", "abfss", "az")
WEB = ("http", "https")
READ_ONLY = ("hf", *WEB)
SCHEMES = (*BUCKETS, *READ_ONLY)
ALLOWED = "a path on this machine, or s3://, gs://, abfs://, hf://, http:// or https://"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def scheme_of(address: str) -> str:
    """The scheme of an address in lower case; empty for a path on this machine.

    Raises ``InputError`` for what cannot be an address, or has a scheme that is not in ``SCHEMES``.
    """
    if "\0" in address:
        raise InputError(f"{shown(address)!r}: has a zero byte, which no path or URI can have")
    if (found := _SCHEME.match(address)) is None:
        return ""
    scheme, rest = found[1].lower(), address[found.end() :]
    if scheme not in SCHEMES:
        raise InputError(f"{shown(address)}: {scheme}:// cannot be opened; give {ALLOWED}")
    try:
        address.encode()
        named = urlsplit(f"http://{rest}") if scheme in WEB else None
        is_whole = bool(rest.strip("/")) if named is None else bool(named.hostname)
        _ = named and named.port
    except ValueError as error:  # a bad host or port, or bytes that are no text
        raise InputError(f"{shown(address)!r}: not an address: {error}") from error
    if not is_whole:
        raise InputError(f"{shown(address)}: names no {'host' if scheme in WEB else 'bucket'}")
    return scheme


def is_local(address: str) -> bool:
    """Whether an address is a path on this machine, which begins with no scheme of any kind."""
    return _SCHEME.match(address) is None


def local_path(address: str | os.PathLike[str]) -> str:
    """The absolute path of a path on this machine, with ``~`` for the home at its beginning."""
    path = os.path.expanduser(address)
    return path if path.startswith("/") else f"{os.getcwd()}/{path.removeprefix('./')}"


def beside(table: str, name: str) -> str:
    """The address that a table, or another list, at ``table`` means by ``name``.

    A relative name begins at the table's folder. Neither ``~`` nor variables are expanded.

    Raises ``InputError`` if a table from elsewhere names a file on this machine.
    """
    if _SCHEME.match(name):
        return name
    if not scheme_of(table):
        return posixpath.join(posixpath.dirname(local_path(table)), name)
    if name.startswith("/"):
        raise InputError(
            f"{shown(table)}: names {name}, a file on this machine, which a table from elsewhere "
            "must not do; if you trust it, copy the table to this machine"
        )
    return posixpath.join(posixpath.dirname(_path(table)), name)


def base_name(address: str) -> str:
    """The last part of an address, without the parameters of a web address."""
    return posixpath.basename(_path(address).rstrip("/"))


def suffix_of(address: str) -> str:
    """The lower-case ending of an address (``.csv``), without a web address's parameters."""
    return posixpath.splitext(_path(address))[1].lower()


def common_folder(addresses: Iterable[str]) -> str:
    """The deepest folder that all of these files share, without a slash at its end."""
    return "/".join(os.path.commonprefix([each.split("/")[:-1] for each in addresses]))


def unique_names(addresses: Sequence[str]) -> list[str]:
    """The addresses as ``shown``, for names that are kept.

    Addresses that only their secrets tell apart are numbered in their order.
    """
    others: dict[str, dict[str, int]] = {}
    names = []
    for address in addresses:
        name = shown(address)
        numbers = others.setdefault(name, {})
        number = numbers.setdefault(address, len(numbers) + 1)
        names.append(name if number == 1 else f"{name}#{number}")
    return names


def ids_in(table: str, names: Sequence[str]) -> list[str]:
    """Ids of what a table at ``table`` names: the names, as far as they are no secrets.

    Raises ``InputError`` like ``beside``.
    """
    folder = "" if not scheme_of(table) else f"{posixpath.dirname(_path(table))}/"
    kept = unique_names([beside(table, name) if folder else name for name in names])
    return [
        name if _SCHEME.match(given) else name.removeprefix(shown(folder))
        for given, name in zip(names, kept, strict=True)
    ]


def _path(address: str) -> str:
    found = _SCHEME.match(address)
    is_web = found is not None and found[1].lower() in WEB
    return re.split(r"[?#]", address)[0] if is_web else address
