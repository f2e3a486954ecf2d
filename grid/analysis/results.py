"""The results table, derived from the ledger and the prediction tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from semigrid.grid.analysis.comparisons import NOT_SEPARABLE, Standings, compare_all
from semigrid.grid.analysis.measured import Judged, Measured
from semigrid.grid.analysis.paper import paper_acc1
from semigrid.grid.analysis.statistics import Interval, accuracy_interval
from semigrid.grid.experiment import labeled_images
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Cell
from semigrid.grid.study.state import StudyState
from semigrid.grid.study.summary import COLLAPSED
from semigrid.trainers.progress import DeviceSeconds, add
from semigrid.trainers.weights import Weights

FEW_IMAGES = 30  # one image more or less right moves the score of fewer by over 3 points
METRICS = ("acc1", "acc5", "ce")


@dataclass(frozen=True)
class Row:
    """A cell's line: its state, test metrics of its winner per seed, and what it took.

    ``judged`` are the seeds whose predictions could be read, ``interval`` is that of their Acc@1
    (shares from 0 to 1). ``stopped`` of its trials fell behind, ``collapsed`` of its trainings led
    nowhere; ``seconds`` and ``device_seconds`` are of all its trainings together, the parent's not
    counted. ``paper`` is the Acc@1 that the paper has for such a cell.
    """

    cell: Cell
    state: str
    labeled_images: int
    pool_images: int | None
    test: list[dict[str, float]]
    trials: int
    stopped: int
    collapsed: int
    seconds: float
    device_seconds: DeviceSeconds
    failure: str | None
    weights: Weights | None = None
    judged: list[Judged] = field(default_factory=list)
    interval: Interval | None = None
    paper: float | None = None

    def scores(self, metric: str) -> list[float]:
        """One a seed: ``acc1``, ``acc5`` and ``macro`` in per cent, ``ce`` in nats, ``ece``."""
        if metric in METRICS:
            return [seed[metric] for seed in self.test]
        scale = 100 if metric == "macro" else 1
        return [scale * float(getattr(seed.scores, metric)) for seed in self.judged]

    def mean(self, metric: str) -> float | None:
        return mean(self.scores(metric))

    def std(self, metric: str) -> float | None:
        return std(self.scores(metric))


@dataclass(frozen=True)
class Results:
    """The rows of a table, which of them can be told apart, and what could not be read."""

    rows: list[Row]
    standings: Standings
    problems: list[str]
    tasks: Mapping[str, str] = field(default_factory=dict)  # of the paper, by dataset


def mean(scores: Sequence[float]) -> float | None:
    """Over seeds; None without any."""
    return sum(scores) / len(scores) if scores else None


def std(scores: Sequence[float]) -> float | None:
    """Sample standard deviation over seeds; None with fewer than two."""
    return float(pd.Series(scores).std(ddof=1)) if len(scores) > 1 else None


def results_of(
    study: StudyState,
    records: Mapping[str, Record],
    measured: Measured | None = None,
    only: Sequence[str] | None = None,
    tasks: Mapping[str, str] | None = None,
) -> Results:
    """One row per cell of the grid, in the file's order.

    Args:
        measured: the cells' predictions; without them there are no intervals and comparisons.
        only: names of the cells that are wanted and compared with each other, None for all.
        tasks: of the paper, by dataset, whose published values are wanted.
    """
    measured = Measured() if measured is None else measured
    tasks = {} if tasks is None else tasks
    cells = [cell for cell in study.plan.cells if only is None or cell.name in only]
    rows = [_row(study, records, measured, cell, tasks) for cell in cells]
    return Results(rows, compare_all(measured, cells), measured.problems, tasks)


def _row(
    study: StudyState,
    records: Mapping[str, Record],
    measured: Measured,
    cell: Cell,
    tasks: Mapping[str, str],
) -> Row:
    state, experiment = study.searches[cell.name], study.plan.experiment
    known = [records[spec.id] for spec in state.specs if spec.id in records]
    outcomes = [study.outcome(trial) for trial in state.trials]
    finished = state.stage == "finished"
    tests = [records[spec.id].test for spec in state.by_seed.values()] if finished else []
    device_seconds: DeviceSeconds = {}
    for record in known:
        device_seconds = add(device_seconds, record.device_seconds)
    right = measured.right(cell)
    task = tasks.get(cell.dataset)
    return Row(
        cell=cell,
        state=state.stage,
        labeled_images=labeled_images(experiment.datasets[cell.dataset], cell.labels),
        pool_images=study.plan.pool_images(state.search),
        test=[test for test in tests if test is not None],
        trials=sum(outcome is not None for outcome in outcomes),
        stopped=outcomes.count("stopped"),
        collapsed=sum(r.status in COLLAPSED for r in known),
        seconds=sum(r.seconds for r in known),
        device_seconds=device_seconds,
        failure=state.failure,
        weights=next((r.weights for r in known if r.weights is not None), None),
        judged=measured.seeds(cell),
        interval=None if right is None else accuracy_interval(right),
        paper=None if task is None else paper_acc1(cell, task, experiment),
    )


def standing(results: Results, row: Row) -> str | None:
    """``best``, ``not separable`` from the best, or ``below`` it; None without predictions."""
    if row.interval is None:
        return None
    if results.standings.is_marked(row.cell):
        return "best"
    pair = results.standings.to_best(row.cell)
    return NOT_SEPARABLE if pair is None or not pair.separable else "below"
