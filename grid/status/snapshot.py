"""How a run stands at one moment: what its live view shows, and a file for other machines."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from semigrid.data.plausible import Count, DeviceSeconds, Moment, Seconds, first_problem
from semigrid.data.storage import Storage
from semigrid.data.storage.files import UnusableFileError
from semigrid.grid.experiment.schema import Control
from semigrid.grid.status.cost import Cost, Estimate, estimate, spent
from semigrid.grid.study.layout import SNAPSHOT
from semigrid.grid.study.lock import Holder
from semigrid.grid.study.state import Stage, StudyState
from semigrid.trainers.evaluation.scores import SUFFIXES, Metric
from semigrid.trainers.trial.job import JobKind

WRITE_SECONDS = 3.0
# Longest silence of a busy driver, or of a slow bucket, in seconds.
SILENT_SECONDS = 30.0
MOST_BYTES = 64 * 2**20  # of a snapshot


class CellProgress(BaseModel):
    """A cell's stage, whether it is a control, and how many of its trainings have ended.

    ``pool_unused``: a winner of the cell learnt next to nothing from its pool.
    """

    state: Stage
    trials_done: Count
    trials: Count
    failure: str | None = None
    pool_unused: bool = False
    control: Control | None = None


class RunningTrial(BaseModel):
    """A trial at work; values are None while unknown. ``heard_at`` is its last sign of life.

    ``acc1`` is on val, by the ``metric`` that chooses, of student or teacher.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    cell: str
    kind: JobKind
    trial: str
    seed: Count
    metric: Metric = "balanced"
    started_at: Moment
    heard_at: Moment | None = None
    step: Count | None = None
    total_steps: Count | None = None
    loss: float | None = None
    acc1: float | None = None
    images_per_s: float | None = None
    device_seconds: DeviceSeconds = {}

    def hear(self, report: Mapping[str, Any], at: float) -> None:
        """Takes over a report from time ``at``, unless a later one was heard."""
        if self.heard_at is not None and at < self.heard_at:
            return
        for name in ("step", "total_steps", "loss", "images_per_s", "device_seconds"):
            if name in report:
                setattr(self, name, report[name])
        names = [f"{network}_acc1{SUFFIXES[self.metric]}" for network in ("student", "ema")]
        self.acc1 = max((report[name] for name in names if name in report), default=self.acc1)
        self.heard_at = at

    @property
    def share_done(self) -> float:
        """Of a training; other jobs are none of the work that is counted."""
        if self.kind != "train" or not self.total_steps:
            return 0.0
        return (self.step or 0) / self.total_steps

    def seconds_left(self, now: float) -> float | None:
        """Estimated from its mean pace so far, evaluations included."""
        if not self.step or not self.total_steps or self.heard_at is None:
            return None
        pace = (self.heard_at - self.started_at) / self.step
        return max(0.0, pace * (self.total_steps - self.step) - (now - self.heard_at))


class Snapshot(BaseModel):
    """Times are seconds since 1970 by the clock of the driver's machine.

    ``asked`` are the machines that the cluster's autoscaler is asked for, ``holder`` is the process
    that holds the run's folder: the run lives and dies with it.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    experiment: str
    cells: dict[str, CellProgress]
    trials: dict[str, Count]
    cost: Cost
    running: list[RunningTrial] = []
    written_at: Moment
    started_at: Moment | None = None
    seconds_left: Seconds | None = None
    share_done: float = 0.0
    activity: str = ""
    asked: str = ""
    holder: Holder | None = None
    _arrived: float | None = PrivateAttr(None)

    @property
    def age(self) -> float:
        """Seconds since it was written, or arrived here if somebody saw that."""
        if self._arrived is not None:
            return time.monotonic() - self._arrived
        return max(0.0, time.time() - self.written_at)

    def after(self, earlier: "Snapshot | None") -> "Snapshot":
        """The earlier one if this is the same; else this, whose age counts from now.

        Not from when it was written, where an earlier one was seen: two machines' clocks differ.
        """
        if earlier is not None and earlier.written_at == self.written_at:
            return earlier
        self._arrived = None if earlier is None else time.monotonic()
        return self

    @property
    def is_dead(self) -> bool:
        """Whether the run is certainly gone: it was on this machine, and its process ended."""
        return self.holder is not None and self.holder.is_gone


def take(
    study: StudyState, running: Sequence[RunningTrial] = (), estimates: list[Estimate] | None = None
) -> Snapshot:
    """How a study stands.

    Args:
        running: its running trials.
        estimates: of the remaining trainings, if they are known already.
    """
    estimates = estimate(study, count_flops=False) if estimates is None else estimates
    reported = {trial.trial: trial.device_seconds for trial in running if trial.device_seconds}
    used = spent(study, reported)
    return Snapshot(
        experiment=study.plan.experiment.file.name,
        cells=cells_progress(study),
        trials=dict(Counter(record.status for record in study.records.values())),
        cost=Cost(used, estimates, study.plan.experiment.file.prices),
        running=list(running),
        written_at=time.time(),
    )


def cells_progress(study: StudyState) -> dict[str, CellProgress]:
    """The table's cells that this run is to finish, in the file's order."""
    return {
        cell.name: CellProgress(
            state=study.searches[cell.name].stage,
            trials_done=study.trainings_done(cell.name),
            trials=study.plan.trainings(study.searches[cell.name].search),
            failure=study.searches[cell.name].failure,
            pool_unused=bool(study.pool_unused(cell.name)),
            control=cell.control,
        )
        for cell in study.plan.cells
        if study.is_asked(cell.name)
    }


def read(storage: Storage, say: Callable[[str], None] = lambda problem: None) -> Snapshot | None:
    """The driver's last snapshot; None if no run is at work, or one of another version.

    Args:
        say: is told what is wrong with a file that is none.
    """
    try:
        return Snapshot.model_validate_json(storage.read(SNAPSHOT, MOST_BYTES))
    except (FileNotFoundError, IsADirectoryError):
        return None
    except ValidationError as error:
        problem = first_problem(error)
    except UnusableFileError as error:
        problem = str(error)
    say(
        f"{storage.location(SNAPSHOT)}: not the state of a run of this version ({problem}); what "
        "runs there, if anything does, is not shown; if nothing does, delete the file"
    )
    return None
