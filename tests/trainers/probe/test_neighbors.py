import tracemalloc

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from tests.helpers.clusters import clusters

from semigrid.trainers.probe import neighbors as module
from semigrid.trainers.probe.neighbors import neighbors, unit, vote


@pytest.mark.parametrize("cosines", [2**21, 150, 1])
def test_votes_are_those_of_scikit_learns_neighbours(
    cosines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_COSINES", cosines)  # all test images at once, two, one
    features, labels = clusters(90, 16, 4)
    features -= np.float16(5)
    train, test = features[:60], features[60:]
    model = KNeighborsClassifier(20, metric="cosine", weights=lambda far: np.exp((1 - far) / 0.07))
    expected = model.fit(train.astype(float), labels[:60]).predict(test.astype(float))
    found = neighbors(unit(test), unit(train), labels[:60], 4)
    assert (found == expected).all() and len(set(found)) == 4


def test_the_nearest_outvotes_several_that_are_far() -> None:
    # e^(1/0.07) is 1.6 million votes, e^(0.5/0.07) 1,265
    similar = np.array([[1.0, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.4]])
    assert vote(similar, np.array([0, 1, 1, 1]), 2).tolist() == [0, 1]
    assert unit(np.array([[3.0, 0], [0, 4], [0, 0]])).tolist() == [[1, 0], [0, 1], [0, 0]]


def test_of_equally_similar_images_the_first_count() -> None:
    # one is nearest; of 30 others that are equal, the first 19 vote: 9 for class 1, 10 for class 2
    similar = np.full((1, 40), 0.5, np.float32)
    similar[0, 35], similar[0, :5], similar[0, 36:] = 0.51, 0.4, 0.3
    labels = np.array([0] * 5 + [1] * 9 + [2] * 10 + [1] * 11 + [0] * 5)
    assert vote(similar, labels, 3).tolist() == [2]
    # by hand for random ties
    rng = np.random.default_rng(0)
    similar, labels = rng.integers(0, 9, (50, 90)) / 9, rng.integers(0, 5, 90)
    nearest = np.argsort(-similar, axis=1, kind="stable")[:, :20]
    votes = [
        np.bincount(labels[row], np.exp(one[row] / 0.07), 5)
        for row, one in zip(nearest, similar, strict=True)
    ]
    assert vote(similar, labels, 5).tolist() == np.argmax(votes, axis=1).tolist()


def test_memory_is_bounded_for_many_images() -> None:
    features = unit(np.random.default_rng(0).normal(size=(20_000, 4)))
    labels = np.arange(20_000) % 3
    tracemalloc.start()
    neighbors(features[:2000], features, labels, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80 * 2**20  # all cosines alone are 160 MB
