"""A record reduced to what a driver keeps in memory for each of thousands of trials."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from semigrid.trainers.execution.progress import DeviceSeconds
from semigrid.trainers.methods import METHODS, MethodName
from semigrid.trainers.recipe import Recipe
from semigrid.trainers.trial.identity import TrialSpec

Status = Literal["started", "finished", "stopped", "diverged", "collapsed", "failed"]
# the recipe itself made the training worthless
COLLAPSED = ("diverged", "collapsed")
# final whatever the cutoffs of a search are
SETTLED = ("finished", *COLLAPSED)
# no longer continued from a checkpoint
ENDED = (*SETTLED, "stopped")


@dataclass(frozen=True)
class CostSample:
    """What a trial cost: it passed ``share`` of the ``forwards`` that its recipe asks for."""

    model: str
    forwards: float
    share: float
    device_seconds: DeviceSeconds

    @property
    def rate(self) -> float:
        """Device-seconds for each forward of an image."""
        return sum(self.device_seconds.values()) / (self.forwards * self.share)


@dataclass(frozen=True)
class TrialSummary:
    """What the study state needs of a trial's record.

    ``val`` and ``test`` are scores by name; ``test`` is None until the trial is evaluated as a
    cell's winner. ``course`` holds (step, Acc@1, cross-entropy) of its evaluations, see
    ``choose.course``, without the one at which it collapsed. ``sample`` is None until the
    trial has ended.
    """

    status: Status
    val: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] | None = None
    error: str | None = None
    course: tuple[tuple[int, float, float], ...] = ()
    device_seconds: DeviceSeconds = field(default_factory=dict)
    sample: CostSample | None = None


def forwards(recipe: Recipe, method: MethodName) -> int:
    """Forwards of one image that a resolved recipe costs; a backward costs two."""
    return METHODS[method].forwards_per_step(recipe) * recipe.total_steps


def kind_of_model(spec: TrialSpec) -> str:
    """A key that is the same for trials whose images cost the same."""
    key = [spec.backbone, spec.backbone_args, spec.method, spec.recipe.img_size, spec.precision]
    return json.dumps(key, sort_keys=True)


def cost_sample(
    spec: TrialSpec, reached: float, device_seconds: Mapping[str, float]
) -> CostSample | None:
    """The cost of a trial that ended at step ``reached``; None if nothing was recorded."""
    if not reached or not sum(device_seconds.values()):
        return None
    share = reached / spec.recipe.total_steps
    work = forwards(spec.recipe, spec.method)
    return CostSample(kind_of_model(spec), work, share, dict(device_seconds))
