"""The durable record of trials: one JSON file each, replaced atomically."""

import contextlib
import platform
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from semigrid.data.storage import FileFacts, Storage
from semigrid.grid.study.layout import (
    LEDGER,
    log_file,
    predictions_file,
    record_file,
    weights_file,
)
from semigrid.grid.study.summary import ENDED, Status, TrialSummary, cost_sample
from semigrid.trainers.choose import course
from semigrid.trainers.progress import DeviceSeconds
from semigrid.trainers.trial import TrialSpec
from semigrid.trainers.weights import Weights


class Record(BaseModel):
    """What is known of one trial.

    ``started`` has the specification only; ``finished`` has the val metrics of its best
    evaluation, and ``test`` once it was measured as a cell's winner; ``stopped`` fell behind the
    trials of earlier waves, and ``history`` says how far it came; ``diverged`` (a loss that is
    not finite) and ``collapsed`` are the recipe's doing and final, with the reason in ``error``;
    ``failed`` is an accident and tried again by the next run. Times are seconds since 1970,
    ``seconds`` those spent training. ``device_seconds`` is what it took by kind of device (for
    ``cpu``, of a core): all attempts, their starts, evaluations and the measurement on test.
    ``resumed_at`` lists the steps at which it went on from a checkpoint; ``starts`` the step at
    which each attempt at it began, those included that died before their next checkpoint.
    ``steps_run`` is how many steps all attempts made, as far as they wrote it down: beyond the
    last step, what was repeated. ``damaged`` are checkpoints that it could not go on from.
    ``history`` has the losses and scores at each evaluation, ``speed`` how fast it went there.
    ``weights_file`` and ``predictions_file`` tell what it left from a damaged copy of it.
    """

    model_config = ConfigDict(extra="ignore")

    status: Status
    spec: TrialSpec
    cell: str
    started_at: float
    finished_at: float | None = None
    seconds: float = 0.0
    device_seconds: DeviceSeconds = {}
    val: dict[str, float] = {}
    best_step: int = 0
    best_weights: str = "student"
    history: list[dict[str, float]] = []
    speed: list[dict[str, float]] = []
    broken_images: list[str] = []
    resumed_at: list[int] = []
    starts: list[int] = []
    steps_run: int = 0
    damaged: list[str] = []
    weights_file: FileFacts | None = None
    predictions_file: FileFacts | None = None
    test: dict[str, float] | None = None
    error: str | None = None
    log: str | None = None
    weights: Weights | None = None  # the pretrained ones at the start of it all
    versions: dict[str, str] = {}
    machine: str = ""

    @property
    def id(self) -> str:
        return self.spec.id


class Ledger:
    """The records in an experiment's folder."""

    def __init__(self, storage: Storage):
        self.storage = storage
        self.unreadable: list[str] = []
        # what is wrong with files that records tell of, each said once
        self.problems: list[str] = []
        self._sizes: dict[str, int] = {}
        self._listings: dict[str, dict[str, int]] | None = None

    def write(self, record: Record) -> None:
        content = record.model_dump_json(indent=1) + "\n"
        self.storage.write(record_file(record.id), content.encode())
        self._note_sizes(record)

    def read(self, trial_id: str) -> Record | None:
        """The trial's record; None if there is none or it cannot be read (then it trains again)."""
        try:
            return self._parse(trial_id, self.storage.read(record_file(trial_id)))
        except FileNotFoundError:
            return None

    def _parse(self, trial_id: str, content: bytes) -> Record | None:
        name = record_file(trial_id)
        try:
            record = Record.model_validate_json(content)
        except ValidationError:
            self.unreadable.append(self.storage.location(name))
            return None
        if record.id != trial_id:  # written by a version whose identities meant something else
            self.unreadable.append(self.storage.location(name))
            return None
        self._note_sizes(record)
        return record

    def _note_sizes(self, record: Record) -> None:
        for name, facts in (
            (weights_file(record.id), record.weights_file),
            (predictions_file(record.id), record.predictions_file),
        ):
            self._sizes.pop(name, None)
            if facts is not None:
                self._sizes[name] = facts.size

    def read_all(self) -> dict[str, Record]:
        """All readable records by trial id."""
        ids = [name.removesuffix(".json") for name in self.storage.names(LEDGER, ".json")]
        trials = {record_file(trial_id): trial_id for trial_id in ids}
        records = {}
        for name, content in self.storage.read_all(trials).items():
            record = self._parse(trials[name], content)
            if record is not None:
                records[record.id] = record
        return records

    @contextlib.contextmanager
    def listed(self) -> Iterator[None]:
        """While the block runs, files are looked for in one listing a folder."""
        self._listings = {}
        try:
            yield
        finally:
            self._listings = None

    def _size(self, name: str) -> int | None:
        if self._listings is None:
            return self.storage.size(name)
        folder, _, file = name.rpartition("/")
        if folder not in self._listings:
            self._listings[folder] = self.storage.sizes(folder)
        return self._listings[folder].get(file)

    def has_weights(self, trial_id: str) -> bool:
        """Whether a finished trial's weights are there, as long as they were when written."""
        missing = "missing (let go when another trial won, or lost)"
        return self._has(weights_file(trial_id), missing, "its trial trains again")

    def has_predictions(self, trial_id: str) -> bool:
        """Whether a measured trial's predictions are there, as long as they were when written."""
        return self._has(predictions_file(trial_id), "missing", "its trial is measured again")

    def _has(self, name: str, missing: str, then: str) -> bool:
        size, expected = self._size(name), self._sizes.get(name)
        if size is None:
            problem = missing
        elif expected is not None and size != expected:
            problem = f"damaged, {size:,} bytes where {expected:,} were written"
        else:
            return True
        problem = f"{self.storage.location(name)}: {problem}; {then}"
        if problem not in self.problems:
            self.problems.append(problem)
        return False

    def write_log(self, record: Record, text: str) -> None:
        """Writes the log of a trial that failed, and notes in the record where it is."""
        name = log_file(record.id)
        try:
            self.storage.write(name, text.encode())
            record.log = self.storage.location(name)
        except OSError as error:  # what broke the trial may break its log: the disk is full
            record.log = f"could not be written: {error}"

    def delete_weights(self, trial_id: str) -> None:
        self.storage.delete(weights_file(trial_id))


@cache
def _versions() -> dict[str, str]:
    packages = ("semigrid", "torch", "torchvision", "timm", "ray", "optuna", "numpy", "pillow")
    found = {"python": platform.python_version(), **{p: version(p) for p in packages}}
    commit = _commit()
    return found if commit is None else found | {"commit": commit}


def _commit() -> str | None:
    """Of the checkout that this code runs from, ``-dirty`` where it was changed; None elsewhere."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    describe = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run([*describe, "--exclude", "*"], capture_output=True, text=True)
    except OSError:  # a machine without git
        return None
    return done.stdout.strip() or None


def start_record(spec: TrialSpec, cell: str, weights: Weights | None = None) -> Record:
    """The record of a trial that is about to train, with the versions that will train it."""
    return Record(
        status="started",
        spec=spec,
        cell=cell,
        started_at=time.time(),
        weights=weights,
        versions=dict(_versions()),
        machine=platform.platform(),
    )


def summarize(record: Record) -> TrialSummary:
    """The part of a record that the study state is made from."""
    scored = record.history[:-1] if record.status == "collapsed" else record.history
    reached = record.history[-1]["step"] if record.history else 0
    sample = cost_sample(record.spec, reached, record.device_seconds)
    return TrialSummary(
        status=record.status,
        val=record.val,
        test=record.test,
        error=record.error,
        course=tuple(course(scored)),
        device_seconds=record.device_seconds,
        sample=sample if record.status in ENDED else None,
    )
