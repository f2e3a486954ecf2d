"""What is right when a command has met an attack."""

import re

from tests.hostile.attacks import Attack

# What a terminal acts on: control characters but for line ends, and changes of direction.
ACTS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
LONGEST = 10_000


def fault(attack: Attack, code: int, said: str) -> str | None:
    """What is wrong with an exit code and an output; None if nothing is."""
    if code not in attack.right:
        return f"exit code {code}"
    if "Traceback" in said:
        return "a traceback"
    if acts := ACTS.search(said):
        return f"the terminal acts on {acts[0]!r}"
    if missing := [words for words in attack.says if not re.search(words, said)]:
        return f"does not say {missing[0]!r}"
    if told := [words for words in attack.never if re.search(words, said)]:
        return f"says {told[0]!r}"
    if len(said) > LONGEST:
        return f"{len(said)} characters"
    return None
