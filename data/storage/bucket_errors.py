"""The meaning of buckets' errors.

There are three kinds. A bucket that is away or busy comes back; a bucket that refuses does not; and
a missing object is ``FileNotFoundError``, as on a disk. The errors of fsspec's packages are told
apart by name, since none of those packages need be installed.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from semigrid.data.errors import RefusedError
from semigrid.data.storage.local import AWAY

AWAY_STATUS = {408, 429, 500, 502, 503, 504}
AWAY_CODES = {"ConditionalRequestConflict", "InternalError", "OperationAborted", "RequestTimeout"}
AWAY_CODES |= {"RequestLimitExceeded", "ServiceUnavailable", "SlowDown", "TooManyRequests"}
AWAY_CODES |= {"Throttling", "ThrottlingException"}
# errors of botocore, aiohttp and fsspec, most of which are not OSErrors: broken connections, and
# answers that are incomplete or come from a proxy
AWAY_ERRORS = {"ClientConnectionError", "ClientPayloadError", "ConnectionError", "HTTPClientError"}
AWAY_ERRORS |= {"IncompleteRead", "IncompleteReadError", "ResponseParserError", "TimeoutError"}

REFUSED_STATUS = {301, 307, 401, 403}
REFUSED_CODES = {"400", "ExpiredToken", "InvalidBucketName", "InvalidToken", "NoSuchBucket"}
REFUSED_CODES |= {"AuthorizationHeaderMalformed", "TokenRefreshRequired"}
REFUSED_CODES |= {"IllegalLocationConstraintException"}
# refusals that may concern one object alone; gcsfs reports no more than the number
ONE_OBJECT_CODES = {"AccessDenied", "InvalidObjectState", "403"}

ADVICE = {
    "NoSuchBucket": "make the bucket first, or correct its name (or AWS_ENDPOINT_URL)",
    "InvalidObjectState": "restore the object from its archive first",
    "RequestTimeTooSkewed": "set the clock of this machine",
}
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
CREDENTIALS = (
    "give credentials in the environment of each machine: AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role"
)


@dataclass(frozen=True)
class ServerAnswer:
    """A server's answer to a request that failed; ``region`` is the bucket's."""

    status: int
    code: str
    message: str = ""
    region: str = ""


def is_away(error: BaseException) -> bool:
    """Whether an error passes by itself."""
    answer = answer_of(error)
    if answer is not None:
        return answer.code in AWAY_CODES or answer.status in AWAY_STATUS
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return False
    return bool(AWAY_ERRORS & _kinds(error)) or isinstance(error, OSError) and error.errno in AWAY


def refusal(error: BaseException, uri: str) -> RefusedError | None:
    """The error to show, without secrets, when a bucket refuses; None when it does not."""
    answer = answer_of(error)
    if answer is not None:
        if answer.status not in REFUSED_STATUS and answer.code not in REFUSED_CODES:
            return None
        said = " ".join(word for word in (f"{answer.code}:", answer.message) if word)
    elif _is_configuration(error) and not is_away(error):
        said = str(error) or type(error).__name__
    else:
        return None
    words = f"{uri}: the storage refuses: {_clean(said)}; {_advice(error, answer)}"
    refused = RefusedError(words)
    refused.one_object = answer is not None and answer.code in ONE_OBJECT_CODES
    return refused


def _is_configuration(error: BaseException) -> bool:
    """Whether this machine's credentials, certificates or endpoint prevent any request."""
    words = str(error)
    wrong = "CERTIFICATE_VERIFY_FAILED" in words or words.startswith("Invalid endpoint")
    return wrong or "BotoCoreError" in _kinds(error)


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
        number = getattr(each, "code", None) or getattr(each, "status", None)
        if isinstance(number, int):  # gcsfs and aiohttp
            return ServerAnswer(number, str(number), str(each))
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _kinds(error: BaseException) -> set[str]:
    return {kind.__name__ for each in _causes(error) for kind in type(each).__mro__}


def _clean(words: str) -> str:
    """The words on one line, without secrets."""
    for name in SECRETS:
        if secret := os.environ.get(name):
            words = words.replace(secret, f"${name}")
    return " ".join(words.split()).rstrip(".")


def _advice(error: BaseException, answer: ServerAnswer | None) -> str:
    code = answer.code if answer else ""
    if answer is None:
        if "Credentials" in type(error).__name__:
            return CREDENTIALS
        return "check AWS_ENDPOINT_URL, AWS_PROFILE and AWS_DEFAULT_REGION of this machine"
    if code in ADVICE:
        return ADVICE[code]
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
