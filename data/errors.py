"""The one exception that means: the user can mend this, and here is how."""


class InputError(ValueError):
    """Input that cannot be used; the message says what, where, what is allowed and what to do."""

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems
