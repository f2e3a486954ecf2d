"""The trackers that an experiment asks for; their libraries are imported here and not before."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from semigrid.data.errors import InputError
from semigrid.data.storage import Storage
from semigrid.grid.experiment import Experiment
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Plan, Search
from semigrid.grid.study.search import space_of
from semigrid.grid.study.state import StudyState
from semigrid.grid.trackers.tracker import Make, Past, Run, Say, Tracker, Trackers, folder_at
from semigrid.trainers.methods import Space

# what must be installed for a tracker, beside semigrid itself
EXTRAS = ("mlflow", "wandb")
# whose files are written in place, which a bucket cannot
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
    # it would ask for a key on the terminal, in the middle of the run
    if "wandb" in wanted and not problems and not _wandb_is_ready():
        problems.append(
            f"{experiment.source}: trackers: 'wandb': no API key is known; set WANDB_API_KEY "
            "or run `wandb login`, set WANDB_MODE=offline, or take it out of trackers"
        )
    if problems:
        raise InputError(*problems)


def _wandb_is_ready() -> bool:
    """Whether W&B knows a key, or keeps runs here: by its variables or its files of settings.

    Leaves no service of W&B's: every driver started from here would use it, and the open runs of
    one that is killed would stay in use there, refused to the next.
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
    say: Say,
) -> Trackers:
    """The plan's trackers; they first catch up with the ``records`` of trials that ended."""
    plan = study.plan
    wanted = plan.experiment.file.trackers
    local = [kind for kind in wanted if kind in LOCAL]
    if local and storage.local_path() is None:
        say(f"trackers: {' and '.join(local)} need a local folder, not {storage.uri}: left out")
        local = []
    name = plan.experiment.file.name
    spaces = {search.name: _with_published(plan, search) for search in plan.searches}

    def studies() -> Tracker:
        from semigrid.grid.trackers.studies import Studies

        return Studies(storage, spaces)

    def tensorboard() -> Tracker:
        from semigrid.grid.trackers.tensorboard import TensorBoard

        return TensorBoard(storage)

    def mlflow() -> Tracker:
        from semigrid.grid.trackers.mlflow import MLflow

        return MLflow(name)

    def wandb() -> Tracker:
        from semigrid.grid.trackers.wandb import WandB

        there = storage.local_path() is not None
        return WandB(name, folder_at(storage, "wandb") if there else Path("wandb"))

    # under the names that they were trained by, as at the time
    trained = [(Run(name, record.spec, record.cell), record) for record in records.values()]
    known: dict[str, tuple[Make, Past]] = {
        "optuna": (studies, _searched(study, records)),
        "tensorboard": (tensorboard, trained),
        "mlflow": (mlflow, trained),
        "wandb": (wandb, trained),
    }
    make: dict[str, tuple[Make, Past]] = {
        kind: known[kind] for kind in wanted if kind in local or kind in EXTRAS
    }
    return Trackers(name, make, say)


def _with_published(plan: Plan, search: Search) -> Space:
    """The search's space, with the recipe's own values in it: the first trial has those.

    Optuna compares the trials of a study only in what has one range in all of them.
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
    found = {
        (name, trial.spec.id): Run(experiment, trial.spec, name, trial.cutoffs)
        for name, state in study.searches.items()
        for trial in state.trials
        if trial.spec.id in records
    }
    for record in records.values():
        if record.cell in study.searches:
            run = Run(experiment, record.spec, record.cell)
            found.setdefault((record.cell, record.id), run)
    return [(run, records[run.id]) for run in found.values()]
