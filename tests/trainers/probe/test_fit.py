"""The probe: what is held out, which C is chosen, and the head that comes out."""

import tracemalloc
import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from tests.helpers.clusters import clusters

from semigrid.trainers.evaluation.scores import cross_entropies, image_weights
from semigrid.trainers.probe import fit
from semigrid.trainers.probe.fit import CS, UNCHOSEN, fit_bytes, fit_probe, held_out


def alone(labels: np.ndarray) -> np.ndarray:
    """Groups of one image each."""
    return np.arange(len(labels))


def test_a_tenth_is_held_out_class_by_class() -> None:
    labels = np.repeat([0, 1], [25, 10])
    held = held_out(labels, alone(labels))
    assert np.flatnonzero(held[0]).tolist() == [0, 1, 25] and len(held) == 1


def test_folds_hold_out_each_image_once_but_the_only_one_of_its_class() -> None:
    labels = np.array([0, 1, 0, 2, 0, 1, 0, 0, 0])
    held = held_out(labels, alone(labels))
    assert [np.flatnonzero(fold).tolist() for fold in held] == [[0, 1, 8], [2, 5], [4], [6], [7]]
    assert held_out(np.arange(4), np.arange(4)).shape == (0, 4)


def test_groups_are_held_out_whole() -> None:
    # ten groups of the first class, and twelve of the second, whose names are in no order
    groups = np.concatenate(
        [np.repeat(np.arange(20, 10, -1), 2), np.repeat(np.arange(99, 87, -1), 3)]
    )
    labels = np.repeat([0, 1], [20, 36])
    (held,) = held_out(labels, groups)
    assert np.flatnonzero(held).tolist() == [0, 1, 20, 21, 22]
    # folds: one with images of two classes, and the only one of a third, which stays
    labels, groups = np.array([0, 0, 1, 1, 0, 2, 2, 1]), np.array([5, 5, 5, 4, 3, 9, 9, 8])
    held = held_out(labels, groups)
    assert [np.flatnonzero(fold).tolist() for fold in held] == [[0, 1, 2, 3], [4, 7]]


def test_near_duplicates_do_not_choose_a_c_that_learns_them_by_heart() -> None:
    centers, labels = clusters(80, 32, 4)
    rng = np.random.default_rng(0)
    copies = rng.permutation(np.repeat(np.arange(80), 5))
    near = centers[copies] + 0.05 * rng.normal(size=(400, 32))
    by_image = fit_probe(near, labels[copies], np.arange(400), 4, np.ones(4))
    by_group = fit_probe(near, labels[copies], copies, 4, np.ones(4))
    assert by_image.c == CS[-1] and by_group.c < 1


def test_the_values_of_c_are_the_published_ones() -> None:
    assert len(CS) == 45 and (CS[0], CS[-1]) == pytest.approx((1e-6, 1e5))


@pytest.mark.parametrize("images", [44, 27])  # a tenth; folds
def test_the_c_chosen_is_the_best_that_scikit_learn_finds(images: int) -> None:
    features, labels = clusters(images, 12, 3, seed=images)
    shares = np.array([0.5, 0.3, 0.2])
    probe = fit_probe(features, labels, alone(labels), 3, shares)
    mean = features.astype(float).mean(axis=0)
    scaled = features.astype(float) - mean
    scale = np.sqrt((scaled**2).sum(axis=1).mean())
    scaled /= scale

    def fitted(c: float, used: np.ndarray) -> LogisticRegression:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = LogisticRegression(C=c, tol=1e-6, max_iter=10**5)
            return model.fit(scaled[used], labels[used])

    found = []
    for c in CS:
        folds = held_out(labels, alone(labels))
        parts = [(held, fitted(c, ~held).predict_proba(scaled[held])) for held in folds]
        truth = np.concatenate([labels[held] for held, _ in parts])
        p = np.concatenate([of for _, of in parts])
        weights = image_weights(truth, shares)
        right = round(float((p.argmax(axis=1) == truth) @ weights), 12)
        found.append((right, -float(cross_entropies(truth, p) @ weights)))
    best = max(range(len(CS)), key=lambda number: found[number])
    assert probe.c == pytest.approx(CS[best])
    model = fitted(probe.c, np.ones(images, bool))
    logits = probe.logits(features)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert p == pytest.approx(model.predict_proba(scaled), abs=1e-4)
    assert (p.argmax(axis=1) == model.predict(scaled)).all()


def test_turned_features_give_the_same_probe() -> None:
    features, labels = clusters(40, 6, 2)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    one = fit_probe(features.astype(float), labels, alone(labels), 2, np.ones(2))
    other = fit_probe(features @ turn, labels, alone(labels), 2, np.ones(2))
    assert one.c == other.c
    assert one.logits(features) == pytest.approx(other.logits(features @ turn), abs=1e-5)


def test_with_one_image_of_each_class_there_is_nothing_to_choose_by() -> None:
    features, labels = clusters(3, 6, 3)
    probe = fit_probe(features, labels, alone(labels), 4, np.ones(4))
    assert probe.c == UNCHOSEN and (probe.logits(features).argmax(axis=1) == labels).all()
    assert probe.bias[3] == fit._NEVER  # the fourth class has no image


@pytest.mark.parametrize(
    ("images", "columns", "classes"), [(900, 64, 3), (900, 64, 30), (150, 40, 30), (400, 900, 2)]
)
def test_a_fit_takes_no_more_memory_than_it_is_given(
    images: int, columns: int, classes: int
) -> None:
    features, labels = clusters(images, columns, classes)
    groups = alone(labels)
    fits = len(held_out(labels, groups))
    tracemalloc.start()
    fit_probe(features, labels, groups, classes, np.ones(classes))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    given = fit_bytes(images, columns, classes, fits)
    assert given / 2 < peak < given
