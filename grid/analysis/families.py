"""The cells that an answer compares: a semi-supervised model, and what labels alone can do.

Labels alone are the model that a semi-supervised one starts from, those that are fine-tuned from
the same winner, and its compute control: the same model trained for as long. Of one that starts
from a backbone they are the models without a pool on the same backbone, and its control. The
control counts wherever it exists. But a longer training may be the worse one, and a model must not
be praised for a control that overfits: another takes its place where that is certainly better on
val.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import get_args

import numpy as np

from semigrid.grid.analysis.guesses import is_above_chance
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.analysis.statistics import LEVEL, quantile
from semigrid.grid.experiment.schema import Control
from semigrid.grid.study.plan import Cell, Plan
from semigrid.trainers.evaluation.choose import rank
from semigrid.trainers.methods import find_method

ByFraction = Mapping[Fraction, CellResult]

THE_IMAGES = "the unlabelled images"


@dataclass(frozen=True)
class Family:
    """A semi-supervised model on one dataset: its cells with predictions and those beside them.

    Attributes:
        semi: its own cells, by labels, then by pool.
        parent: the model that it starts from; None where that is a backbone.
        parents: its cells, by label fraction.
        others: further cells without a pool that start from its parents, or from its backbone.
        controls: those of each kind, beside the smallest pool of each label fraction.
        learnt: the dataset's cells that are certainly above chance.
        teachers: of each of its cells that is distilled, the best of its teachers on val.
    """

    plan: Plan
    dataset: str
    model: str
    parent: str | None
    semi: list[CellResult]
    parents: ByFraction
    others: list[CellResult]
    controls: Mapping[Control, ByFraction]
    learnt: frozenset[Cell]
    teachers: Mapping[Cell, CellResult] = field(default_factory=dict)

    @cached_property
    def smallest(self) -> ByFraction:
        """Its cell with the smallest pool at each label fraction."""
        return {row.cell.labels: row for row in reversed(self.semi)}

    @property
    def bases(self) -> dict[str, ByFraction]:
        """What it is held against beside its control: its parent or, without one, all others."""
        if self.parent is not None:
            return {self.parent: self.parents}
        found: dict[str, dict[Fraction, CellResult]] = {}
        for row in self.others:
            found.setdefault(name_of(self.plan, row.cell), {})[row.cell.labels] = row
        return dict(found)

    @property
    def labels_only(self) -> list[CellResult]:
        """All cells without unlabelled images that have learnt, controls last."""
        rows = [*self.parents.values(), *self.others, *self.controls["compute"].values()]
        return [row for row in rows if row.cell in self.learnt]

    @cached_property
    def alone(self) -> ByFraction:
        """Labels alone at each label fraction.

        The control, unless another of ``labels_only`` is better on val by more than a val of that
        size can tell; the best on val where there is no control.
        """
        best = {}
        for fraction in dict.fromkeys(row.cell.labels for row in self.labels_only):
            rows = [row for row in self.labels_only if row.cell.labels == fraction]
            if rows[-1].cell.control is not None:
                control = rows.pop()
                rows = [row for row in rows if _is_better_on_val(row, control)] or [control]
            best[fraction] = max(rows, key=on_val)
        return best

    @cached_property
    def curve(self) -> ByFraction:
        """The cells without unlabelled images that labels saved are estimated by, all of a kind.

        A line through trainings of two lengths would take a longer training for more labels. So it
        is the kind that ``alone`` has with the most labels, where that has learnt at two fractions;
        else controls where they have, else the parents or, without parents, the first of others.
        """
        of_kind: dict[tuple[str, Control | None], dict[Fraction, CellResult]] = {}
        for row in self.labels_only:
            of_kind.setdefault(_kind(row), {})[row.cell.labels] = row
        most = _kind(max(self.alone.values(), key=lambda row: row.label_count.train))
        starts = self.others if self.parent is None else self.parents.values()
        for kind in (most, (self.model, "compute"), *map(_kind, starts)):
            if len(of_kind.get(kind, ())) > 1:
                return of_kind[kind]
        return of_kind[most]

    def beside(self, control: Control) -> dict[Fraction, tuple[CellResult, CellResult]]:
        """Cells with the smallest pool and their controls, where one of the two has learnt."""
        rows = {row.cell: row for row in self.controls[control].values()}
        pairs = {}
        for fraction, row in self.smallest.items():
            found = rows.get(self.plan.control_of(row.cell, control) or row.cell)
            if found is not None and self.learnt & {row.cell, found.cell}:
                pairs[fraction] = row, found
        return pairs


def families(results: ResultSet) -> Iterator[Family]:
    """A family for each dataset and each semi-supervised model that it was asked for."""
    plan = results.plan
    rows = {row.cell: row for row in results.rows}
    finished = {cell: row for cell, row in rows.items() if row.has_predictions}
    for dataset in results.datasets:
        learnt = learnt_cells(row for cell, row in finished.items() if cell.dataset == dataset)
        for model, config in plan.experiment.file.models.items():
            if not any(_is_of(cell, dataset, model) for cell in rows):
                continue
            semi = sorted(
                (row for cell, row in finished.items() if _is_of(cell, dataset, model)),
                key=lambda row: (row.labeled_images, row.cell.unlabeled or 0),
            )
            of_dataset = [row for cell, row in finished.items() if cell.dataset == dataset]
            plain = [r for r in of_dataset if (r.cell.control, r.cell.unlabeled) == (None, None)]
            parents = {r.cell.labels: r for r in plain if r.cell.model == config.parent}
            others = [row for row in plain if start_alike(plan, row.cell.model, model)]
            controls: dict[Control, dict[Fraction, CellResult]] = {k: {} for k in get_args(Control)}
            largest_first = sorted(finished, key=lambda cell: -(cell.unlabeled or 0))
            for cell in largest_first:
                if cell.control is not None and (cell.dataset, cell.model) == (dataset, model):
                    controls[cell.control][cell.labels] = finished[cell]
            teachers = {
                row.cell: max((finished[cell] for cell in of_row), key=on_val)
                for row in semi
                if (of_row := plan.teachers_of(row.cell)) and finished.keys() >= {*of_row}
            }
            yield Family(
                plan,
                dataset,
                model,
                config.parent,
                semi,
                parents,
                others,
                controls,
                learnt,
                teachers,
            )


def learnt_cells(rows: Iterable[CellResult]) -> frozenset[Cell]:
    """Those of a dataset's cells that are certainly above chance, at 95 % for all together.

    Together, since of many cells that guess the luckiest is well above it.
    """
    finished = list(rows)
    level = 1 - (1 - LEVEL) / max(1, len(finished))
    return frozenset(
        row.cell for row in finished if is_above_chance(row.balanced, chance_of(row), level)
    )


def chance_of(row: CellResult) -> float:
    """The balanced accuracy of guessing, a share: each class that has test images counts alike."""
    return 1 / len(np.unique(row.balanced.labels))


def start_alike(plan: Plan, other: str, model: str) -> bool:
    """Whether another model starts from what a model starts from: a model, or a backbone."""
    experiment = plan.experiment
    start = experiment.file.models[model].parent
    if start is not None:
        return experiment.file.models[other].parent == start
    backbones = [experiment.backbone_of(name) for name in (other, model)]
    first, second = ((b.backbone, b.backbone_args, b.pretrained) for b in backbones)
    return first == second


def trained_longer(plan: Plan, model: str) -> str:
    """What the compute control of a model trains: the model that it starts from, or a method."""
    config = plan.experiment.file.models[model]
    return config.parent or find_method(config.method).control


def what_helps(plan: Plan, model: str) -> str:
    """What a model has more than its compute control: unlabelled images, or answers for them."""
    teachers = plan.experiment.file.models[model].teachers
    if not teachers:
        return THE_IMAGES
    whose = "its teacher's" if len(teachers) == 1 else "its teachers'"
    return f"{whose} answers for unlabelled images"


def name_among_all(plan: Plan, cell: Cell) -> str:
    """What a cell is called beside those of all models: ``semi-vit's control``."""
    match cell.control:
        case "compute":
            return f"{cell.model}'s control"
        case "labeled-pool":
            return f"{cell.model}'s control, labelled pool"
    return name_of(plan, cell)


def name_of(plan: Plan, cell: Cell) -> str:
    """What a cell is called in what is said of its model: ``vit trained for longer``."""
    match cell.control:
        case "compute":
            return f"{trained_longer(plan, cell.model)} trained for longer"
        case "labeled-pool":
            return f"{cell.model} with its labelled images as the pool"
    has_choice = find_method(plan.method(cell)).pool == "optional"
    return cell.model + " without a pool" * (has_choice and cell.unlabeled is None)


def on_val(row: CellResult) -> tuple[float, float]:
    """A sort key that is greater for the better scores on val."""
    return (float("-inf"), 0.0) if row.val is None else rank(*row.val)


def _is_better_on_val(row: CellResult, other: CellResult) -> bool:
    """Whether it is so at 95 %, by the interval of Agresti and Caffo (2000) for two accuracies.

    Which val images each has right is not kept: as if val had been drawn for each of the two, which
    is the more cautious.
    """
    if row.val is None or other.val is None:
        return False
    images = row.label_count.val
    first, second = ((images * val[0] / 100 + 1) / (images + 2) for val in (row.val, other.val))
    variance = (first * (1 - first) + second * (1 - second)) / (images + 2)
    return bool(first - second > quantile(float("inf")) * variance**0.5)


def _kind(row: CellResult) -> tuple[str, Control | None]:
    return row.cell.model, row.cell.control


def _is_of(cell: Cell, dataset: str, model: str) -> bool:
    is_models = (cell.dataset, cell.model) == (dataset, model)
    return is_models and cell.control is None and cell.unlabeled is not None
