"""Result sets whose dataset and predictions are made up, without a folder or a ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tests.helpers.experiments import experiment_text
from tests.helpers.scheduling import study_of

from semigrid.grid.analysis.predictions import SeedPredictions, TestSet
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.experiment.label_count import labels_used
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.study.plan import Plan
from semigrid.trainers.evaluation.scores import Scores

NO_SCORES = Scores(acc1=0, acc5=0, ce=0, acc1_natural=0, acc5_natural=0, ce_natural=0, ece=0)


class MadeUpGrid:
    """A plan on one dataset of some 1,000 train and 150 val images, tested on what it is given."""

    def __init__(self, **changes: Any) -> None:
        self.plan = Plan(load_experiment("file.yaml", text=experiment_text(**changes)))
        self.study = study_of(self.plan)

    def results(
        self,
        labels: np.ndarray,
        seeds: Mapping[str, Sequence[SeedPredictions]],
        classes: int,
        test: Mapping[str, list[dict[str, float]]] | None = None,
        train: Mapping[str, int] | None = None,
        where: Sequence[str | None] = (),
        val: Mapping[str, float] | None = None,
    ) -> ResultSet:
        """The results of these cells; others are not finished.

        Args:
            labels: the test images' classes, (N,).
            seeds: each cell's predictions, by its name.
            test: their scores on test, by the cell's name.
            train: train images by class.
            where: the test images' values of a slice, none without.
            val: Acc@1 on val in per cent, by the cell's name.
        """
        names = tuple(f"class{number}" for number in range(classes))
        experiment = self.plan.experiment
        name, dataset = next(iter(experiment.datasets.items()))
        counts = {"train": dict(train or dict.fromkeys(names, 1000 // classes))}
        counts["val"] = {n: 1 + 150 // classes for n in names}
        counts["test"] = {n: int((labels == number).sum()) for number, n in enumerate(names)}
        slices = ("where",) if where else ()
        manifest = dataset.manifest.model_copy(
            update={"classes": names, "slices": slices, "counts": counts}
        )
        changed = type(dataset)(dataset.storage, manifest)
        plan = Plan(replace(experiment, datasets={name: changed}))
        of_slices = {"where": list(where)} if where else {}
        ids = [str(number) for number in range(len(labels))]
        test_set = TestSet(ids, labels, names, of_slices, manifest.class_shares)
        rows = [
            CellResult(
                cell=cell,
                state="finished" if cell.name in seeds else "waiting",
                label_count=labels_used(plan.experiment, name, cell.labels),
                pool_images=None if cell.unlabeled is None else int(300 * cell.unlabeled),
                test=(test or {}).get(cell.name, []),
                trials=1,
                stopped=0,
                collapsed=0,
                seconds=1.0,
                device_seconds={"cpu": 1.0},
                with_parents={"cpu": 2.0 if cell.unlabeled else 1.0},
                failure=None,
                seeds=seeds.get(cell.name, ()),
                test_set=test_set if cell.name in seeds else None,
                val=((val or {}).get(cell.name, 90.0), 1.0),
            )
            for cell in plan.cells
        ]
        return ResultSet(replace(self.study, plan=plan), {name: test_set}, rows, [], {})


def predicted(right: np.ndarray, labels: np.ndarray, classes: int) -> list[SeedPredictions]:
    """Predictions of seeds that put these images into their class, (S, N)."""
    return [
        SeedPredictions(
            chosen=np.where(of_seed, labels, (labels + 1) % classes),
            confidence=np.full(len(labels), 0.7),
            right=of_seed,
            among_five=of_seed,
            natural=np.stack([of_seed, of_seed]),
            scores=NO_SCORES,
        )
        for of_seed in right
    ]
