"""Where a training stands and what it has cost, in a file beside its checkpoint.

Whoever reads the folder finds it there, whatever runs the training; and a training whose process
was killed still knows what it had spent.
"""

import contextlib
import json
import os
import time
from collections.abc import Mapping
from typing import Any

from semigrid.data.storage import Storage
from semigrid.trainers.background import Background
from semigrid.trainers.layout import PROGRESS
from semigrid.trainers.options import TrainOptions

# how often it is written, at the ends of steps; with 0 at every one
WRITE_SECONDS = 10.0
WRITE_SECONDS_VARIABLE = "SEMIGRID_PROGRESS_SECONDS"

# Seconds by kind of device: "NVIDIA A10G", or "cpu" for the seconds of CPU cores.
DeviceSeconds = dict[str, float]


class Meter:
    """Counts the device-seconds and the steps of a training, and writes them with its progress.

    Args:
        storage: the training's checkpoints.
        held: devices by kind that the training holds while it runs, ``{"NVIDIA A10G": 4}``.
        before: what earlier attempts at it took.

    Attributes:
        starts: the step at which each attempt at the training began, this one's last.
    """

    def __init__(
        self, storage: Storage, held: Mapping[str, float], before: Mapping[str, float] | None = None
    ):
        self.storage, self.held = storage, dict(held)
        earlier = read_progress(storage)
        self._before = latest(before or {}, earlier.get("device_seconds", {}))
        self.starts: list[int] = list(earlier.get("starts", []))
        self._steps_before: int = earlier.get("steps_run", 0)
        # until this attempt begins, where the one before came to: it may be killed on its way there
        self._reached: int = earlier.get("reached", 0)
        self._first: int = self._reached
        self._step: int = self._reached
        self._metrics: dict[str, Any] = {}
        self._interval = float(os.environ.get(WRITE_SECONDS_VARIABLE, WRITE_SECONDS))
        self._started = time.monotonic()
        self._written: float | None = None
        self._background = Background()

    def spent(self) -> DeviceSeconds:
        """By all attempts up to now."""
        elapsed = time.monotonic() - self._started
        return add(self._before, {kind: count * elapsed for kind, count in self.held.items()})

    @property
    def steps_run(self) -> int:
        """By all attempts, each up to its last checkpoint or the last step that it wrote down."""
        return self._steps_before + self._step - self._first

    def begin(self, step: int) -> None:
        """This attempt goes on from here: written at once, or a kill would hide the attempt."""
        # the one before made at least the steps up to the checkpoint, whatever it wrote down
        self._steps_before += max(0, step - self._reached)
        self.starts.append(step)
        self._first = self._step = step
        self.write()

    def step(self, step: int) -> None:
        """So many steps are done."""
        self._step = self._metrics["step"] = step
        self._write_if_due()

    def note(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The metrics with what was spent; every ten seconds they are written down as well."""
        self._metrics = dict(metrics)
        self._write_if_due()
        return {**metrics, "device_seconds": self.spent()}

    def _write_if_due(self) -> None:
        if self._written is None or not self._interval:
            self.write()
        elif time.monotonic() - self._written >= self._interval and not self._background.busy:
            # no step waits for storage that is slow, or away
            self._written = time.monotonic()
            facts = self._facts()
            self._background.do(lambda: self._put(facts))

    def write(self) -> None:
        """Writes it down now; what was on its way is there before."""
        self.wait()
        self._written = time.monotonic()
        self._put(self._facts())

    def wait(self) -> None:
        """Until nothing is on its way to storage any more."""
        self._background.wait()

    def _facts(self) -> dict[str, Any]:
        return {
            **self._metrics,
            "device_seconds": self.spent(),
            "starts": list(self.starts),
            "steps_run": self.steps_run,
            "reached": self._step,
            "held": self.held,
            "at": time.time(),
        }

    def _put(self, facts: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # a figure for the eye stops no training
            self.storage.write(PROGRESS, json.dumps(facts).encode())


def read_progress(storage: Storage) -> dict[str, Any]:
    """What a ``Meter`` last wrote there; nothing where it did not, or what is there is cut."""
    try:
        found = json.loads(storage.read(PROGRESS))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def held_devices(kinds: list[str], options: TrainOptions) -> dict[str, float]:
    """GPUs, or else CPU cores, that workers on devices of these kinds hold together."""
    held: dict[str, float] = {}
    for kind in kinds:
        share = options.cpus_per_worker if kind == "cpu" else options.gpus_per_worker or 1.0
        held[kind] = held.get(kind, 0.0) + share
    return held


def device_kind(device: Any) -> str:
    """``cpu``, or a GPU's name as its driver has it."""
    if device.type != "cuda":
        return str(device.type)
    import torch

    return torch.cuda.get_device_name(device)


def add(one: Mapping[str, float], other: Mapping[str, float]) -> DeviceSeconds:
    return {kind: one.get(kind, 0.0) + other.get(kind, 0.0) for kind in {**one, **other}}


def latest(one: Mapping[str, float], other: Mapping[str, float]) -> DeviceSeconds:
    """Of two readings of one meter the later one, which is nowhere the lower."""
    return {kind: max(one.get(kind, 0.0), other.get(kind, 0.0)) for kind in {**one, **other}}
