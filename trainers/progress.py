"""Where a training stands and what it has cost, in a file beside its checkpoint.

Whoever reads the folder finds it there, whatever runs the training; and a training whose process
was killed still knows what it had spent.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any

from data.storage import Storage

FILE = "progress.json"
WRITE_SECONDS = 10.0

# Seconds by kind of device: "NVIDIA A10G", or "cpu" for the seconds of CPU cores.
DeviceSeconds = dict[str, float]


class Meter:
    """Counts the device-seconds of a training from here on, and writes them with its progress.

    Args:
        storage: the training's checkpoints.
        held: devices by kind that the training holds while it runs, ``{"NVIDIA A10G": 4}``.
        before: what earlier attempts at it took.
    """

    def __init__(
        self, storage: Storage, held: Mapping[str, float], before: Mapping[str, float] | None = None
    ):
        self.storage, self.held = storage, dict(held)
        self._before = latest(before or {}, read_progress(storage).get("device_seconds", {}))
        self._started = time.monotonic()
        self._written: float | None = None

    def spent(self) -> DeviceSeconds:
        """By all attempts up to now."""
        elapsed = time.monotonic() - self._started
        return add(self._before, {kind: count * elapsed for kind, count in self.held.items()})

    def note(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The metrics with what was spent; every ten seconds they are written down as well."""
        facts = {**metrics, "device_seconds": self.spent()}
        now = time.monotonic()
        if self._written is None or now - self._written >= WRITE_SECONDS:
            self._written = now
            content = json.dumps({**facts, "held": self.held, "at": time.time()})
            with contextlib.suppress(OSError):  # a figure for the eye stops no training
                self.storage.write(FILE, content.encode())
        return facts


def read_progress(storage: Storage) -> dict[str, Any]:
    """What a ``Meter`` last wrote there; nothing where it did not, or what is there is cut."""
    try:
        found = json.loads(storage.read(FILE))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def held_devices(
    kinds: list[str], cpus_per_worker: int, gpus_per_worker: float
) -> dict[str, float]:
    """What workers on devices of these kinds hold together: GPUs, or else CPU cores."""
    held: dict[str, float] = {}
    for kind in kinds:
        share = cpus_per_worker if kind == "cpu" else gpus_per_worker or 1.0
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
