"""Made-up features of overlapping classes."""

import numpy as np


def clusters(images: int, columns: int, classes: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Features in float16, as in a store, with an offset, and their classes by turns."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    centers = rng.normal(size=(classes, columns))
    features = 5 + centers[labels] + 2 * rng.normal(size=(images, columns))
    return features.astype(np.float16), labels
