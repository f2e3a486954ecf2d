"""The trackers that an experiment asks for; a tracker's library is imported when it is made."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from semigrid.data.errors import InputError
from semigrid.data.storage import Storage
from semigrid.grid.experiment import Experiment
from semigrid.grid.study.layout import WANDB
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Plan, Search
from semigrid.grid.study.search import space_of
from semigrid.grid.study.state import StudyState
from semigrid.grid.trackers.tracker import (
    MakeTracker,
    Past,
    TrackedTrial,
    Tracker,
    Trackers,
    folder_at,
)
from semigrid.trainers.methods import Space

# Trackers whose library is an extra of semigrid.
EXTRAS = ("mlflow", "wandb")
# Trackers that write files in place, which a bucket cannot.
LOCAL = ("optuna", "tensorboard")


def check_trackers(experiment: Experiment) -> None:
    """Raises ``InputError`` for trackers whose library, or key, is not there."""
    wanted = experiment.file.trackers
    problems = [
        f"{experiment.source}: trackers: {name!r}: its library is not installed; "
        f"pip install 'semigrid[{name}]', or take it out of trackers"
        for name in wanted
        if name in EXTRAS and find_spec(name) is None
    ]
    # W&B would ask for a key on the terminal, in the middle of the run
    if "wandb" in wanted and not problems and not _wandb_is_ready():
        problems.append(
            f"{experiment.source}: trackers: 'wandb': no API key is known; set WANDB_API_KEY "
            "or run `wandb login`, set WANDB_MODE=offline, or take it out of trackers"
        )
    if problems:
        raise InputError(*problems)


def _wandb_is_ready() -> bool:
    """Whether W&B knows a key, or keeps runs here, by its variables or its settings files.

    Leaves no W&B service running: drivers started from here would share it, and refuse the open
    runs of a driver that was killed to the next one.
    """
    import wandb

    try:
        settings = wandb.setup(wandb.Settings(silent=True)).settings
        if settings.mode in ("offline", "disabled"):
            return True
        return bool(wandb.login(prompt=False, verify=False))
    finally:
        wandb.teardown()


def create_trackers(
    study: StudyState,
    storage: Storage,
    records: Mapping[str, Record],
    say: Callable[[str], None],
) -> Trackers:
    """The experiment's trackers; each first catches up with the ``records``."""
    file = study.plan.experiment.file
    name, wanted = file.name, file.trackers
    if storage.local_path() is None and (local := [kind for kind in wanted if kind in LOCAL]):
        say(f"trackers: {' and '.join(local)} need a local folder, not {storage.uri}: left out")
        wanted = [kind for kind in wanted if kind not in LOCAL]
    # under the names that they were trained by
    trained = [(TrackedTrial(name, r.spec, r.cell), r) for r in records.values()]

    def optuna() -> Tracker:
        from semigrid.grid.trackers.optuna_journal import OptunaJournal

        spaces = {
            search.name: _with_published(study.plan, search) for search in study.plan.searches
        }
        return OptunaJournal(storage, spaces)

    def tensorboard() -> Tracker:
        from semigrid.grid.trackers.tensorboard import TensorBoard

        return TensorBoard(storage)

    def mlflow() -> Tracker:
        from semigrid.grid.trackers.mlflow import MLflow

        return MLflow(name)

    def wandb() -> Tracker:
        from semigrid.grid.trackers.wandb import WandB

        there = storage.local_path() is not None
        return WandB(name, folder_at(storage, WANDB) if there else Path(WANDB))

    makers: dict[str, MakeTracker] = {
        "optuna": optuna,
        "tensorboard": tensorboard,
        "mlflow": mlflow,
        "wandb": wandb,
    }
    make: dict[str, tuple[MakeTracker, Past]] = {
        kind: (makers[kind], _searched(study, records) if kind == "optuna" else trained)
        for kind in wanted
    }
    return Trackers(name, make, say)


def _with_published(plan: Plan, search: Search) -> Space:
    """The search's space, widened to hold the recipe's own values, which the first trial has.

    Optuna compares the trials of a study only by parameters with one range in all of them.
    """
    recipe, space = plan.recipe(search), space_of(plan, search)
    own = {name: float(getattr(recipe, name)) for name in space}
    return {
        name: (min(low, own[name]), max(high, own[name])) for name, (low, high) in space.items()
    }


def _searched(study: StudyState, records: Mapping[str, Record]) -> Past:
    """The trials of each search as it is now, and those of earlier files under its name.

    A trial may have been trained under another name, or for another search too.
    """
    experiment = study.plan.experiment.file.name
    trials = {
        (record.cell, record.id): TrackedTrial(experiment, record.spec, record.cell)
        for record in records.values()
        if record.cell in study.searches
    }
    for name, state in study.searches.items():
        for trial in state.trials:
            if trial.spec.id in records:
                tracked = TrackedTrial(experiment, trial.spec, name, trial.cutoffs)
                trials[name, tracked.id] = tracked
    return [(trial, records[trial.id]) for trial in trials.values()]
