"""Where a training stands and what it has cost, in a file beside its checkpoint.

Anybody can read it there, whatever runs the training, and it outlives a process that is killed.
"""

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from semigrid.data.plausible import Count, DeviceSeconds, Moment
from semigrid.data.storage import Storage
from semigrid.trainers.execution.background import Background
from semigrid.trainers.layout import PROGRESS
from semigrid.trainers.options import TrainOptions

# Time between two writes, in seconds; with 0 every step is written.
WRITE_SECONDS = 10.0
WRITE_SECONDS_VARIABLE = "SEMIGRID_PROGRESS_SECONDS"
MOST_BYTES = 2**24  # of the file


class Meter:
    """Counts the device-seconds and the steps of a training, and writes them with its progress.

    Args:
        storage: the training's checkpoints.
        held: devices by kind that the training holds while it runs, ``{"NVIDIA A10G": 4}``.
        before: what earlier attempts at it took.

    Attributes:
        starts: the step at which each attempt at the training began, this one's last.
        steps_run: steps of all attempts, each up to its last checkpoint or the last step in its
            file.
    """

    def __init__(
        self, storage: Storage, held: Mapping[str, float], before: Mapping[str, float] | None = None
    ):
        self.storage, self.held = storage, dict(held)
        earlier = read_progress(storage)
        self._before = dict(before or {})
        for kind, seconds in earlier.get("device_seconds", {}).items():  # counts only grow
            self._before[kind] = max(seconds, self._before.get(kind, 0.0))
        self.starts: list[int] = earlier.get("starts", [])
        self.steps_run: int = earlier.get("steps_run", 0)
        # where the previous attempt got to; this one may be killed before it begins
        self._reached: int = earlier.get("reached", 0)
        self._metrics: dict[str, Any] = {}
        self._interval = float(os.environ.get(WRITE_SECONDS_VARIABLE, WRITE_SECONDS))
        self._started = time.monotonic()
        self._written: float | None = None
        self._background = Background()

    def spent(self) -> DeviceSeconds:
        """What all attempts have taken up to now."""
        elapsed = time.monotonic() - self._started
        return add(self._before, {kind: count * elapsed for kind, count in self.held.items()})

    def begin(self, step: int) -> None:
        """Starts this attempt at a step; written at once, or a kill would hide the attempt."""
        # the previous attempt made at least the steps up to the checkpoint
        self.steps_run += max(0, step - self._reached)
        self.starts.append(step)
        self._reached = step
        self.write()

    def step(self, step: int) -> None:
        """Counts up to this number of steps."""
        self.steps_run += step - self._reached
        self._reached = self._metrics["step"] = step
        self._write_if_due()

    def note(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the metrics with the device-seconds, and writes them if the last write is old."""
        self._metrics = dict(metrics)
        self._write_if_due()
        return {**metrics, "device_seconds": self.spent()}

    def _write_if_due(self) -> None:
        if self._written is None or not self._interval:
            self.write()
        elif time.monotonic() - self._written >= self._interval and not self._background.busy:
            self._begin_write()  # no step waits for storage that is slow, or away

    def write(self) -> None:
        """Writes the file now, after any write that is under way."""
        self._begin_write()
        self.wait()

    def wait(self) -> None:
        """Returns when no write is under way."""
        self._background.wait()

    def _begin_write(self) -> None:
        self._written = time.monotonic()
        facts = {
            **self._metrics,
            "device_seconds": self.spent(),
            "starts": self.starts,
            "steps_run": self.steps_run,
            "reached": self._reached,
            "held": self.held,
            "at": time.time(),
        }
        content = json.dumps(facts).encode()

        def put() -> None:
            with contextlib.suppress(OSError):  # nothing depends on it
                self.storage.write(PROGRESS, content)

        self._background.do(put)


class _Progress(BaseModel):
    """What a ``Meter`` writes beside the metrics of its training."""

    model_config = ConfigDict(extra="allow")

    device_seconds: DeviceSeconds = {}
    starts: list[Count] = []
    steps_run: Count = 0
    reached: Count = 0
    held: DeviceSeconds = {}
    at: Moment = 0.0
    step: Count = 0
    total_steps: Count = 0
    # NaN in a training that diverges
    loss: float = 0.0
    images_per_s: float = 0.0
    student_acc1: float = 0.0
    student_acc1_natural: float = 0.0
    ema_acc1: float = 0.0
    ema_acc1_natural: float = 0.0


def read_progress(storage: Storage) -> dict[str, Any]:
    """What a ``Meter`` last wrote there; empty if there is no file or it is damaged."""
    try:
        progress = _Progress.model_validate_json(storage.read(PROGRESS, MOST_BYTES))
    except (OSError, ValueError):
        return {}
    return progress.model_dump(exclude_unset=True)


def held_devices(kinds: list[str], options: TrainOptions) -> dict[str, float]:
    """GPUs, or else CPU cores, that workers on devices of these kinds hold together."""
    cpus, gpus = options.cpus_per_worker, options.gpus_per_worker or 1.0
    return {kind: n * (cpus if kind == "cpu" else gpus) for kind, n in Counter(kinds).items()}


def add(one: Mapping[str, float], other: Mapping[str, float]) -> DeviceSeconds:
    return {kind: one.get(kind, 0.0) + other.get(kind, 0.0) for kind in {**one, **other}}
