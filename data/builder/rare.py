"""Classes that cannot be learnt and tested, with the reasons and what to do about each."""

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from semigrid.data.crowd.consensus import spellings_of
from semigrid.data.errors import InputError
from semigrid.data.precision import few_names

NEW_SPLITS = "draw all splits anew with --splits new"


@dataclass(frozen=True)
class Cause:
    """Why ``classes`` are too rare, and the advice that helps these."""

    why: str
    advice: str
    classes: Sequence[str]


def causes_of_rare(
    classes: Sequence[str],
    images: Counter[str],
    groups: Counter[str],
    tested: Set[str],
    least: int,
) -> list[Cause]:
    """The causes by which each of the classes is too rare; a class may have several.

    Args:
        images: labelled images of each class.
        groups: groups of each class that train, and splits drawn from it, can have.
        tested: classes of the given test; empty without one.
        least: labelled images that a class needs.
    """
    lost = [name for name in classes if not images[name]]
    there = [name for name in classes if images[name]]
    more = "label more of them" + (", or give a lower --min-per-class" if least > 2 else "")
    causes = [
        Cause(
            "no image left: all have copies, or are in the groups of images, with another label or "
            "in another split",
            "correct their labels or take the others away",
            lost,
        ),
        Cause(
            "no image in the given train, or none that is not in another split, too",
            f"put images of them into train, or {NEW_SPLITS}",
            [name for name in there if not groups[name]],
        ),
        Cause(
            "no image in the given test",
            f"put images of them into test, or {NEW_SPLITS}",
            [name for name in there if tested and name not in tested],
        ),
        Cause(
            "only one group of images, which cannot be in train and in test",
            "label images of other groups",
            [name for name in there if not tested and groups[name] == 1 and images[name] > 1],
        ),
        Cause(
            f"fewer than {least:,} labelled images",
            more,
            [name for name in there if images[name] < least],
        ),
    ]
    return [cause for cause in causes if cause.classes]


def refuse_rare(
    causes: Sequence[Cause], classes: Sequence[str], images: Counter[str], *, asked: bool
) -> None:
    """Raises ``InputError`` with each cause, unless they were ``asked`` to go and two are left."""
    rare = {name for cause in causes for name in cause.classes}
    enough = len(classes) - len(rare) > 1
    if not rare or asked and enough:
        return

    def rarity(name: str) -> tuple[int, str]:
        return images[name], name

    problems = []
    for cause in causes:
        numbers = {name: images[name] for name in sorted(cause.classes, key=rarity)}
        has = "has" if len(numbers) == 1 else "have"
        those = f"{len(numbers):,} of {len(classes):,} classes {has}"
        problems.append(f"{those} {cause.why}: {few_names(numbers)}; {cause.advice}")
    alike = [group for group in spellings_of(classes) if rare & {*group}]
    problems += spelling_lines(alike, "write them alike")
    if enough:
        problems[-1] += (
            "; or give --rare pool (images of such classes join the pool) or --rare drop (they "
            "are left out)"
        )
    else:
        left = "1 class" if len(rare) < len(classes) else "no class"
        problems.append(f"without them there is {left}, and a classifier needs two")
    raise InputError(*problems)


def spelling_lines(groups: Iterable[Sequence[str]], advice: str) -> list[str]:
    """A sentence about each group of labels that differ in spelling only."""
    return [f"{', '.join(map(repr, group))} differ only in spelling: {advice}" for group in groups]
