"""Where a training stands, as its checkpoints and its trial's record keep it."""

from dataclasses import dataclass, field
from typing import Literal

from semigrid.data.storage import FileFacts
from semigrid.trainers.methods.method import NetworkName


@dataclass
class Outcome:
    """Where a training stands.

    Attributes:
        status: how it ended: ``stopped`` when it fell below a cutoff; ``diverged`` and
            ``collapsed`` are the recipe's doing, for the reason in ``error``.
        step: number of steps done.
        best_step, best_weights, best_metrics: the evaluation that was best on val, and which
            network's it was (``student`` or ``ema``).
        history: losses and metrics of each evaluation.
        seconds: time spent training, evaluations included.
        broken: ids of pool images that could not be decoded.
        resumed_at: the steps at which it was resumed from a checkpoint.
        speed: a reading of the speed for each evaluation. It depends on the machine, so it is not
            part of ``history``.
        damaged: checkpoints that it could not be resumed from.
        weights_file: the best weights of a finished training, on rank 0.
    """

    status: Literal["finished", "stopped", "diverged", "collapsed"] = "finished"
    error: str | None = None
    step: int = 0
    best_step: int = 0
    best_weights: NetworkName = "student"
    best_metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list, compare=False)
    speed: list[dict[str, float]] = field(default_factory=list, compare=False)
    damaged: list[str] = field(default_factory=list, compare=False)
    weights_file: FileFacts | None = None
