"""What a trial that has ended teaches about the cost of those to come."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from semigrid.trainers.methods import METHODS, MethodName
from semigrid.trainers.progress import DeviceSeconds
from semigrid.trainers.recipe import Recipe
from semigrid.trainers.trial import TrialSpec


@dataclass(frozen=True)
class Sample:
    """What a trial took: of ``forwards`` it would pass, it passed ``share``."""

    model: str
    forwards: float
    share: float
    device_seconds: DeviceSeconds

    @property
    def rate(self) -> float:
        """Device-seconds for each forward of an image."""
        return sum(self.device_seconds.values()) / (self.forwards * self.share)


def forwards(recipe: Recipe, method: MethodName) -> int:
    """Forwards of one image that a resolved recipe costs; a backward costs two."""
    return METHODS[method].forwards_per_step(recipe) * recipe.total_steps


def kind_of_model(spec: TrialSpec) -> str:
    """The same for trials whose images cost the same."""
    key = [spec.backbone, spec.backbone_args, spec.method, spec.recipe.img_size, spec.precision]
    return json.dumps(key, sort_keys=True)


def sample_of(
    spec: TrialSpec, reached: float, device_seconds: Mapping[str, float]
) -> Sample | None:
    """Of a trial that ended at the step ``reached``; None where nothing was measured."""
    if not reached or not sum(device_seconds.values()):
        return None
    share = reached / spec.recipe.total_steps
    work = forwards(spec.recipe, spec.method)
    return Sample(kind_of_model(spec), work, share, dict(device_seconds))
