"""The trackers that an experiment asks for; a tracker's library is imported when it is made."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from semigrid.data.errors import InputError
from semigrid.data.storage import Storage
from semigrid.grid.experiment.experiment import Experiment
from semigrid.grid.study.layout import WANDB
from semigrid.grid.study.state import StudyState
from semigrid.grid.trackers.tracker import Tracker, Trackers, folder_at

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


def create_trackers(study: StudyState, storage: Storage, say: Callable[[str], None]) -> Trackers:
    """The experiment's trackers; each first catches up with the study's records."""
    wanted = study.plan.experiment.file.trackers
    if storage.local_path() is None and (local := [kind for kind in wanted if kind in LOCAL]):
        say(f"trackers: {' and '.join(local)} need a local folder, not {storage.uri}: left out")
        wanted = [kind for kind in wanted if kind not in LOCAL]
    make: dict[str, Callable[[], Tracker]] = {
        kind: partial(_create, kind, study, storage) for kind in wanted
    }
    return Trackers(make, study.records, say, storage.confirm)


def _create(kind: str, study: StudyState, storage: Storage) -> Tracker:
    name = study.plan.experiment.file.name
    if kind == "optuna":
        from semigrid.grid.trackers.optuna_journal import OptunaJournal

        return OptunaJournal(study, storage)
    if kind == "tensorboard":
        from semigrid.grid.trackers.tensorboard import TensorBoard

        return TensorBoard(storage)
    if kind == "mlflow":
        from semigrid.grid.trackers.mlflow import MLflow

        return MLflow(name)
    from semigrid.grid.trackers.wandb import WandB

    there = storage.local_path() is not None
    return WandB(name, folder_at(storage, WANDB) if there else Path(WANDB))
