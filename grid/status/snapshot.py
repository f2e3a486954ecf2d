"""How a run stands at one moment: what its live view shows, and a file for other machines."""

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping

from pydantic import BaseModel, ConfigDict, ValidationError

from semigrid.data.storage import Storage
from semigrid.grid.status.cost import Estimate, bill, estimate, spent, total
from semigrid.grid.study.layout import SNAPSHOT
from semigrid.grid.study.state import StudyState
from semigrid.trainers.progress import DeviceSeconds

WRITE_SECONDS = 3.0
# a driver that is busy, or a bucket that is slow, may be silent for so long
SILENT_SECONDS = 30.0


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class CellLine(_Part):
    """A cell's state, and how many of its trainings have ended."""

    state: str
    trials_done: int
    trials: int
    failure: str | None = None


class RunningTrial(_Part):
    """A trial at work; what is None is not known yet. ``heard_at`` is its last sign of life."""

    cell: str
    kind: str
    trial: str
    seed: int
    started_at: float
    heard_at: float | None = None
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    acc1: float | None = None
    images_per_s: float | None = None

    def seconds_left(self, now: float) -> float | None:
        """By its mean pace so far, evaluations included."""
        if not self.step or not self.total_steps or self.heard_at is None:
            return None
        pace = (self.heard_at - self.started_at) / self.step
        return max(0.0, pace * (self.total_steps - self.step) - (now - self.heard_at))


class Cost(_Part):
    """Device-seconds by kind, spent and still to spend; what no estimate covers is ``unknown``."""

    spent: DeviceSeconds = {}
    price_spent: float | None = None
    left: DeviceSeconds = {}
    price_left: float | None = None
    bases: dict[str, str] = {}
    unknown: list[str] = []
    prices: dict[str, float] = {}


class Snapshot(_Part):
    """Times are seconds since 1970 by the clock of the machine that runs the driver."""

    experiment: str
    cells: dict[str, CellLine]
    trials: dict[str, int]
    cost: Cost
    running: list[RunningTrial] = []
    written_at: float
    started_at: float | None = None
    seconds_left: float | None = None
    share_done: float = 0.0
    activity: str = ""
    asked: str = ""  # machines that the cluster's autoscaler is asked for
    host: str = ""
    pid: int = 0


def take(
    study: StudyState,
    spending: Mapping[str, DeviceSeconds] | None = None,
    estimates: list[Estimate] | None = None,
) -> Snapshot:
    """How a study stands, without its running trials.

    Args:
        spending: what running trials have taken so far, by their ids.
        estimates: what is left, where it was estimated already.
    """
    return Snapshot(
        experiment=study.plan.experiment.file.name,
        cells=cell_lines(study),
        trials=dict(Counter(summary.status for summary in study.summaries.values())),
        cost=_cost(study, spent(study, spending), estimates),
        written_at=time.time(),
        host=socket.gethostname(),
        pid=os.getpid(),
    )


def cell_lines(study: StudyState) -> dict[str, CellLine]:
    """The table's cells that this run is to finish, in the file's order."""
    names = [cell.name for cell in study.plan.cells]
    return {name: cell_line(study, name) for name in names if study.is_asked(name)}


def cell_line(study: StudyState, name: str) -> CellLine:
    state = study.searches[name]
    return CellLine(
        state=state.stage,
        trials_done=sum(study.has_ended(spec.id) for spec in state.specs),
        trials=study.plan.trainings_per_search,
        failure=state.failure,
    )


def estimates_of(study: StudyState) -> list[Estimate]:
    """What is left, by finished trials alone: quick, and without PyTorch."""
    return estimate(study, count_flops=False)


def _cost(study: StudyState, used: DeviceSeconds, estimates: list[Estimate] | None) -> Cost:
    if estimates is None:
        estimates = estimates_of(study)
    prices = study.plan.experiment.file.prices
    left = total(estimates)
    return Cost(
        spent=used,
        price_spent=bill(used, prices).price if prices else None,
        left=left,
        price_left=bill(left, prices).price if prices else None,
        bases={e.model: e.basis for e in estimates if e.device_seconds is not None},
        unknown=[e.model for e in estimates if e.device_seconds is None],
        prices=prices,
    )


def write(storage: Storage, snapshot: Snapshot) -> None:
    storage.write(SNAPSHOT, snapshot.model_dump_json().encode())


def read(storage: Storage) -> Snapshot | None:
    """What the driver last wrote; None while none runs, or one whose snapshots mean otherwise."""
    try:
        return Snapshot.model_validate_json(storage.read(SNAPSHOT))
    except (FileNotFoundError, IsADirectoryError, ValidationError):
        return None


def is_dead(snapshot: Snapshot, is_alive: Callable[[int], bool] | None = None) -> bool:
    """Whether the driver is certainly gone: it ran on this machine, and its process is no more."""
    if snapshot.host != socket.gethostname():
        return False
    return not (is_alive or _is_alive)(snapshot.pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
