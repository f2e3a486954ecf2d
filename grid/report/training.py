"""Charts of how the models were made: searches, what mattered in them, learning and health."""

from collections.abc import Mapping, Sequence

import optuna
from optuna.importance import get_param_importances
from optuna.trial import TrialState

from semigrid.grid.analysis.result_set import ResultSet
from semigrid.grid.report.charts import COLORS, Chart, Series, bars, lines
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.state import SearchState
from semigrid.grid.trackers.optuna_journal import frozen
from semigrid.trainers.evaluation.choose import score

FEWEST_TRIALS = 8  # fewer say nothing about importance
MOST_LINES = 2 * len(COLORS)
Points = Sequence[tuple[float, float]]
HEALTH = {
    "mask_rate": ("share of unlabelled images that count", "share"),
    "pseudo_accuracy": ("pseudo labels that are right, on val", "share"),
    "pseudo_entropy": ("entropy of the pseudo labels' classes", "nats"),
    "teacher_gap": ("teacher over student, Acc@1 on val", "points"),
}


def _courses(
    results: ResultSet, courses: Mapping[str, Points], x_label: str, y_label: str, missing: str = ""
) -> tuple[str, str]:
    """A note and a picture with a line for each cell, all of one model.

    Their dataset is named only if there are several. Without cells, the note is ``missing``.
    """
    if not courses:
        return missing, ""
    several = len(results.plan.experiment.file.datasets) > 1
    series = []
    for cell, points in list(courses.items())[:MOST_LINES]:
        dataset, _, *rest = cell.split("/")
        x, y = zip(*points, strict=True)
        series.append(Series("/".join([dataset, *rest] if several else rest), x, y))
    cut = f"the first {MOST_LINES} of {len(courses)} cells" if len(courses) > MOST_LINES else ""
    return cut, lines(series, x_label, y_label, whole_x=x_label == "trial")


def search_history(results: ResultSet, model: str) -> Chart:
    """The best Acc@1 on val after each trial, a line for each cell of the model."""
    courses, rows = {}, []
    for state in _states(results, model):
        best, points = 0.0, []
        for number, trial in enumerate(state.trials, 1):
            record = results.study.records.get(trial.spec.id)
            if record is not None and record.val:
                best = max(best, record.score[0])
                points.append((float(number), best))
        if points:
            courses[state.search.name] = points
            rows.append([state.search.name, str(len(state.trials)), f"{best:.2f}"])
    acc1 = "best Acc@1 on val, %"
    return Chart(
        f"Search, {model}",
        *_courses(results, courses, "trial", acc1, "no trial has finished yet"),
        f"The best Acc@1 on val so far over the trials of each cell of {model}; the first trial is "
        "the recipe as published.",
        ["cell", "trials", acc1],
        rows,
    )


def _states(results: ResultSet, model: str) -> list[SearchState]:
    states = results.study.searches.values()
    return [state for state in states if state.search.cell.model == model]


def importance(results: ResultSet, model: str) -> Chart:
    """What mattered in the searches by Optuna's PED-ANOVA, a mean over cells."""
    title = f"What mattered, {model}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    by_cell: list[dict[str, float]] = []
    most = 0
    for state in _states(results, model):
        if state.search.cell.control is not None:  # another method's, or another pool's
            continue
        space = results.plan.space(state.search)
        trials = [
            frozen(record, trial.cutoffs, space)
            for trial in state.trials
            if (record := results.study.records.get(trial.spec.id)) is not None
        ]
        scores = [trial.value for trial in trials if trial.state is TrialState.COMPLETE]
        most = max(most, len(scores))
        if len(scores) >= FEWEST_TRIALS and len(set(scores)) > 1 and space:
            study = optuna.create_study(direction="maximize")
            study.add_trials(trials)
            by_cell.append(get_param_importances(study))
    if not by_cell:
        why = f"it takes {FEWEST_TRIALS} trials of a cell that ran to their end; there are {most}"
        return Chart(title, why)
    names = dict.fromkeys(name for each in by_cell for name in each)
    means = {name: sum(each.get(name, 0.0) for each in by_cell) / len(by_cell) for name in names}
    ordered = sorted(means, key=lambda name: -means[name])
    return Chart(
        title,
        "Optuna's PED-ANOVA (arXiv 2304.10255)",
        bars(ordered, [means[name] for name in ordered], "share of importance"),
        f"Importance of each searched hyper-parameter for Acc@1 on val, a mean over {len(by_cell)} "
        f"cells of {model}. The most important is {ordered[0]}.",
        ["hyper-parameter", "importance"],
        [[name, f"{means[name]:.3f}"] for name in ordered],
    )


def learning(results: ResultSet, model: str) -> Chart:
    """Acc@1 on val over the winners' steps, the better of student and teacher each time."""
    courses, rows = {}, []
    metric = results.plan.experiment.file.search.metric
    for cell, record in _winners(results, model):
        courses[cell] = [
            (e["step"], max(score(e, metric, network)[0] for network in ("student_", "ema_")))
            for e in record.history
        ]
        rows.append([cell, f"{record.best_step:,}", f"{record.score[0]:.2f}"])
    acc1 = "Acc@1 on val, %"
    return Chart(
        f"Learning, {model}",
        *_courses(results, courses, "step", acc1, "no cell has a winner yet"),
        f"Acc@1 on val over the steps of each cell's winner on seed 0, {model}.",
        ["cell", "best step", acc1],
        rows,
    )


def _winners(results: ResultSet, model: str) -> list[tuple[str, Record]]:
    """Cells of the model with the records of their winners on seed 0."""
    winners = []
    for state in _states(results, model):
        record = None if state.winner is None else results.study.records.get(state.winner.id)
        if record is not None and record.history:
            winners.append((state.search.name, record))
    return winners


def health(results: ResultSet, model: str) -> list[Chart]:
    """What tells a training that learns from its pool from one that has collapsed."""
    charts = []
    for measure, (label, unit) in HEALTH.items():
        courses, rows = {}, []
        for cell, record in _winners(results, model):
            points = [(e["step"], e[measure]) for e in record.history if measure in e]
            if points:
                courses[cell] = points
                rows.append([cell, f"{points[0][1]:.3f}", f"{points[-1][1]:.3f}"])
        if courses:
            name = f"Health, {model}: {label}"
            note, svg = _courses(results, courses, "step", unit)
            alt = f"{label[0].upper()}{label[1:]}, over the steps of each cell's winner on seed 0, "
            header = ["cell", "at first", "at last"]
            charts.append(Chart(name, note, svg, f"{alt}{model}.", header, rows))
    return charts
