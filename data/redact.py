"""Addresses as they are shown and kept: without their passwords, tokens and signatures."""

import re
from urllib.parse import quote, unquote

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
# of limited length, so that long words, of which each letter might begin a scheme, take no time
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20})://")
# The user's part of an address, which stands before its host or bucket. A key of S3 may contain
# slashes; an IPv6 host, an access point of S3 and a port have colons, too.
_USER = (
    r"(?:[^/@{stop}]*@"
    r"|(?!\[|arn:|[^/@:{stop}]*:\d{{1,5}}(?:[/?#\s]|$))[^/@:{stop}]*:(?:[^@{stop}]*{words})@)+"
)
_USER_OF_ADDRESS = re.compile(_USER.format(stop="\n", words=""))
# a password may have spaces, but what follows a colon and a space is another word of the text
_USER_IN_TEXT = re.compile(_USER.format(stop=r"\s", words=r"(?:(?<!:) [^@\s:/]+){0,3}"))
# Here, the part before @ is a container or a repository, unless it has a colon.
_NO_USERS = ("abfs", "abfss", "az", "hf")
_PARAMETER = re.compile(r"[?&#;]([^?&#;=\s]+)=([^?&#;\s\"'<>`]*)")
# Servers of Java put it behind a path.
_SESSION = re.compile(r";jsessionid=[^/?#;&\s\"'<>`]*", re.IGNORECASE)
# A signature in a value, such as exp=1~acl=/*~hmac=…
_SIGNED = re.compile(r"(?<![a-z])(?:hmac|sig|signature)=", re.IGNORECASE)

# Names of parameters that are a credential or signature, or belong to one.
_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "x-cos-", "x-ms-")
_PARTS = ("accessid", "accesskey", "apikey", "credential", "passw", "secret", "signature", "token")
_WORDS = {
    "auth", "authorization", "expires", "expiry", "hmac", "jwt", "key", "pass", "policy", "pwd",
    "pw", "sas", "session", "sig", "sign",
}  # fmt: skip
# These are secrets only as whole names: there are country codes, too.
_NAMES = {"code", "hdnea", "hdnts", "jsessionid", "phpsessid"}
# The other parameters of Azure's shared access signatures, which come with ``sig``.
_SHARED_ACCESS = {
    "ss", "srt", "sp", "se", "st", "spr", "sr", "sip", "si", "sv", "sdd", "ske", "skoid", "sks",
    "skt", "sktid", "skv", "saoid", "suoid", "scid", "ses",
}  # fmt: skip


def shown(address: str) -> str:
    """An address without its secrets: to print, to keep, and to tell one file from another.

    What belongs to a signature is left out whole, so that an address stays the same when it is
    signed anew. Local paths are unchanged.
    """
    scheme, separator, rest = address.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return address
    rest = _SESSION.sub("", _without_user(scheme, rest, _USER_OF_ADDRESS))
    path, *query = re.split(r"([?&#;])", rest) if re.search(r"[?#]", rest) else [rest]
    pairs = list(zip(query[::2], query[1::2], strict=True))
    path = _without_users(path, _USER_OF_ADDRESS)
    is_signed = any(_name(parameter.partition("=")[0]) == "sig" for _, parameter in pairs)
    query_begins = False
    for mark, parameter in pairs:
        query_begins = query_begins or mark in "?#"
        name, equals, value = parameter.partition("=")
        is_extra = is_signed and _name(name) in _SHARED_ACCESS
        value = "" if _is_quoted_address(value) else value  # its secrets are left out inside
        if not query_begins or not equals or not (is_extra or _is_secret(name, value)):
            parameter = _shown_inside(parameter)
            # the first parameter that is left follows the question mark
            follows = mark == "&" and query_begins and not re.search(r"[?#]", path)
            path += ("?" if follows else mark) + parameter
    return f"{scheme}://{path}"


def without_secrets(text: str) -> str:
    """A text, such as a library's message, without the secrets of the addresses in it."""
    if "://" not in text and "url: /" not in text:  # the latter are urllib3's
        return text
    return _PARAMETER.sub(_shown_parameter, _SESSION.sub("", _without_users(text, _USER_IN_TEXT)))


def _shown_parameter(found: re.Match[str]) -> str:
    value = found[2].rstrip(":,.)")  # what follows belongs to the sentence
    if _is_secret(found[1], value):
        return found[2][len(value) :]
    return found[0]


def _shown_inside(parameter: str) -> str:
    """A parameter without the secrets of an address that is its value, be it quoted or not."""
    name, equals, value = parameter.partition("=")
    if _is_quoted_address(value):
        plain = unquote(value)
        clean = without_secrets(plain)
        if clean != plain:
            parameter = f"{name}{equals}{quote(clean, safe='', errors='surrogatepass')}"
        return parameter
    return _without_users(parameter, _USER_OF_ADDRESS)


def _is_quoted_address(value: str) -> bool:
    return "://" not in value and "://" in unquote(value)


def _without_users(text: str, pattern: re.Pattern[str]) -> str:
    start, *rest = _ADDRESS.split(text)
    parts = zip(rest[::2], rest[1::2], strict=True)
    return start + "".join(f"{name}://{_without_user(name, at, pattern)}" for name, at in parts)


def _without_user(scheme: str, rest: str, pattern: re.Pattern[str]) -> str:
    found = pattern.match(rest)
    if found is None or scheme.lower() in _NO_USERS and ":" not in found[0]:
        return rest
    return rest[found.end() :]


def _name(name: str) -> str:
    return unquote(name).lower()


def _is_secret(name: str, value: str) -> bool:
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "-", unquote(name)).lower())
    return (
        _name(name) in _NAMES
        or _SIGNED.search(unquote(value)) is not None
        or _name(name).startswith(_PREFIXES)
        or any(part in "".join(words) for part in _PARTS)
        or not _WORDS.isdisjoint(words)
    )
