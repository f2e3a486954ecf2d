"""Errors of the package: what the user can mend, and what happened to the storage.

Messages quote addresses, also in the words of other libraries: none shows a password, a token or a
signature.
"""

from semigrid.data.redact import without_secrets

# Characters of a problem that are said: it may quote a value as long as a file.
LONGEST = 4000


class InputError(ValueError):
    """Input that cannot be used; the message says what, where, what is allowed and what to do."""

    def __init__(self, *problems: str):
        self.problems = tuple(_short(without_secrets(problem)) for problem in problems)
        super().__init__("\n".join(self.problems))


class RefusedError(InputError, PermissionError):
    """A bucket answers but refuses, so waiting does not help. Disks raise ``PermissionError``.

    ``one_object`` is true where the refusal may concern a single object rather than the bucket.
    """

    one_object = False


class StorageGoneError(OSError):
    """Storage stayed away for as long as it was waited for."""

    def __init__(self, message: str):
        super().__init__(without_secrets(message))


class ServerBusyError(StorageGoneError):
    """A web server kept answering that it is busy, with the HTTP ``status`` 429 or 503."""

    status = 0


def _short(problem: str) -> str:
    """A problem whose middle is left out if it is long; its end says what to do."""
    if len(problem) <= LONGEST:
        return problem
    return f"{problem[: LONGEST // 2]} […] {problem[-LONGEST // 2 :]}"
