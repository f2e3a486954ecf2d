"""The paper's published results (arXiv 2305.10018): Acc@1 on test in per cent, for three tasks.

Values that cannot be read in the source are left out.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

from semigrid.data.errors import InputError
from semigrid.grid.experiment.experiment import Experiment
from semigrid.grid.study.plan import Cell

_QUARTERS = tuple(Fraction(n, 4) for n in (1, 2, 3, 4))
# Acc@1 by task and model with 25, 50, 75, 100 % of the labels
_BY_LABELS: dict[str, dict[str, tuple[float | None, ...]]] = {
    "vest-neck-style": {
        "resnet": (None, None, None, 79.736),
        "vit": (76.343, 80.584, 81.056, 81.244),
        "semi": (81.244, 81.433, 83.129, 85.297),
    },
    "phone-case-pattern": {
        "resnet": (None, None, None, 72.931),
        "vit": (74.175, None, 77.810, 79.005),
        "semi": (76.279, 79.149, 80.010, 81.540),
    },
    "apron-food-bib-pattern": {
        "resnet": (None, None, None, 73.766),
        "vit": (69.898, None, 78.301, None),
        "semi": (73.499, 77.234, 81.547, 81.814),
    },
}
# Semi-ViT with half the labels of aprons and more than 100 % of the unlabelled images
_BY_POOL = {Fraction(2): 78.301, Fraction(3): 79.146, Fraction(4): 77.679}
TASKS = tuple(_BY_LABELS)


def paper_tasks(asked: Sequence[str], experiment: Experiment) -> dict[str, str]:
    """The task of the paper that each dataset is shown beside.

    Args:
        asked: ``TASK`` for an experiment with one dataset, or ``DATASET=TASK``.

    Raises ``InputError`` for unknown tasks and datasets.
    """
    datasets = list(experiment.file.datasets)
    tasks: dict[str, str] = {}
    for each in asked:
        dataset, _, task = each.rpartition("=")
        if not dataset and len(datasets) == 1:
            dataset = datasets[0]
        for kind, name, known in (("dataset", dataset, datasets), ("task", task, TASKS)):
            if name not in known:
                raise InputError(
                    f"--paper {each!r}: {name!r} is no {kind}; give TASK, with several datasets "
                    f"DATASET=TASK; the {kind}s are {', '.join(known)}"
                )
        tasks[dataset] = task
    return tasks


def paper_acc1(cell: Cell, task: str, experiment: Experiment) -> float | None:
    """The paper's value for such a cell, in per cent; None where it has none."""
    name = _name_in_paper(cell, experiment)
    if name is None:
        return None
    if cell.unlabeled is not None and cell.unlabeled != 1:
        of_aprons = task == "apron-food-bib-pattern" and cell.labels == Fraction(1, 2)
        return _BY_POOL.get(cell.unlabeled) if of_aprons else None
    if cell.labels not in _QUARTERS:
        return None
    return _BY_LABELS[task][name][_QUARTERS.index(cell.labels)]


def _name_in_paper(cell: Cell, experiment: Experiment) -> str | None:
    """The paper's model that a cell's is shown beside: ResNet and ViT, fine-tuned, or Semi-ViT."""
    if cell.control is not None:
        return None
    model = experiment.file.models[cell.model]
    # as timm names them: mobilevit_s and resnetv2_50 are others
    found = re.match(r"(resnet|vit)(?![a-z])", experiment.backbone_of(cell.model).backbone or "")
    match model.method, found and found[1]:
        case "semi", "vit":
            return "semi"
        case "finetune", "resnet" | "vit" as name if model.parent is None:  # nothing twice
            return str(name)
    return None
