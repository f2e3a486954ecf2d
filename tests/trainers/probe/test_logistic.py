"""The fits are scikit-learn's, for fewer and for more images than features."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from tests.helpers.clusters import clusters

from semigrid.trainers.probe import logistic
from semigrid.trainers.probe.fit import fit_probe
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
    products = turned.rows.T @ turned.rows
    assert products == pytest.approx(np.diag(np.diag(products)), abs=1e-9)
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


@pytest.mark.parametrize(
    ("shortest", "lengths", "most"),
    [(1e-5, 0.0, 1500), (1.0, 1.5, 8000)],
    ids=["directions", "images"],
)
def test_features_of_unlike_lengths_take_few_products(
    shortest: float, lengths: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products with the Hessian for all values of C, where directions or images differ."""
    products, curved = [0], logistic._Problem._curved

    def counted(problem: logistic._Problem, *step: np.ndarray) -> np.ndarray:
        products[0] += 1
        return curved(problem, *step)

    monkeypatch.setattr(logistic._Problem, "_curved", counted)
    rng, labels = np.random.default_rng(0), np.arange(200) % 10
    centers = rng.normal(size=(10, 100)) * np.linspace(0, 1, 100)
    features = (centers[labels] + rng.normal(size=(200, 100))) * np.geomspace(1, shortest, 100)
    features *= np.exp(lengths * rng.normal(size=(200, 1)))
    fit_probe(features, labels, np.arange(200), 10, np.ones(10))
    assert products[0] < most
