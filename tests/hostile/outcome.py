"""What is right when a command has met an attack."""

import re

from tests.hostile.attacks import Attack

# What a terminal acts on or hides: control characters but for line ends, changes of direction,
# line ends of other scripts, and characters without a width.
ACTS = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)
LONGEST = 10_000
SECRET = "SECRET-OF-THIS-MACHINE"  # in the environment of every attack
# A command that fails where nobody foresaw it: what a traceback is to its author.
UNFORESEEN = re.compile("Traceback|an error of semigrid's own")


def fault(attack: Attack, code: int, said: str) -> str | None:
    """What is wrong with an exit code and an output; None if nothing is."""
    if code not in attack.right:
        return f"exit code {code}"
    if UNFORESEEN.search(said):
        return "an error that nobody foresaw"
    if SECRET in said:
        return "a secret of this machine"
    if acts := ACTS.search(said):
        return f"the terminal acts on {acts[0]!r}"
    if missing := [words for words in attack.says if not re.search(words, said)]:
        return f"does not say {missing[0]!r}"
    if len(said) > LONGEST:
        return f"{len(said)} characters"
    return None
