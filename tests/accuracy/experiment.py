"""The experiment file of a set: Lite0 on the labels, its control, and with the pool."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from tests.accuracy.sets import SETS
from tests.accuracy.weights import BACKBONE, LICENSE


def experiment(
    name: str,
    dataset: Path | str,
    weights: Path,
    folder: Path,
    *,
    labels: Sequence[str],
    seeds: int,
    steps: int | None = None,
) -> str:
    """YAML; the rule of docs/recipes.md sets batch size, rate and, without ``steps``, those."""
    recipe = {"img_size": SETS[name].pixels, "evaluations": 5, **SETS[name].recipe}
    if steps is not None:
        recipe["steps"] = steps
    file: dict[str, Any] = {
        "name": name,
        "datasets": {name: str(dataset)},
        "models": {
            "lite0": {
                "backbone": BACKBONE,
                "pretrained": str(weights),
                "weights_license": LICENSE,
                "method": "finetune",
                "recipe": recipe,
            },
            "semi-lite0": {"from": "lite0", "method": "semi", "recipe": recipe | SETS[name].weak},
        },
        "grid": [
            {"model": "lite0", "labels": list(labels)},
            {"model": "semi-lite0", "labels": list(labels)},
        ],
        "controls": ["compute"],
        "seeds": seeds,
        "storage": str(folder),
    }
    return yaml.safe_dump(file, sort_keys=False)
