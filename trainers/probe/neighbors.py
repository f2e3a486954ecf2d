"""Nearest neighbours on frozen features: nothing is trained, so nothing can be chosen wrongly."""

import numpy as np

NEIGHBORS, TEMPERATURE = 20, 0.07
# Cosines in memory at once, for each thread; a few arrays of as many numbers stand beside them.
_COSINES = 2**21


def unit(features: np.ndarray) -> np.ndarray:
    """Features (N, D) with a length of 1, in float32; those of length 0 stay."""
    rows = features.astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12))


def neighbors(test: np.ndarray, train: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The class (T,) that the 20 nearest of N images vote for, each by exp(cosine / 0.07).

    ``test`` (T, D) and ``train`` (N, D) are of unit length. Weights as in DINO (arXiv 2104.14294,
    section 4.1).
    """
    images = max(1, _COSINES // len(train))
    parts = (test[start : start + images] for start in range(0, len(test), images))
    return np.concatenate([vote(part @ train.T, labels, classes) for part in parts])


def vote(similar: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The same for cosines (T, N). Of equally similar images the first counts."""
    nearest = np.arange(similar.shape[1])[None].repeat(len(similar), axis=0)
    if similar.shape[1] > NEIGHBORS:
        last = np.partition(similar, -NEIGHBORS, axis=1)[:, -NEIGHBORS, None]
        nearer, equal = similar > last, similar == last
        lacking = NEIGHBORS - nearer.sum(axis=1, keepdims=True)
        taken = nearer | equal & (equal.cumsum(axis=1, dtype=np.int32) <= lacking)
        nearest = np.nonzero(taken)[1].reshape(len(similar), NEIGHBORS)
    rows = np.arange(len(similar))[:, None]
    votes = np.zeros((len(similar), classes))
    np.add.at(votes, (rows, labels[nearest]), np.exp(similar[rows, nearest] / TEMPERATURE))
    return np.asarray(votes.argmax(axis=1))
