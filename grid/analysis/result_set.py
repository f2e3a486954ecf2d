"""The result set: study state and predictions, from which tables, reports and answers are made."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce

import numpy as np

from semigrid.data.errors import InputError
from semigrid.data.plausible import DeviceSeconds
from semigrid.data.storage import Storage
from semigrid.grid.analysis.comparisons import (
    Planned,
    Standings,
    compare_all,
    compare_planned,
)
from semigrid.grid.analysis.paper import paper_acc1
from semigrid.grid.analysis.predictions import (
    SeedPredictions,
    TestSet,
    read_study_predictions,
)
from semigrid.grid.analysis.statistics import Interval, Weighted, accuracy_interval, mean, std
from semigrid.grid.experiment.label_count import LabelCount, labels_used
from semigrid.grid.study.ledger import COLLAPSED, SCORES
from semigrid.grid.study.plan import Cell, Plan, Search
from semigrid.grid.study.state import StudyState
from semigrid.trainers.evaluation.scores import SUFFIXES, Metric
from semigrid.trainers.execution.progress import add
from semigrid.trainers.models.weights import Weights

FEW_IMAGES = 30  # with fewer, one image more or less right moves a score by over 3 points


@dataclass(frozen=True)
class CellResult:
    """A cell's state, the test metrics of its winner for each seed, and what it took.

    ``seeds`` are the winner's predictions, None for a seed whose predictions cannot be used.
    ``stopped`` counts trials that early stopping ended, ``collapsed`` trainings that collapsed;
    ``seconds`` and ``device_seconds`` add up all its trainings, without the parent's, and
    ``with_parents`` those of the cells that it starts or learns from, too. ``val`` are the Acc@1
    and cross-entropy on val that chose the winner, means over its seeds. ``paper`` is the Acc@1
    that the paper has for such a cell, in per cent. With predictions there is a ``test_set``.
    ``pool_unused`` says why, of each of the winner's seeds that learnt nothing from its pool.
    """

    cell: Cell
    state: str
    label_count: LabelCount
    pool_images: int | None
    test: list[dict[str, float]]
    trials: int
    stopped: int
    collapsed: int
    seconds: float
    device_seconds: DeviceSeconds
    failure: str | None
    weights: Weights | None = None
    seeds: Sequence[SeedPredictions | None] = ()
    paper: float | None = None
    test_set: TestSet | None = None
    pool_unused: Sequence[str] = ()
    val: tuple[float, float] | None = None
    with_parents: DeviceSeconds = field(default_factory=dict)

    @property
    def labeled_images(self) -> int:
        """All labels that the cell uses: train and val."""
        return self.label_count.total

    @property
    def predictions(self) -> list[SeedPredictions]:
        """Those that can be used."""
        return [seed for seed in self.seeds if seed is not None]

    @property
    def has_predictions(self) -> bool:
        return bool(self.predictions)

    @cached_property
    def right(self) -> np.ndarray:
        """Which images each seed put into their class, (S, N); only with predictions."""
        return np.stack([seed.right for seed in self.predictions])

    def weighted(self, hits: np.ndarray, metric: Metric) -> Weighted:
        """``hits`` (S, N), weighted for the metric; only with predictions."""
        assert self.test_set is not None
        shares = self.test_set.class_shares
        weights = np.ones(len(shares)) if metric == "balanced" else shares
        return Weighted(hits, self.test_set.labels, weights)

    @cached_property
    def balanced(self) -> Weighted:
        """``right``, whose mean is the balanced Acc@1: what cells are compared by."""
        return self.weighted(self.right, "balanced")

    @cached_property
    def intervals(self) -> Mapping[str, Interval]:
        """The intervals, as shares, of ``acc1``, ``acc5`` and so on; none without predictions."""
        if not self.has_predictions:
            return {}
        five = np.stack([seed.among_five for seed in self.predictions])
        natural = np.stack([seed.natural for seed in self.predictions], axis=1)
        hits: dict[Metric, Iterable[np.ndarray]] = {
            "balanced": (self.right, five),
            "natural": natural,
        }
        return {
            f"{name}{suffix}": accuracy_interval(self.weighted(each, metric))
            for metric, suffix in SUFFIXES.items()
            for name, each in zip(("acc1", "acc5"), hits[metric], strict=True)
        }

    @property
    def interval(self) -> Interval | None:
        """The interval of balanced Acc@1 as a share; None without predictions."""
        return self.intervals.get("acc1")

    def scores(self, metric: str) -> list[float]:
        """One a seed: those of the ledger's ``SCORES`` in per cent and in nats, or ``ece``."""
        if metric in SCORES:
            return [seed[metric] for seed in self.test]
        return [float(getattr(seed.scores, metric)) for seed in self.predictions]

    def mean(self, metric: str) -> float | None:
        return mean(self.scores(metric))

    def std(self, metric: str) -> float | None:
        return std(self.scores(metric))


@dataclass(frozen=True)
class ResultSet:
    """A study's state, and a result for each cell that was asked for.

    ``rows`` are in the file's order; ``problems`` says which predictions could not be used.
    ``paper_tasks`` has, by dataset, the task of the paper whose published values are shown.
    """

    study: StudyState
    test_sets: Mapping[str, TestSet]
    rows: list[CellResult]
    problems: list[str]
    paper_tasks: Mapping[str, str]

    @property
    def plan(self) -> Plan:
        return self.study.plan

    @property
    def datasets(self) -> list[str]:
        """Those of the rows, in the file's order."""
        return list(dict.fromkeys(row.cell.dataset for row in self.rows))

    @cached_property
    def contenders(self) -> list[CellResult]:
        """The rows that may be the best: no controls, unless nothing else of a dataset is there."""
        others = {row.cell.dataset for row in self.rows if row.cell.control is None}
        return [
            row for row in self.rows if row.cell.control is None or row.cell.dataset not in others
        ]

    @cached_property
    def standings(self) -> Standings:
        """All pairs of contenders with predictions; controls are in ``planned`` only."""
        rights = {row.cell: row.balanced for row in self.contenders if row.has_predictions}
        return compare_all(rights)

    @cached_property
    def planned(self) -> Mapping[Cell, Planned]:
        """Each row's comparison with its baseline, where both have predictions."""
        rights = {row.cell: row.balanced for row in self.rows if row.has_predictions}
        return compare_planned(rights, self.plan.baseline_of)

    @property
    def best(self) -> list[CellResult]:
        """The best contender of each dataset that has a finished one with predictions."""
        best = set(self.standings.best.values())
        return [row for row in self.rows if row.cell in best]

    def require_best(self) -> list[CellResult]:
        """The same; raises ``InputError`` where no cell has predictions."""
        if not self.best:
            raise InputError(
                f"{self.plan.experiment.source}: no finished cell has predictions yet; run the "
                "experiment first",
                *self.problems,
            )
        return self.best


def read_result_set(
    study: StudyState,
    storage: Storage,
    only: Sequence[str] | None = None,
    paper_tasks: Mapping[str, str] | None = None,
) -> ResultSet:
    """Reads the predictions of finished cells, and makes a result of every cell.

    Args:
        only: names of the cells that are wanted, None for all.
        paper_tasks: tasks of the paper, by dataset, whose published values are wanted.
    """
    tasks = paper_tasks or {}
    cells = [cell for cell in study.plan.cells if only is None or cell.name in only]
    test_sets, seeds, problems = read_study_predictions(study, storage, cells)
    rows = [
        replace(
            _cell_result(study, cell, seeds.get(cell, ()), tasks.get(cell.dataset)),
            test_set=test_sets.get(cell.dataset),
        )
        for cell in cells
    ]
    return ResultSet(study, test_sets, rows, problems, tasks)


def _cell_result(
    study: StudyState,
    cell: Cell,
    seeds: Sequence[SeedPredictions | None],
    task: str | None,
) -> CellResult:
    search, experiment, records = study.searches[cell.name], study.plan.experiment, study.records
    trained = [records[spec.id] for spec in search.specs if spec.id in records]
    outcomes = [study.outcome(trial) for trial in search.trials]
    finished = search.stage == "finished"
    winners = [records[spec.id] for spec in search.by_seed.values()] if finished else []
    tests = [record.test for record in winners]
    acc1, ce = (mean([record.score[i] for record in winners]) for i in (0, 1))
    return CellResult(
        cell=cell,
        state=search.stage,
        label_count=labels_used(experiment, cell.dataset, cell.labels),
        pool_images=study.plan.pool_images(search.search),
        test=[test for test in tests if test is not None],
        trials=sum(outcome is not None for outcome in outcomes),
        stopped=outcomes.count("stopped"),
        collapsed=sum(record.status in COLLAPSED for record in trained),
        seconds=sum(record.seconds for record in trained),
        device_seconds=_spent(study, cell.name),
        failure=search.failure,
        weights=next((record.weights for record in trained if record.weights is not None), None),
        seeds=seeds,
        pool_unused=study.pool_unused(cell.name),
        val=None if acc1 is None or ce is None else (acc1, ce),
        with_parents=_spent_with_parents(study, search.search),
        paper=None if task is None else paper_acc1(cell, task, experiment),
    )


def _spent(study: StudyState, search: str) -> DeviceSeconds:
    """Device-seconds of all trainings of a search."""
    trained = (study.records.get(spec.id) for spec in study.searches[search].specs)
    return reduce(add, (record.device_seconds for record in trained if record), {})


def _spent_with_parents(study: StudyState, search: Search) -> DeviceSeconds:
    """Those of all searches that it starts or learns from, too, each once."""
    names, found = {search.name: search}, [search]
    while found:
        new = {each.name: each for each in found.pop().sources if each.name not in names}
        names |= new
        found += new.values()
    return reduce(add, (_spent(study, name) for name in names), {})
