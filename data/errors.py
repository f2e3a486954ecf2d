"""Errors of the package: what the user can mend, and what happened to the storage."""


class InputError(ValueError):
    """Input that cannot be used; the message says what, where, what is allowed and what to do."""

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems


class RefusedError(InputError, PermissionError):
    """A bucket answers but refuses, so waiting does not help. Disks raise ``PermissionError``.

    ``one_object`` is true where the refusal may concern a single object rather than the bucket.
    """

    one_object = False


class StorageGoneError(OSError):
    """Storage stayed away for as long as it was waited for."""
