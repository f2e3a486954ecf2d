import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from tests.helpers.clusters import clusters

from semigrid.trainers.probe.neighbors import similarities, vote


def test_votes_are_those_of_scikit_learns_neighbours() -> None:
    features, labels = clusters(90, 16, 4)
    features -= np.float16(5)
    train, test = features[:60], features[60:]
    model = KNeighborsClassifier(20, metric="cosine", weights=lambda far: np.exp((1 - far) / 0.07))
    expected = model.fit(train.astype(float), labels[:60]).predict(test.astype(float))
    found = vote(similarities(test, train), labels[:60], 4)
    assert (found == expected).all() and len(set(found)) == 4


def test_the_nearest_outvotes_several_that_are_far() -> None:
    # e^(1/0.07) is 1.6 million votes, e^(0.5/0.07) 1,265
    similar = np.array([[1.0, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.4]])
    assert vote(similar, np.array([0, 1, 1, 1]), 2).tolist() == [0, 1]
    assert similarities(np.array([[2.0, 0.0]]), np.array([[3.0, 0], [0, 1], [0, 0]])).tolist() == [
        [1.0, 0.0, 0.0]
    ]
