import threading
import time
from typing import Any

import numpy as np
import pytest
from tests.helpers.clusters import clusters

from semigrid.data.splits import label_subset, seeded_order
from semigrid.trainers.probe import curve
from semigrid.trainers.probe.curve import Features, draw_order, label_fractions, learning_curve
from semigrid.trainers.probe.fit import Probe, fit_probe


def split(start: int, stop: int) -> Features:
    features, labels = clusters(120, 10, 3)
    names, groups = [f"i{n}" for n in range(start, stop)], np.arange(start, stop) // 2
    return Features(names, features[start:stop], labels[start:stop], groups)


def test_sizes_rise_evenly_from_two_a_class_to_all_and_draws_are_nested() -> None:
    labels = np.repeat(np.arange(4), 100)
    fractions = label_fractions(labels)
    images = [len(label_subset(labels, fraction)) for fraction in fractions]
    assert len(images) == 20 and (images[0], images[-1]) == (8, 400) and images == sorted(images)
    ratios = np.array(images[11:]) / images[10:-1]
    assert ratios == pytest.approx(50 ** (1 / 19), abs=0.06)
    order = draw_order([str(n) for n in range(400)], 3)
    assert sorted(order) == list(range(400)) and (order[:20] != np.arange(20)).any()
    taken = [set(order[label_subset(labels[order], fraction)]) for fraction in fractions]
    assert all(less < more for less, more in zip(taken, taken[1:], strict=False))
    assert label_fractions(np.arange(3)) == [1]


@pytest.mark.parametrize("order_seed", [0, 3, 9])
def test_no_two_draws_are_the_same_whatever_order_the_dataset_has(order_seed: int) -> None:
    names = [f"i{number}" for number in range(60)]
    stored = [names[position] for position in seeded_order(names, order_seed)]
    draws = {tuple(draw_order(stored, draw)) for draw in range(10)}
    assert len(draws) == 10


def test_a_curve_is_that_of_its_single_probes_on_any_number_of_threads() -> None:
    train, test = split(0, 60), split(60, 120)
    points = learning_curve(train, test, np.ones(3), sizes=3, draws=2)
    assert [point.images for point in points] == [6, 18, 60]
    probe = fit_probe(train.rows, train.labels, train.groups, 3, np.ones(3))
    right = probe.logits(test.rows).argmax(axis=1) == test.labels
    assert (points[-1].logistic[0] == right).all() and points[-1].cs[0] == probe.c
    assert points[-1].logistic.shape == points[-1].neighbors.shape == (2, 60)
    again = learning_curve(train, test, np.ones(3), sizes=3, draws=2, threads=3)
    for one, other in zip(points, again, strict=True):
        assert (one.logistic == other.logistic).all() and (one.neighbors == other.neighbors).all()
        assert (one.cs == other.cs).all()


def test_as_many_fits_at_a_time_as_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[str] = set()

    def noted(*given: Any) -> Probe:
        threads.add(threading.current_thread().name)
        return fit_probe(*given)

    monkeypatch.setattr(curve, "fit_probe", noted)
    train, test = split(0, 60), split(60, 120)
    learning_curve(train, test, np.ones(3), 3, 2, threads=3, memory=1)
    assert len(threads) == 1


@pytest.mark.parametrize("ended_by", ["interrupt", "fit"])
def test_what_ends_a_curve_early_ends_its_other_fits(
    ended_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[int] = []

    def first_or_endless(features: np.ndarray, *rest: Any) -> Probe:
        fits.append(len(features))
        for _ in range(2000 if len(fits) > 1 else 0):
            rest[-1]()
            time.sleep(0.01)
        if ended_by == "fit":
            raise KeyboardInterrupt
        return fit_probe(features, *rest)

    def interrupt(done: int, total: int) -> None:
        assert total > 150
        if done:
            raise KeyboardInterrupt

    monkeypatch.setattr(curve, "fit_probe", first_or_endless)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        learning_curve(split(0, 60), split(60, 120), np.ones(3), threads=2, progress=interrupt)
    assert time.monotonic() - started < 15 and len(fits) < 5


def test_a_fit_can_be_ended_after_each_c() -> None:
    train, tried = split(0, 60), 0

    def may_go_on() -> None:
        nonlocal tried
        tried += 1
        if tried == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_probe(train.rows, train.labels, train.groups, 3, np.ones(3), may_go_on)
