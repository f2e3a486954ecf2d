"""The durable record of trials: one JSON file each, replaced atomically."""

import contextlib
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationError,
    model_validator,
)

from semigrid.data.plausible import Count, DeviceSeconds, Moment, Seconds, first_problem
from semigrid.data.redact import without_secrets
from semigrid.data.storage import FileFacts, Storage
from semigrid.data.storage.files import UnusableFileError
from semigrid.grid.study.layout import LEDGER, log_file, record_file
from semigrid.trainers.evaluation.choose import course, score
from semigrid.trainers.evaluation.scores import SUFFIXES
from semigrid.trainers.layout import predictions_file, soft_targets_folder, weights_file
from semigrid.trainers.methods import find_method, package_of
from semigrid.trainers.methods.method import NetworkName
from semigrid.trainers.models.weights import Weights
from semigrid.trainers.recipe import RECIPE_VERSION, SteppedRecipe
from semigrid.trainers.trial.identity import TrialSpec

Status = Literal["started", "finished", "stopped", "diverged", "collapsed", "failed"]
# the recipe itself made the training worthless
COLLAPSED = ("diverged", "collapsed")
# final whatever the cutoffs of a search are
SETTLED = ("finished", *COLLAPSED)
# no longer continued from a checkpoint
ENDED = (*SETTLED, "stopped")

# a record with the longest history that a recipe allows is half as large
MOST_BYTES = 64 * 2**20
# a mean of all may be rounded up
_PERCENT = (0, 100 + 1e-9)
_NATS = (0, 40)  # scores take no probability for less than 2e-16, which is 36 nats
# the range of each number that every evaluation has; of all others, that of losses in float32
_RANGES = {
    "step": (1, 1e9),
    "acc1": _PERCENT,
    "acc5": _PERCENT,
    "ce": _NATS,
    "teacher_gap": (-100 - 1e-9, 100 + 1e-9),
}
_OTHERS = (-3.4028235e38, 3.4028235e38)


def _check_numbers(numbers: dict[str, float], *needed: str) -> dict[str, float]:
    """Raises ``ValueError`` if a number is missing that is needed, or one is absurd."""
    for name in (*needed, *numbers):
        if name not in numbers:
            raise ValueError(f"{name} is missing")
        kind = name.removeprefix("student_").removeprefix("ema_").removesuffix("_natural")
        low, high = _RANGES.get(kind, _OTHERS)
        if not low <= numbers[name] <= high:
            raise ValueError(f"{name} cannot be {numbers[name]}")
    return numbers


SCORES = tuple(f"{name}{suffix}" for suffix in SUFFIXES.values() for name in ("acc1", "acc5", "ce"))
_CHOOSING = [name for name in SCORES if not name.startswith("acc5")]
_EVALUATED = ["step", *(f"{network}_{s}" for network in ("student", "ema") for s in _CHOOSING)]
Evaluation = Annotated[
    dict[str, float], AfterValidator(lambda numbers: _check_numbers(numbers, *_EVALUATED))
]
Speed = Annotated[dict[str, float], AfterValidator(lambda numbers: _check_numbers(numbers, "step"))]
TestScores = Annotated[
    dict[str, float], AfterValidator(lambda numbers: _check_numbers(numbers, *SCORES))
]


class Record(BaseModel):
    """One trial's entry in the ledger. Validation refuses what no run writes.

    Attributes:
        status: ``started`` until the training ends. ``finished``: trained to its end. ``stopped``:
            fell behind the trials of earlier waves. ``diverged`` (a loss that is not finite) and
            ``collapsed`` are final and due to the recipe. ``failed``: an accident; the next run
            tries again.
        started_at, finished_at: in seconds since 1970.
        seconds: spent training.
        device_seconds: by kind of device (for ``cpu``, of one core), over all attempts, with their
            starts, evaluations and the evaluation on test.
        val: scores of the best evaluation.
        history: losses and scores at each evaluation; ``speed`` is how fast training went there.
        resumed_at: steps at which the training resumed from a checkpoint.
        starts: the step at which each attempt began, with attempts that died before a checkpoint.
        steps_run: steps over all attempts, as far as they were written down; those beyond the last
            step were repeated.
        damaged: checkpoints that could not be resumed from.
        weights_file, predictions_file: sizes and hashes, which tell damaged files from whole ones.
        test: scores on test, once the trial is evaluated as a cell's winner.
        soft_targets: how many images of the pool, from its start, it has answered as a teacher, in
            ``soft_target_files`` files.
        error: why it diverged, collapsed or failed; ``log`` is the file with the traceback.
        weights: the pretrained weights that it or the first of its parents started from.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    status: Status
    spec: TrialSpec
    cell: str
    started_at: Moment
    finished_at: Moment | None = None
    seconds: Seconds = 0.0
    device_seconds: DeviceSeconds = {}
    val: dict[str, float] = {}
    best_step: Count = 0
    best_weights: NetworkName = "student"
    history: list[Evaluation] = []
    speed: list[Speed] = []
    broken_images: list[str] = []
    resumed_at: list[Count] = []
    starts: list[Count] = []
    steps_run: Count = 0
    damaged: list[str] = []
    weights_file: FileFacts | None = None
    predictions_file: FileFacts | None = None
    test: TestScores | None = None
    soft_targets: Count = 0
    soft_target_files: Count = 0
    error: str | None = None
    log: str | None = None
    weights: Weights | None = None
    versions: dict[str, str] = {}
    machine: str = ""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        recipe = self.spec.recipe
        if isinstance(recipe, SteppedRecipe) and recipe.steps is None:
            raise ValueError("spec.recipe.steps is missing")
        if self.status == "finished" or self.val:
            try:
                _check_numbers(self.val, *_CHOOSING)
            except ValueError as error:
                raise ValueError(f"val: {error}") from error
        return self

    @property
    def id(self) -> str:
        return self.spec.id

    @cached_property  # the rules read it at every step for every trial
    def course(self) -> list[tuple[int, float, float]]:
        """``choose.course`` of its evaluations, without the one at which it collapsed."""
        history = self.history[:-1] if self.status == "collapsed" else self.history
        return course(history, self.spec.metric)

    @property
    def score(self) -> tuple[float, float]:
        """(Acc@1, cross-entropy) on val by which it is compared with other trials."""
        return score(self.val, self.spec.metric)

    @property
    def pool_unused(self) -> str | None:
        """Why next to nothing was learnt from the pool, as its method tells; None if it was."""
        return find_method(self.spec.method).pool_unused(self.history)

    @property
    def share_trained(self) -> float:
        """The share of its steps up to its last evaluation; all or nothing without steps."""
        if not self.history:
            return 0.0
        recipe = self.spec.recipe
        if not isinstance(recipe, SteppedRecipe):
            return 1.0
        return self.history[-1]["step"] / recipe.total_steps

    @property
    def forwards(self) -> float:
        """Forwards of one image up to its last evaluation; without steps, all that it made."""
        if not isinstance(self.spec.recipe, SteppedRecipe):
            return self.steps_run
        return self.spec.forwards * self.share_trained


class _Versioned(BaseModel):
    """Of a record of any version, what says which one it is."""

    class Spec(BaseModel):
        recipe_version: Count

    spec: Spec


class Ledger:
    """The records in a run's folder, and whether the files that they name are there.

    Attributes:
        problems: one message for each record that cannot be read, for all of another version
            together, and for each file of weights or predictions that is missing or damaged.
    """

    def __init__(self, storage: Storage):
        self.storage = storage
        self.problems: list[str] = []
        self._listings: dict[str, dict[str, int]] | None = None

    def write(self, record: Record) -> None:
        content = record.model_dump_json(indent=1) + "\n"
        self.storage.write(record_file(record.id), content.encode())

    def read(self, trial_id: str) -> Record | None:
        """The trial's record; None if there is none or it is unreadable."""
        name = record_file(trial_id)
        content = self.storage.read_all([name], MOST_BYTES)
        return self._parse(trial_id, content[name], Counter()) if content else None

    def _parse(
        self, trial_id: str, content: bytes | UnusableFileError, others: Counter[int]
    ) -> Record | None:
        """The record; None if it is unreadable, or of another version, which is counted."""
        try:
            if isinstance(content, UnusableFileError):
                raise content
            number = _Versioned.model_validate_json(content).spec.recipe_version
            if number != RECIPE_VERSION:
                others[number] += 1
                return None
            record = Record.model_validate_json(content)
            if record.id == trial_id:
                return record
            why = "of another trial, or of a version with other identities"
        except ValidationError as error:
            why = first_problem(error)
        except (ValueError, UnusableFileError) as error:  # or a number that is too long for an id
            why = str(error)
        path = self.storage.location(record_file(trial_id))
        self.problems.append(f"{path}: not a readable record ({why}); its trial trains again")
        return None

    def read_all(self) -> dict[str, Record]:
        """All readable records by trial id."""
        ids = [name.removesuffix(".json") for name in self.storage.names(LEDGER, ".json")]
        trials = {record_file(trial_id): trial_id for trial_id in ids}
        others = Counter[int]()
        contents = self.storage.read_all(trials, MOST_BYTES).items()
        parsed = (self._parse(trials[name], content, others) for name, content in contents)
        records = {record.id: record for record in parsed if record is not None}
        for recipe, count in sorted(others.items()):
            which = "an earlier" if recipe < RECIPE_VERSION else "a later"
            self.problems.append(
                f"{self.storage.location(LEDGER)}: {count:,} trainings of {which} version of "
                f"semigrid (recipe {recipe}, now {RECIPE_VERSION}) are not used; their cells "
                "train again"
            )
        return records

    @contextlib.contextmanager
    def listed(self) -> Iterator[None]:
        """Lists each folder only once while the block runs, instead of asking for each file."""
        self._listings = {}
        try:
            yield
        finally:
            self._listings = None

    def _size(self, name: str) -> int | None:
        if self._listings is None:
            return self.storage.size(name)
        folder, _, file = name.rpartition("/")
        return self._sizes(folder).get(file)

    def _sizes(self, folder: str) -> dict[str, int]:
        if self._listings is None:
            return self.storage.sizes(folder)
        if folder not in self._listings:
            self._listings[folder] = self.storage.sizes(folder)
        return self._listings[folder]

    def has_weights(self, record: Record) -> bool:
        """Whether a finished trial's weights are there, with the size they were written with."""
        name, missing = weights_file(record.id), "missing (deleted when another trial won, or lost)"
        return self._is_whole(name, record.weights_file, missing, "its trial is trained again")

    def has_predictions(self, record: Record) -> bool:
        """Whether an evaluated trial's predictions are there, as ``has_weights``."""
        name, remedy = predictions_file(record.id), "its trial is evaluated again"
        return self._is_whole(name, record.predictions_file, "missing", remedy)

    def has_soft_targets(self, record: Record, images: int) -> bool:
        """Whether a trial's answers for so many images of the pool are there."""
        if record.soft_targets < images:
            return False
        folder, wanted = soft_targets_folder(record.id), record.soft_target_files
        there = sum(name.endswith(".parquet") for name in self._sizes(folder))
        if there < wanted:
            where = self.storage.location(folder)
            self._note(f"{where}: {there} of {wanted} files are there; the others are made again")
        return there >= wanted

    def _is_whole(self, name: str, facts: FileFacts | None, missing: str, remedy: str) -> bool:
        size = self._size(name)
        if size is not None and (facts is None or size == facts.size):
            return True
        problem = missing
        if size is not None and facts is not None:
            problem = f"damaged, {size:,} bytes instead of {facts.size:,}"
        self._note(f"{self.storage.location(name)}: {problem}; {remedy}")
        return False

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def write_log(self, record: Record, text: str) -> None:
        """Writes a failed trial's log, without secrets, and notes in the record where it is."""
        name = log_file(record.id)
        try:
            self.storage.write(name, without_secrets(text).encode(errors="backslashreplace"))
            record.log = self.storage.location(name)
        except OSError as error:  # what broke the trial may break its log: the disk is full
            record.log = f"could not be written: {error}"

    def delete_weights(self, trial_id: str) -> None:
        self.storage.delete(weights_file(trial_id))


@cache
def _versions() -> dict[str, str]:
    packages = ("semigrid", "torch", "torchvision", "timm", "ray", "optuna", "numpy", "pillow")
    versions = {"python": platform.python_version()} | {name: version(name) for name in packages}
    commit = _commit()
    return versions if commit is None else versions | {"commit": commit}


def _commit() -> str | None:
    """The commit of this checkout, ``-dirty`` if files were changed; None outside a checkout."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    # unlike git describe, it writes nothing into the checkout
    command = ["git", "--no-optional-locks", "-C", str(checkout), "status", "--porcelain=v2"]
    command += ["--branch", "--untracked-files=no"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:  # a machine without git
        return None
    lines = done.stdout.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), None)
    is_dirty = any(not line.startswith("#") for line in lines)
    return f"{commit}-dirty" if commit and is_dirty else commit


def start_record(spec: TrialSpec, cell: str, weights: Weights | None = None) -> Record:
    """The record of a trial about to be trained, with the versions that will train it."""
    package = package_of(spec.method)
    return Record(
        status="started",
        spec=spec,
        cell=cell,
        started_at=time.time(),
        weights=weights,
        versions=_versions() | ({package.name: package.version} if package else {}),
        machine=platform.platform(),
    )
