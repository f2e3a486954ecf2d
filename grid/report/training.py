"""Charts of how the models were found: searches, what mattered in them, learning and health."""

from collections.abc import Sequence

import optuna
from optuna.importance import get_param_importances
from optuna.trial import TrialState

from semigrid.grid.analysis.known import Known
from semigrid.grid.report.charts import COLORS, Line, bars, lines
from semigrid.grid.report.figure import Figure, Missing
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.search import space_of
from semigrid.grid.study.state import SearchState
from semigrid.grid.trackers.studies import frozen
from semigrid.grid.trackers.tracker import Run

FEWEST_TRIALS = 8  # fewer say nothing of what matters
MOST_LINES = 2 * len(COLORS)
HEALTH = {
    "mask_rate": ("share of unlabelled images that count", "share"),
    "pseudo_accuracy": ("pseudo labels that are right, on val", "share"),
    "pseudo_entropy": ("entropy of the pseudo labels' classes", "nats"),
    "teacher_gap": ("teacher over student, Acc@1 on val", "points"),
}


def search_history(known: Known, model: str) -> Figure | Missing:
    """The best Acc@1 on val after each trial, a line for each cell of the model."""
    title = f"Search, {model}"
    found, rows = [], []
    for state in _states(known, model):
        best, course = 0.0, []
        for number, trial in enumerate(state.trials, 1):
            record = known.records.get(trial.spec.id)
            if record is None or "acc1" not in record.val:
                continue
            best = max(best, record.val["acc1"])
            course.append((number, best))
        if course:
            name = _short(known, state.search.name)
            found.append(Line(name, [n for n, _ in course], [acc1 for _, acc1 in course]))
            rows.append([state.search.name, str(len(state.trials)), f"{best:.2f}"])
    if not found:
        return Missing(title, "no trial has finished yet")
    note = _shown_of(found)
    return Figure(
        title,
        lines(found[:MOST_LINES], "trial", "best Acc@1 on val, %", whole_x=True),
        f"The best Acc@1 on val so far over the trials of each cell of {model}; the first trial is "
        "the recipe as published.",
        ["cell", "trials", "best Acc@1 on val, %"],
        rows,
        note,
    )


def _short(known: Known, cell: str) -> str:
    """A cell's name on a chart of one model; the dataset only where there are several."""
    dataset, _, *rest = cell.split("/")
    several = len(known.plan.experiment.file.datasets) > 1
    return "/".join([dataset, *rest] if several else rest)


def _states(known: Known, model: str) -> list[SearchState]:
    return [state for state in known.study.searches.values() if state.search.cell.model == model]


def _shown_of(found: Sequence[Line]) -> str:
    return f"the first {MOST_LINES} of {len(found)} cells" if len(found) > MOST_LINES else ""


def importance(known: Known, model: str) -> Figure | Missing:
    """What mattered in the searches by Optuna's own measure (PED-ANOVA), a mean over cells."""
    title = f"What mattered, {model}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    by_cell: list[dict[str, float]] = []
    most = 0
    experiment = known.plan.experiment.file.name
    for state in _states(known, model):
        space = space_of(known.plan, state.search)
        trials = [
            frozen(Run(experiment, trial.spec, state.search.name, trial.cutoffs), record, space)
            for trial in state.trials
            if (record := known.records.get(trial.spec.id)) is not None
        ]
        scores = {trial.value for trial in trials if trial.state is TrialState.COMPLETE}
        count = sum(trial.state is TrialState.COMPLETE for trial in trials)
        most = max(most, count)
        if count >= FEWEST_TRIALS and len(scores) > 1 and space:
            study = optuna.create_study(direction="maximize")
            study.add_trials(trials)
            by_cell.append(get_param_importances(study))
    if not by_cell:
        return Missing(
            title,
            f"it takes {FEWEST_TRIALS} trials of a cell that ran to their end; there are {most}",
        )
    names = list(dict.fromkeys(name for each in by_cell for name in each))
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


def learning(known: Known, model: str) -> Figure | Missing:
    """Acc@1 on val over the winners' steps, the better of student and teacher each time."""
    title = f"Learning, {model}"
    found, rows = [], []
    for name, record in _winners(known, model):
        steps = [evaluation["step"] for evaluation in record.history]
        acc1 = [
            max(evaluation["student_acc1"], evaluation["ema_acc1"]) for evaluation in record.history
        ]
        found.append(Line(_short(known, name), steps, acc1))
        rows.append([name, f"{record.best_step:,}", f"{record.val['acc1']:.2f}"])
    if not found:
        return Missing(title, "no cell has a winner yet")
    return Figure(
        title,
        lines(found[:MOST_LINES], "step", "Acc@1 on val, %"),
        f"Acc@1 on val over the steps of each cell's winner on seed 0, {model}.",
        ["cell", "best step", "Acc@1 on val, %"],
        rows,
        _shown_of(found),
    )


def _winners(known: Known, model: str) -> list[tuple[str, Record]]:
    found = []
    for state in _states(known, model):
        record = None if state.winner is None else known.records.get(state.winner.id)
        if record is not None and record.history:
            found.append((state.search.name, record))
    return found


def health(known: Known, model: str) -> list[Figure]:
    """What tells a semi-supervised training that learns from one that has collapsed."""
    figures = []
    winners = _winners(known, model)
    for measure, (label, unit) in HEALTH.items():
        found, rows = [], []
        for name, record in winners:
            points = [(e["step"], e[measure]) for e in record.history if measure in e]
            if points:
                x, y = zip(*points, strict=True)
                found.append(Line(_short(known, name), x, y))
                rows.append([name, f"{y[0]:.3f}", f"{y[-1]:.3f}"])
        if found:
            figures.append(
                Figure(
                    f"Health, {model}: {label}",
                    lines(found[:MOST_LINES], "step", unit),
                    f"{label[0].upper()}{label[1:]}, over the steps of each cell's winner on seed "
                    f"0, {model}.",
                    ["cell", "at first", "at last"],
                    rows,
                    _shown_of(found),
                )
            )
    return figures
