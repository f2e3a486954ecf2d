"""Buckets: how they are opened, and what their errors mean.

A bucket's credentials come from the environment of each machine and nowhere else. Its errors are
of three kinds: it is away or busy, which passes; it refuses, which does not; or the object is not
there, which is ``FileNotFoundError`` as on a disk. Errors of fsspec's packages are told by name,
since none of those packages need be there.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec

from semigrid.data.errors import InputError

S3 = ("s3", "s3a")
BUCKETS = (*S3, "gs", "gcs", "abfs", "abfss", "az")
# a server that takes connections and says nothing must not hold a run up for longer
CONNECT_SECONDS, READ_SECONDS = 5, 20
# objects read side by side
READERS = 16
S3_OPTIONS: dict[str, Any] = {
    # another process may have written since the last listing
    "use_listings_cache": False,
    "config_kwargs": {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "max_pool_connections": 2 * READERS,
        # few of its own: who waits for the storage says so, and ends some time
        "retries": {"mode": "standard", "total_max_attempts": 2},
    },
}

AWAY_STATUS = {408, 429, 500, 502, 503, 504}
AWAY_CODES = {"ConditionalRequestConflict", "InternalError", "OperationAborted", "RequestTimeout"}
AWAY_CODES |= {"RequestLimitExceeded", "ServiceUnavailable", "SlowDown", "TooManyRequests"}
AWAY_CODES |= {"Throttling", "ThrottlingException"}
# of botocore, aiohttp and fsspec: a connection that fails or breaks off, an answer that is cut or
# a proxy's. Most are no OSErrors.
AWAY_ERRORS = {"ClientConnectionError", "ClientPayloadError", "ConnectionError", "HTTPClientError"}
AWAY_ERRORS |= {"IncompleteRead", "IncompleteReadError", "ResponseParserError", "TimeoutError"}

REFUSED_STATUS = {301, 307, 401, 403}
REFUSED_CODES = {"400", "ExpiredToken", "InvalidBucketName", "InvalidToken", "NoSuchBucket"}
REFUSED_CODES |= {"AuthorizationHeaderMalformed", "TokenRefreshRequired"}
REFUSED_CODES |= {"IllegalLocationConstraintException"}
# what may be said of one object while others are read; gcsfs has no more than the number
OF_ONE = {"AccessDenied", "InvalidObjectState", "403"}
UNCHANGED_FAILED = {409, 412}

SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
CREDENTIALS = (
    "give credentials in the environment of each machine: AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role"
)


class RefusedError(InputError, PermissionError):
    """A bucket answers, but not to this: nothing to wait for. Of a disk, ``PermissionError``.

    ``of_one`` is true where it may be said of one object alone, not of all that is asked.
    """

    of_one = False


@dataclass(frozen=True)
class Answer:
    """What a server said instead of doing what it was asked; ``region`` is the bucket's."""

    status: int
    code: str
    message: str = ""
    region: str = ""


def open_filesystem(uri: str) -> tuple[Any, str]:
    """fsspec's file system of a path or URI, and the path in it.

    Raises ``InputError`` for a URI of an unknown kind, or with credentials in it.
    """
    protocol, _, rest = uri.partition("://")
    if re.match(r"[^/@]*:[^/@]*@", rest):
        raise InputError(
            f"{protocol}://…@{rest.partition('@')[2]}: credentials in a URI would be written into "
            f"files and logs; leave them out and {CREDENTIALS}"
        )
    is_s3 = protocol in S3
    try:
        fs, root = fsspec.core.url_to_fs(uri, **(S3_OPTIONS if is_s3 else {}))
    except (ValueError, ImportError) as error:  # an unknown protocol, or its package missing
        needs = "; pip install 'semigrid[aws]'" if is_s3 else ""
        raise InputError(f"{uri}: not a path or URI that can be opened: {error}{needs}") from error
    if is_s3:
        fs.retries = 1  # botocore tries again by itself
    return fs, root


def is_away(error: BaseException | None) -> bool | None:
    """Whether such an error passes by itself; None for one that is no bucket's."""
    answer = answer_of(error)
    if answer is not None:
        return answer.code in AWAY_CODES or answer.status in AWAY_STATUS
    if error is not None and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return False
    if AWAY_ERRORS & _kinds(error):
        return True
    return False if "BotoCoreError" in _kinds(error) else None


def refusal(error: BaseException, uri: str) -> RefusedError | None:
    """In the user's words, and without secrets, that a bucket refuses; None if it does not."""
    answer = answer_of(error)
    if answer is not None:
        if answer.status not in REFUSED_STATUS and answer.code not in REFUSED_CODES:
            return None
        said = " ".join(word for word in (f"{answer.code}:", answer.message) if word)
    elif is_away(error) is False or str(error).startswith("Invalid endpoint"):
        said = str(error) or type(error).__name__
    else:
        return None
    words = f"{uri}: the storage refuses: {_clean(said)}; {_advice(error, answer)}"
    refused = RefusedError(words)
    refused.of_one = answer is not None and answer.code in OF_ONE
    return refused


def put_if_unchanged(fs: Any, path: str, content: bytes, etag: str | None) -> bool:
    """Writes an object if it still is the one of that ``etag``, or is not there for None.

    False if it is another one now. A store that knows no conditions may write in any case; file
    systems other than S3 know only the condition that nothing is there, or none.
    """
    try:
        if "s3" in fs.protocol:
            match = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
            fs.pipe_file(path, content, **match)
        elif etag is None:
            fs.pipe_file(path, content, mode="create")
        else:
            fs.pipe_file(path, content)
    except FileExistsError:
        return False
    except (NotImplementedError, TypeError, ValueError):
        fs.pipe_file(path, content)
    except OSError as error:
        status = answer.status if (answer := answer_of(error)) else 0
        if status != 501:  # not implemented
            missing = isinstance(error, FileNotFoundError) and not refusal(error, path)
            if missing or status in UNCHANGED_FAILED:
                return False
            raise
        fs.pipe_file(path, content)
    return True


def answer_of(error: BaseException | None) -> Answer | None:
    """The server's answer behind an error, if there was one."""
    for each in _causes(error):
        response = getattr(each, "response", None)
        if isinstance(response, dict) and "Error" in response:
            facts, http = response["Error"], response.get("ResponseMetadata", {})
            region = facts.get("Region") or facts.get("BucketRegion")
            region = region or http.get("HTTPHeaders", {}).get("x-amz-bucket-region", "")
            status = int(http.get("HTTPStatusCode", 0))
            return Answer(status, str(facts.get("Code", status)), facts.get("Message", ""), region)
        number = getattr(each, "code", None) or getattr(each, "status", None)
        if isinstance(number, int):  # of gcsfs and aiohttp
            return Answer(number, str(number), str(each))
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _kinds(error: BaseException | None) -> set[str]:
    return {kind.__name__ for each in _causes(error) for kind in type(each).__mro__}


def _clean(words: str) -> str:
    """On one line, and without what may be a secret."""
    for name in SECRETS:
        if secret := os.environ.get(name):
            words = words.replace(secret, f"${name}")
    return " ".join(words.split()).rstrip(".")


def _advice(error: BaseException, answer: Answer | None) -> str:
    code = answer.code if answer else ""
    if answer is None:
        if "Credentials" in type(error).__name__:
            return CREDENTIALS
        return "check AWS_ENDPOINT_URL, AWS_PROFILE and AWS_DEFAULT_REGION of this machine"
    if code == "NoSuchBucket":
        return "make the bucket first, or correct its name (or AWS_ENDPOINT_URL)"
    if code == "InvalidObjectState":
        return "restore the object from its archive first"
    if code == "RequestTimeTooSkewed":
        return "set the clock of this machine"
    if answer.status in (301, 307) or "Location" in code or "Malformed" in code:
        region = f"={answer.region}" if answer.region else " to the bucket's region"
        return f"set AWS_DEFAULT_REGION{region}"
    if "Token" in code or code == "400":
        return f"the credentials may have expired: {CREDENTIALS}"
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return f"the credentials of this machine are wrong: {CREDENTIALS}"
    return (
        "the credentials of this machine must be allowed to list, read, write and delete there "
        "(s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject)"
    )
