"""How precisely a test set can measure, and which classes limit it."""

from collections.abc import Mapping, Sequence
from statistics import median_high
from typing import Any

import numpy as np

# of every class; no model has been trained when a dataset is built
ASSUMED_ACCURACY = 0.8
NORMAL_QUANTILE = 1.96  # of a 95 % interval
MOST_NAMES = 3  # of classes that are printed


def half_width(images: Sequence[int], accuracy: float = ASSUMED_ACCURACY) -> float | None:
    """Half of the 95 % interval of one training's balanced accuracy, as a share.

    It is 1.96 · √(Σ_c (1/K)² p (1 − p) / n_c) for K classes with ``images`` n_c, where the model
    has the accuracy p in every class. None where a class has no image.
    """
    n = np.asarray(images, dtype=float)
    if not n.all():
        return None
    return float(NORMAL_QUANTILE * np.sqrt((accuracy * (1 - accuracy) / n).sum()) / len(n))


def precision_of(counts: Mapping[Any, Mapping[str, int]]) -> dict[str, Any]:
    """Facts about a test set, for people and programs, from a manifest's images by split and class.

    ``images`` and ``share`` say how many of the labelled images it has, ``half_width`` (a share)
    how precise a cell's balanced accuracy will be where every class has ``assumed_accuracy``, and
    ``limited_by`` which classes have fewer test images than is usual, the rarest first: than the
    median of classes that could spare more. Groups may have given some of these too many.
    """
    test = counts["test"]
    labeled = {name: sum(images[name] for images in counts.values()) for name in test}
    usual = median_high([n for name, n in test.items() if n < labeled[name] // 2] or test.values())
    fewer = sorted((n, labeled[name], name) for name, n in test.items() if n < usual)
    return {
        "images": sum(test.values()),
        "share": sum(test.values()) / sum(labeled.values()),
        "half_width": half_width([*test.values()]),
        "assumed_accuracy": ASSUMED_ACCURACY,
        "limited_by": {name: images for images, _, name in fewer},
    }


def precision_line(facts: Mapping[str, Any]) -> str:
    """A sentence of the facts of ``precision_of``."""
    line = f"test has {facts['images']:,} images ({facts['share']:.1%} of the labelled ones)"
    if facts["half_width"] is not None:
        line += (
            f": at {facts['assumed_accuracy']:.0%} in every class, one training's balanced "
            f"accuracy would be known to ±{100 * facts['half_width']:.1f} points (95%)"
        )
    if not (fewer := facts["limited_by"]):
        return line
    return f"{line}; fewest test images: {few_names(fewer)}"


def val_lines(counts: Mapping[Any, Mapping[str, int]]) -> list[str]:
    """A sentence if val lacks classes, from a manifest's images by split and class."""
    train, val = counts["train"], counts["val"]
    if not (lacks := classes_without_val(counts)):
        return []
    few = few_names({name: train[name] for name in lacks})
    return [
        f"val has no image of {len(lacks):,} of {len(val):,} classes, so trainings are chosen by "
        f"the others; images in train: {few}"
    ]


def classes_without_val(counts: Mapping[Any, Mapping[str, int]]) -> list[str]:
    """The classes that val lacks, those with most images in train first."""
    lacks = (name for name, images in counts["val"].items() if not images)
    return sorted(lacks, key=lambda name: (-counts["train"][name], name))


def few_names(numbers: Mapping[str, int]) -> str:
    """The first classes with their numbers, and how many more there are."""
    names = [f"{name} {number:,}" for name, number in [*numbers.items()][:MOST_NAMES]]
    more = len(numbers) - len(names)
    return ", ".join(names) + (
        f" and {more:,} more class{'es' if more > 1 else ''}" if more else ""
    )
