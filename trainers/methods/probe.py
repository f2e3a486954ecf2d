"""Linear probing: logistic regression on features of the frozen backbone (docs/methods.md §10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from semigrid.trainers.methods.method import Fitted
from semigrid.trainers.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np

    from semigrid.trainers.methods.method import Head


class ProbeRecipe(Recipe):
    """Features are pooled as timm pools them for the backbone."""

    global_pool: str | None = None


def fit(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, class_weights: np.ndarray
) -> Head:
    """L2 logistic regression, with its C chosen on a tenth of these images."""
    from semigrid.trainers.probe.fit import fit_probe

    return fit_probe(features, labels, groups, len(class_weights), class_weights)


PROBE = Fitted(
    name="probe",
    summary="frozen, with a head fitted by logistic regression",
    recipe=ProbeRecipe,
    parent="none",
    search_space=lambda recipe: {},
    fit=fit,
)
