"""The fits are scikit-learn's, for fewer and for more images than features."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from tests.helpers.clusters import clusters

from semigrid.trainers.probe.logistic import Path, Turned

CS = [1e-3, 0.1, 10.0, 1e4]


@pytest.mark.parametrize(("images", "columns"), [(60, 100), (90, 8)])
def test_every_subset_is_fitted_as_scikit_learn_fits_it(images: int, columns: int) -> None:
    features, labels = clusters(images, columns, 3)
    turned = Turned.of(features)
    scaled = (features.astype(float) - turned.mean) / turned.scale
    assert (scaled**2).sum(axis=1).mean() == pytest.approx(1)
    turns, ones = turned.rows[:, :-1], turned.rows[:, -1]
    assert turns @ turns.T == pytest.approx(scaled @ scaled.T, abs=1e-9) and (ones == 1).all()
    assert turned.rows.T @ turned.rows == pytest.approx(np.diag(turned.spread), abs=1e-9)
    subsets = np.ones((3, images), bool)
    subsets[0, ::10] = False
    subsets[1, labels == 2] = False  # a class that this one does not know
    path = Path(turned, labels, 3, subsets)
    assert path.absent.tolist() == [[False] * 3, [False, False, True], [False] * 3]
    for c, fits in zip(CS, path.along(CS, 1e-8), strict=True):
        for number, used in enumerate(subsets):
            known = np.unique(labels[used])
            logits = fits.logits[:, number, known]
            found = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            model = LogisticRegression(C=c, tol=1e-10, max_iter=10**5)
            model.fit(scaled[used], labels[used])
            assert found == pytest.approx(model.predict_proba(scaled), abs=1e-5), (c, number)
            weights = turned.turn @ fits.weights[:-1, number]
            assert scaled @ weights + fits.weights[-1, number] == pytest.approx(
                fits.logits[:, number], abs=1e-8
            )


def test_images_that_are_all_the_same_are_no_error() -> None:
    turned = Turned.of(np.ones((4, 5), np.float16))
    labels = np.array([0, 0, 0, 1])
    (fits,) = Path(turned, labels, 2, np.ones((1, 4), bool)).along([1.0], 1e-9)
    logits = fits.logits[0, 0]
    assert np.exp(logits[0] - logits[1]) == pytest.approx(3)  # the classes' shares
