"""The trackers that an experiment asks for; their libraries are imported here and not before."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from data.errors import InputError
from data.storage import Storage
from grid.experiment import Experiment
from grid.ledger import ENDED, Record
from grid.plan import Plan
from grid.search import space_of
from grid.trackers.tracker import Run, Tracker, Trackers

# what must be installed for a tracker, beside semigrid itself
EXTRAS = ("mlflow", "wandb")
# whose files are written in place, which a bucket cannot
LOCAL = ("optuna", "tensorboard")


def check_trackers(experiment: Experiment) -> None:
    """Raises ``InputError`` for trackers whose library is not there."""
    problems = [
        f"{experiment.source}: trackers: {name!r}: its library is not installed; "
        f"pip install 'semigrid[{name}]', or take it out of trackers"
        for name in experiment.file.trackers
        if name in EXTRAS and find_spec(name) is None
    ]
    if problems:
        raise InputError(*problems)


def are_gone(plan: Plan, storage: Storage) -> bool:
    """Whether the files of a local tracker were deleted."""
    wanted = plan.experiment.file.trackers
    return storage.is_local and any(not storage.exists(kind) for kind in LOCAL if kind in wanted)


def create_trackers(
    plan: Plan, storage: Storage, records: Mapping[str, Record], say: Callable[[str], None]
) -> Trackers:
    """The plan's trackers; trials of ``records`` that a study does not have are added to it."""
    wanted = plan.experiment.file.trackers
    local = [kind for kind in wanted if kind in LOCAL]
    if local and not storage.is_local:
        say(f"trackers: {' and '.join(local)} need a local folder, not {storage.uri}: left out")
        local = []
    name, folder = plan.experiment.file.name, Path(storage.root)
    by_name = {search.name: search for search in plan.searches}
    known_runs = [
        (Run(name, record.spec, by_name[record.cell]), record)
        for record in sorted(records.values(), key=lambda record: record.finished_at or 0)
        if record.cell in by_name and record.status in ENDED
    ]

    def studies() -> Tracker:
        from grid.trackers.studies import Studies

        found = Studies(folder, lambda search: space_of(plan, search))
        for run, record in known_runs:
            found.catch_up(run, record)
        return found

    def tensorboard() -> Tracker:
        from grid.trackers.tensorboard import TensorBoard

        found = TensorBoard(folder)
        for run, record in known_runs:
            found.catch_up(run, record)
        return found

    def mlflow() -> Tracker:
        from grid.trackers.mlflow import MLflow

        return MLflow(name)

    def wandb() -> Tracker:
        from grid.trackers.wandb import WandB

        return WandB(name, folder if storage.is_local else Path.cwd())

    known = {"optuna": studies, "tensorboard": tensorboard, "mlflow": mlflow, "wandb": wandb}
    make: dict[str, Callable[[], Tracker]] = {
        kind: known[kind] for kind in wanted if kind in local or kind in EXTRAS
    }
    return Trackers(name, make, say)
