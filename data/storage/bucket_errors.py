"""The meaning of buckets' errors.

There are three kinds. A bucket that is away or busy comes back; a bucket that refuses does not; and
a missing object is ``FileNotFoundError``, as on a disk. The errors of fsspec's packages are told
apart by name, since none of those packages need be installed.
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

from semigrid.data.errors import RefusedError
from semigrid.data.storage.local import AWAY

AWAY_STATUS = {408, 429, 500, 502, 503, 504}
AWAY_CODES = {"ConditionalRequestConflict", "InternalError", "OperationAborted", "RequestTimeout"}
AWAY_CODES |= {"RequestLimitExceeded", "ServiceUnavailable", "SlowDown", "TooManyRequests"}
AWAY_CODES |= {"Throttling", "ThrottlingException"}
# errors of botocore, aiohttp, httpx and fsspec, most of which are not OSErrors: broken connections,
# and answers that are incomplete or come from a proxy
AWAY_ERRORS = {"ClientConnectionError", "ClientPayloadError", "ConnectionError", "HTTPClientError"}
AWAY_ERRORS |= {"IncompleteRead", "IncompleteReadError", "ResponseParserError", "TimeoutError"}
AWAY_ERRORS |= {"TransportError"}  # of httpx, which the hub's client uses

REFUSED_STATUS = {301, 307, 401, 403}
# refusals that may concern one object alone; gcsfs reports no more than the number
ONE_OBJECT_CODES = {"AccessDenied", "InvalidObjectState", "403"}

SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
CREDENTIALS = (
    "give credentials in the environment of each machine: AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role"
)
EXPIRED = f"the credentials may have expired: {CREDENTIALS}"
WRONG = f"the credentials of this machine are wrong: {CREDENTIALS}"
REGION = "set AWS_DEFAULT_REGION"
# what to do about the refusals with these codes
ADVICE = {
    "400": EXPIRED,
    "AuthorizationHeaderMalformed": REGION,
    "ExpiredToken": EXPIRED,
    "IllegalLocationConstraintException": REGION,
    "InvalidAccessKeyId": WRONG,
    "InvalidBucketName": "correct the name of the bucket",
    "InvalidObjectState": "restore the object from its archive first",
    "InvalidToken": EXPIRED,
    "NoSuchBucket": "make the bucket first, or correct its name (or AWS_ENDPOINT_URL)",
    "RequestTimeTooSkewed": "set the clock of this machine",
    "SignatureDoesNotMatch": WRONG,
    "TokenRefreshRequired": EXPIRED,
}


class ServerAnswer(NamedTuple):
    """A server's answer to a request that failed; ``region`` is the bucket's."""

    status: int
    code: str
    message: str = ""
    region: str = ""


def is_away(error: BaseException, uri: str) -> bool:
    """Whether an error passes by itself.

    Raises ``RefusedError``, without secrets, if the bucket at ``uri`` refuses.
    """
    kinds = {kind.__name__ for each in _causes(error) for kind in type(each).__mro__}
    if answer := answer_of(error):
        if answer.code in AWAY_CODES or answer.status in AWAY_STATUS:
            return True
        if answer.status not in REFUSED_STATUS and answer.code not in ADVICE:
            return False
        said = f"{answer.code}: {answer.message}"
        advice = _advice(answer)
    else:
        said = str(error) or type(error).__name__
        uncertified = "CERTIFICATE_VERIFY_FAILED" in said
        away = AWAY_ERRORS & kinds or isinstance(error, OSError) and error.errno in AWAY
        if away and not uncertified:
            return True
        if not (uncertified or said.startswith("Invalid endpoint") or "BotoCoreError" in kinds):
            return False
        advice = "check AWS_ENDPOINT_URL, AWS_PROFILE and AWS_DEFAULT_REGION of this machine"
        if "Credentials" in type(error).__name__:
            advice = CREDENTIALS
    refused = RefusedError(f"{uri}: the storage refuses: {_clean(said)}; {advice}")
    refused.one_object = answer is not None and answer.code in ONE_OBJECT_CODES
    raise refused from error


def is_foreign(error: BaseException) -> bool:
    """Whether an error is of a kind that only its library knows, so that nobody waits for it."""
    own = type(error).__module__.partition(".")[0] in ("builtins", "semigrid")
    return isinstance(error, NotImplementedError) or not (own or isinstance(error, OSError))


def answer_of(error: BaseException) -> ServerAnswer | None:
    """The server's answer behind an error, if there was one."""
    for each in _causes(error):
        response = getattr(each, "response", None)
        if isinstance(response, dict) and "Error" in response:
            facts, http = response["Error"], response.get("ResponseMetadata", {})
            region = facts.get("Region") or facts.get("BucketRegion")
            region = region or http.get("HTTPHeaders", {}).get("x-amz-bucket-region", "")
            status = int(http.get("HTTPStatusCode", 0))
            return ServerAnswer(
                status, str(facts.get("Code", status)), facts.get("Message", ""), region
            )
        number = getattr(each, "status", None) or getattr(each, "code", None)
        if isinstance(number, int):  # gcsfs and aiohttp
            return ServerAnswer(number, str(number), str(each))
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _clean(words: str) -> str:
    """The words on one line, without secrets."""
    for name in SECRETS:
        if secret := os.environ.get(name):
            words = words.replace(secret, f"${name}")
    return " ".join(words.split()).rstrip(".")


def _advice(answer: ServerAnswer) -> str:
    advice = REGION if answer.status in (301, 307) else ADVICE.get(answer.code)
    if advice == REGION:
        return REGION + (f"={answer.region}" if answer.region else " to the bucket's region")
    return advice or (
        "the credentials of this machine must be allowed to list, read, write and delete there "
        "(s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject)"
    )
