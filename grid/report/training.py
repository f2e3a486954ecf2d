"""Charts of how the models were made: searches, what mattered in them, learning and health."""

from collections.abc import Sequence

import optuna
from optuna.importance import get_param_importances
from optuna.trial import TrialState

from semigrid.grid.analysis.result_set import ResultSet
from semigrid.grid.report.charts import COLORS, Series, bars, lines
from semigrid.grid.report.figure import Figure, Missing
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.search import space_of
from semigrid.grid.study.state import SearchState
from semigrid.grid.trackers.optuna_journal import frozen

FEWEST_TRIALS = 8  # fewer say nothing about importance
MOST_LINES = 2 * len(COLORS)
HEALTH = {
    "mask_rate": ("share of unlabelled images that count", "share"),
    "pseudo_accuracy": ("pseudo labels that are right, on val", "share"),
    "pseudo_entropy": ("entropy of the pseudo labels' classes", "nats"),
    "teacher_gap": ("teacher over student, Acc@1 on val", "points"),
}


def search_history(results: ResultSet, model: str) -> Figure | Missing:
    """The best Acc@1 on val after each trial, a line for each cell of the model."""
    title = f"Search, {model}"
    courses, rows = [], []
    for state in _states(results, model):
        best, course = 0.0, []
        for number, trial in enumerate(state.trials, 1):
            record = results.records.get(trial.spec.id)
            if record is not None and "acc1" in record.val:
                best = max(best, record.val["acc1"])
                course.append((number, best))
        if course:
            courses.append(_series(results, state.search.name, course))
            rows.append([state.search.name, str(len(state.trials)), f"{best:.2f}"])
    if not courses:
        return Missing(title, "no trial has finished yet")
    return Figure(
        title,
        lines(courses[:MOST_LINES], "trial", "best Acc@1 on val, %", whole_x=True),
        f"The best Acc@1 on val so far over the trials of each cell of {model}; the first trial is "
        "the recipe as published.",
        ["cell", "trials", "best Acc@1 on val, %"],
        rows,
        _cut_note(courses),
    )


def _series(results: ResultSet, cell: str, points: Sequence[tuple[float, float]]) -> Series:
    """A line for a cell on a chart of one model; its dataset is named only if there are several."""
    dataset, _, *rest = cell.split("/")
    several = len(results.plan.experiment.file.datasets) > 1
    x, y = zip(*points, strict=True)
    return Series("/".join([dataset, *rest] if several else rest), x, y)


def _states(results: ResultSet, model: str) -> list[SearchState]:
    states = results.study.searches.values()
    return [state for state in states if state.search.cell.model == model]


def _cut_note(series: Sequence[Series]) -> str:
    return f"the first {MOST_LINES} of {len(series)} cells" if len(series) > MOST_LINES else ""


def importance(results: ResultSet, model: str) -> Figure | Missing:
    """What mattered in the searches by Optuna's PED-ANOVA, a mean over cells."""
    title = f"What mattered, {model}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    by_cell: list[dict[str, float]] = []
    most = 0
    for state in _states(results, model):
        space = space_of(results.plan, state.search)
        trials = [
            frozen(record, trial.cutoffs, space)
            for trial in state.trials
            if (record := results.records.get(trial.spec.id)) is not None
        ]
        scores = [trial.value for trial in trials if trial.state is TrialState.COMPLETE]
        most = max(most, len(scores))
        if len(scores) >= FEWEST_TRIALS and len(set(scores)) > 1 and space:
            study = optuna.create_study(direction="maximize")
            study.add_trials(trials)
            by_cell.append(get_param_importances(study))
    if not by_cell:
        return Missing(
            title,
            f"it takes {FEWEST_TRIALS} trials of a cell that ran to their end; there are {most}",
        )
    names = dict.fromkeys(name for each in by_cell for name in each)
    means = {name: sum(each.get(name, 0.0) for each in by_cell) / len(by_cell) for name in names}
    ordered = sorted(means, key=lambda name: -means[name])
    return Figure(
        title,
        bars(ordered, [means[name] for name in ordered], "share of importance"),
        f"Importance of each searched hyper-parameter for Acc@1 on val, a mean over {len(by_cell)} "
        f"cells of {model}. The most important is {ordered[0]}.",
        ["hyper-parameter", "importance"],
        [[name, f"{means[name]:.3f}"] for name in ordered],
        "Optuna's PED-ANOVA (arXiv 2304.10255)",
    )


def learning(results: ResultSet, model: str) -> Figure | Missing:
    """Acc@1 on val over the winners' steps, the better of student and teacher each time."""
    title = f"Learning, {model}"
    courses, rows = [], []
    for cell, record in _winners(results, model):
        points = [(e["step"], max(e["student_acc1"], e["ema_acc1"])) for e in record.history]
        courses.append(_series(results, cell, points))
        rows.append([cell, f"{record.best_step:,}", f"{record.val['acc1']:.2f}"])
    if not courses:
        return Missing(title, "no cell has a winner yet")
    return Figure(
        title,
        lines(courses[:MOST_LINES], "step", "Acc@1 on val, %"),
        f"Acc@1 on val over the steps of each cell's winner on seed 0, {model}.",
        ["cell", "best step", "Acc@1 on val, %"],
        rows,
        _cut_note(courses),
    )


def _winners(results: ResultSet, model: str) -> list[tuple[str, Record]]:
    """Cells of the model with the records of their winners on seed 0."""
    winners = []
    for state in _states(results, model):
        record = None if state.winner is None else results.records.get(state.winner.id)
        if record is not None and record.history:
            winners.append((state.search.name, record))
    return winners


def health(results: ResultSet, model: str) -> list[Figure]:
    """What tells a semi-supervised training that learns from one that has collapsed."""
    figures = []
    winners = _winners(results, model)
    for measure, (label, unit) in HEALTH.items():
        courses, rows = [], []
        for cell, record in winners:
            points = [(e["step"], e[measure]) for e in record.history if measure in e]
            if points:
                courses.append(_series(results, cell, points))
                rows.append([cell, f"{points[0][1]:.3f}", f"{points[-1][1]:.3f}"])
        if courses:
            figures.append(
                Figure(
                    f"Health, {model}: {label}",
                    lines(courses[:MOST_LINES], "step", unit),
                    f"{label[0].upper()}{label[1:]}, over the steps of each cell's winner on seed "
                    f"0, {model}.",
                    ["cell", "at first", "at last"],
                    rows,
                    _cut_note(courses),
                )
            )
    return figures
