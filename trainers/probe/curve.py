"""The learning curve of frozen features: how accuracy grows with the number of labels."""

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from fractions import Fraction
from threading import Event

import numpy as np
from threadpoolctl import threadpool_limits

from semigrid.data.splits import label_subset, seeded_order
from semigrid.trainers.probe.fit import fit_bytes, fit_probe, held_out
from semigrid.trainers.probe.neighbors import neighbors, unit

SIZES, DRAWS = 20, 10


@dataclass(frozen=True)
class Features:
    """Ids, features (N, D), class indices (N,) and groups by number (N,) of a split's images."""

    ids: Sequence[str]
    rows: np.ndarray
    labels: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class Point:
    """What so many labelled images give, for S draws of them and T test images.

    ``logistic`` and ``neighbors``, (S, T), say which test images were put into their class, and
    ``cs`` (S,) which C was chosen.
    """

    images: int
    logistic: np.ndarray
    neighbors: np.ndarray
    cs: np.ndarray


def label_fractions(labels: np.ndarray, sizes: int = SIZES) -> list[Fraction]:
    """Ascending label fractions, about evenly spaced by their logarithm, no two of equal images.

    The first has two images a class on average, or more where rare classes add one each, and the
    last is 1. There are fewer than ``sizes`` where there are few images.
    """
    images, classes = len(labels), len(np.unique(labels))
    found: list[Fraction] = []
    for number in range(sizes, 4 * sizes):  # whole images a class make some of them equal
        wanted = np.geomspace(min(2 * classes, images), images, number)
        fractions = [Fraction(round(float(each)), images) for each in wanted]
        by_size = {len(label_subset(labels, fraction)): fraction for fraction in fractions}
        found = [by_size[size] for size in sorted(by_size)]
        if len(found) >= sizes:
            break
    places = np.linspace(0, len(found) - 1, min(sizes, len(found)))
    return [found[round(float(place))] for place in places]


def draw_order(ids: Sequence[str], draw: int) -> np.ndarray:
    """The order of a draw, (N,): the first is the dataset's own, from which a grid's cells take."""
    if draw == 0:
        return np.arange(len(ids))
    # stored order is that of the bare ids, by a seed that may be this draw's number
    return np.array(seeded_order([f"probe/{image_id}" for image_id in ids], draw))


def learning_curve(
    train: Features,
    test: Features,
    class_weights: np.ndarray,
    sizes: int = SIZES,
    draws: int = DRAWS,
    threads: int = 1,
    memory: float = float("inf"),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Point]:
    """Probes of nested, class-stratified draws of the train images, by threads of this process.

    The images of a smaller size are among those of each larger one of the same draw.

    Args:
        threads: most fits at a time.
        memory: bytes that they may take together; one fit takes what it needs.
    """
    classes, fractions = len(class_weights), label_fractions(train.labels, sizes)
    orders = [draw_order(train.ids, draw) for draw in range(draws)]
    near_test, near_train = unit(test.rows), unit(train.rows)
    subsets = [label_subset(train.labels, fraction) for fraction in fractions]
    needed = max(
        fit_bytes(
            len(rows),
            train.rows.shape[1],
            classes,
            len(held_out(train.labels[rows], train.groups[rows])),
        )
        for rows in subsets
    )
    ended = Event()

    def may_go_on() -> None:
        if ended.is_set():
            raise CancelledError

    def work(fraction: Fraction, order: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        rows = order[label_subset(train.labels[order], fraction)]
        labels, groups = train.labels[rows], train.groups[rows]
        probe = fit_probe(train.rows[rows], labels, groups, classes, class_weights, may_go_on)
        by_probe = probe.logits(test.rows).argmax(axis=1)
        by_neighbors = neighbors(near_test, near_train[rows], labels, classes)
        return by_probe == test.labels, by_neighbors == test.labels, probe.c

    total = len(fractions) * draws
    progress(0, total)
    found = {}
    threads = max(1, int(min(threads, memory // needed)))
    # threads of a product of matrices would be in the way of those that run here
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        # the largest first, so that no core waits for the last
        tasks = {
            pool.submit(work, fraction, order): (size, draw)
            for size, fraction in reversed(list(enumerate(fractions)))
            for draw, order in enumerate(orders)
        }
        try:
            for task in as_completed(tasks):
                found[tasks[task]] = task.result()
                progress(len(found), total)
        except BaseException:  # an error of a fit, or an interrupt
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    points = []
    for size, subset in enumerate(subsets):
        right, near, cs = zip(*(found[size, draw] for draw in range(draws)), strict=True)
        points.append(Point(len(subset), np.stack(right), np.stack(near), np.array(cs)))
    return points
