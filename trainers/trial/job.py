"""What a worker process is sent, and what it sends back."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from semigrid.data.storage import Storage, open_storage
from semigrid.trainers.evaluation.choose import Cutoffs
from semigrid.trainers.layout import checkpoint_folder
from semigrid.trainers.methods.method import NetworkName
from semigrid.trainers.models.weights import Weights
from semigrid.trainers.options import REPORT_SECONDS, TrainOptions
from semigrid.trainers.trial.fence import Fence
from semigrid.trainers.trial.identity import TrialSpec

JobKind = Literal["train", "evaluate", "soft targets"]
FailureKind = Literal[
    "no_room", "damaged_weights", "damaged_soft_targets", "given_up", "storage", "process_died"
]


@dataclass(frozen=True)
class Place:
    """Where a trial's data are; none of it changes the numbers.

    Attributes:
        folder: the experiment's folder.
        weights_uri: the file of weights that the specification names by its hash.
        weights_sha256: hash of the trained weights that the trial loads, where it is known.
        patience: seconds to wait for the folder when it vanishes; see ``open_storage``.
        attempt: a trial's id and the token of an attempt at it, on a cluster. Nothing more is
            written for an attempt that was given up.
    """

    dataset_uri: str
    folder: str
    weights_uri: str | None = None
    patience: float | None = None
    weights_sha256: str | None = None
    attempt: tuple[str, str] | None = None

    @property
    def storage(self) -> Storage:
        storage = open_storage(self.folder, self.patience)
        return storage if self.fence is None else replace(storage, confirm=self.fence.check)

    @property
    def fence(self) -> Fence | None:
        if self.attempt is None:
            return None
        return Fence(open_storage(self.folder, self.patience), *self.attempt)


class TrialJob(BaseModel):
    """Everything a worker process needs to train or evaluate one trial, or to ask it of the pool.

    Attributes:
        cell: name of the cell that asks for the trial.
        cutoffs: what its best evaluation must reach at some steps, else the training ends there.
        weights: what is known of the pretrained weights that the trial starts from.
        parent_network: which of its parent's networks val chose.
        report_seconds: time between reports on progress, besides those at evaluations.
        scratch: folder for the files of Ray Train, for a job on several workers.
        images: how many images of the pool, from its start, are to be answered.
        lacked_room: whether the job was handed back before, because there was no room for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: JobKind = "train"
    spec: TrialSpec
    cell: str = ""
    place: Place
    options: TrainOptions = TrainOptions()
    cutoffs: Cutoffs = {}
    weights: Weights | None = None
    parent_network: NetworkName = "student"
    report_seconds: float = REPORT_SECONDS
    scratch: str = ""
    images: int = 0
    lacked_room: bool = False

    @property
    def checkpoints(self) -> Storage:
        return self.place.storage.folder(checkpoint_folder(self.spec.id))


class Failure(BaseModel):
    """Why a job did not come to its end; what became of its trial is in the ledger.

    Failures of a trial's own code are in its record instead. The kinds are:

    - ``no_room``: a worker group lost its machines; the job waits for others.
    - ``damaged_weights``: the weights of ``trial_id``, which the job loads, are missing or damaged.
    - ``damaged_soft_targets``: the same of its answers for the pool.
    - ``given_up``: another attempt at the trial was begun, and this one may write nothing more.
    - ``storage``: the record could not be read or written.
    - ``process_died``: the job's process died too often; ``details`` are for the trial's log.
    """

    kind: FailureKind
    message: str
    trial_id: str | None = None
    details: str = ""


class NoRoomError(RuntimeError):
    """A worker group lost its machines, and the cluster has no others free."""


class DamagedFilesError(RuntimeError):
    """What a finished trial left, and a job loads, is missing or damaged."""

    kind: ClassVar[FailureKind]

    def __init__(self, trial_id: str, problem: str):
        super().__init__(trial_id, problem)  # both, or it could not be pickled
        self.trial_id, self.problem = trial_id, problem

    def __str__(self) -> str:
        return self.problem


class DamagedWeightsError(DamagedFilesError):
    """The weights of a finished trial are missing or damaged: it has to be trained again."""

    kind = "damaged_weights"


class DamagedSoftTargetsError(DamagedFilesError):
    """Answers of a teacher are missing or damaged: it has to be asked again."""

    kind = "damaged_soft_targets"
