"""Addresses as they are shown and kept: without their passwords, tokens and signatures."""

import re

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"
# The user's part of an address, which stands before its host or bucket. A key of S3 may contain
# slashes; an IPv6 host, an access point of S3 and a port have colons, too.
_USER = (
    r"(?:[^/@{stop}]*@"
    r"|(?!\[|arn:|[^/@:{stop}]*:\d{{1,5}}(?:[/?#\s]|$))[^/@:{stop}]*:[^@{stop}]*@)+"
)
_USER_OF_ADDRESS = re.compile(_USER.format(stop="\n"))
_USER_IN_TEXT = re.compile(_USER.format(stop=r"\s"))
# Here, the part before @ is a container or a repository, unless it has a colon.
_NO_USERS = ("abfs", "abfss", "az", "hf")
_PARAMETER = re.compile(r"([?&#;])([^?&#;=\s]+)=[^?&#;\s\"'<>`]*?(?=[:,.)]*(?:[?&#;\s\"'<>`]|$))")

# Names of parameters that are a credential or signature, or belong to one.
_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "x-cos-", "x-ms-")
_PARTS = ("accessid", "accesskey", "apikey", "credential", "passw", "secret", "signature", "token")
_WORDS = {
    "auth", "authorization", "expires", "expiry", "hmac", "jwt", "key", "pass", "policy", "pwd",
    "pw", "sas", "session", "sig", "sign",
}  # fmt: skip
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
    if not separator or not re.fullmatch(_SCHEME, scheme):
        return address
    rest = _without_user(scheme, rest, _USER_OF_ADDRESS)
    path, *query = re.split(r"([?&#;])", rest) if re.search(r"[?#]", rest) else [rest]
    pairs = list(zip(query[::2], query[1::2], strict=True))
    is_signed = any(parameter.lower().startswith("sig=") for _, parameter in pairs)
    query_begins = False
    for mark, parameter in pairs:
        query_begins = query_begins or mark in "?#"
        name, equals, _ = parameter.partition("=")
        is_extra = is_signed and name.lower() in _SHARED_ACCESS
        if not query_begins or not equals or not (_is_secret(name) or is_extra):
            # the first parameter that is left follows the question mark
            follows = mark == "&" and query_begins and not re.search(r"[?#]", path)
            path += ("?" if follows else mark) + parameter
    return f"{scheme}://{path}"


def without_secrets(text: str) -> str:
    """A text, such as a library's message, without the secrets of the addresses in it."""
    if "://" not in text and "url: /" not in text:  # the latter are urllib3's
        return text
    start, *rest = re.split(rf"({_SCHEME})://", text)
    for scheme, after in zip(rest[::2], rest[1::2], strict=True):
        start += f"{scheme}://{_without_user(scheme, after, _USER_IN_TEXT)}"
    return _PARAMETER.sub(lambda found: "" if _is_secret(found[2]) else found[0], start)


def _without_user(scheme: str, rest: str, pattern: re.Pattern[str]) -> str:
    found = pattern.match(rest)
    if found is None or scheme.lower() in _NO_USERS and ":" not in found[0]:
        return rest
    return rest[found.end() :]


def _is_secret(name: str) -> bool:
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower())
    return (
        name.lower().startswith(_PREFIXES)
        or any(part in "".join(words) for part in _PARTS)
        or not _WORDS.isdisjoint(words)
    )
