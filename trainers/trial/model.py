"""The model that a trial starts from, and the one that it leaves."""

from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from semigrid.data.storage import FileFacts
from semigrid.trainers.execution.checkpoint import decode_weights
from semigrid.trainers.layout import weights_file
from semigrid.trainers.models.create import create_model
from semigrid.trainers.models.pretrained import load_from_file, load_from_hub
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.job import DamagedWeightsError, Place


def start_model(spec: TrialSpec, num_classes: int, weights_uri: str | None) -> nn.Module:
    """The model a trial starts with: random, or with its backbone's pretrained weights.

    A trial with a parent takes all weights from there. Raises ``InputError`` where the pretrained
    weights cannot be read or do not fit.
    """

    def create(pretrained: bool, overlay: dict[str, Any] | None = None) -> nn.Module:
        return create_model(
            spec.backbone,
            num_classes,
            spec.recipe,
            spec.backbone_args,
            pretrained,
            spec.seed,
            overlay,
        )

    if spec.weights == "random" or spec.parent is not None:
        return create(False)
    if spec.weights == "timm":
        return load_from_hub(spec.backbone, lambda: create(True))
    assert weights_uri is not None
    sha256 = spec.weights.removeprefix("sha256:")
    return load_from_file(weights_uri, sha256, spec.backbone, lambda over: create(True, over))


def finished_model(spec: TrialSpec, place: Place, num_classes: int, weights: str) -> nn.Module:
    """A finished trial's model on the CPU, with its ``student`` or ``ema`` weights.

    Raises ``DamagedWeightsError`` if the weights are not as they were written.
    """
    model = create_model(
        spec.backbone, num_classes, spec.recipe, spec.backbone_args, False, spec.seed
    )
    model.load_state_dict(load_weights(spec.id, place)[weights])
    return model


def load_weights(trial_id: str, place: Place) -> dict[str, dict[str, torch.Tensor]]:
    """``{"student": state, "ema": state}`` of a finished trial.

    Raises ``DamagedWeightsError`` if the file is missing or not as it was written.
    """
    where = place.storage.location(weights_file(trial_id))
    try:
        content = place.storage.read(weights_file(trial_id))
        if place.weights_sha256 not in (None, FileFacts.of(content).sha256):
            raise DamagedWeightsError(trial_id, f"{where}: damaged, it is not what was written")
        return decode_weights(content)
    except FileNotFoundError as error:
        raise DamagedWeightsError(trial_id, f"{where}: missing") from error
    except SafetensorError as error:
        raise DamagedWeightsError(trial_id, f"{where}: damaged: {error}") from error
