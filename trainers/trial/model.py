"""The model that a trial starts from, and the one that it leaves."""

from typing import Any

from safetensors import SafetensorError
from torch import nn

from semigrid.data.errors import InputError
from semigrid.data.storage import FileFacts
from semigrid.data.storage.files import UnusableFileError
from semigrid.trainers.execution.checkpoint import NetworkStates, decode_weights
from semigrid.trainers.layout import weights_file
from semigrid.trainers.models.create import create_model
from semigrid.trainers.models.pretrained import first_line, from_file, from_hub
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.job import DamagedWeightsError, Place


def start_model(spec: TrialSpec, num_classes: int, weights_uri: str | None) -> nn.Module:
    """The model a trial starts with: random, or with its backbone's pretrained weights.

    A trial with a parent takes all weights from there. Raises ``InputError`` where the pretrained
    weights cannot be read or do not fit, and timm's errors for arguments that it does not take.
    """
    if spec.weights == "random" or spec.parent is not None:
        return _create(spec, num_classes, False)
    try:
        if spec.weights == "timm":
            with from_hub(spec.backbone):
                return _create(spec, num_classes, True)
        assert weights_uri is not None
        sha256 = spec.weights.removeprefix("sha256:")
        with from_file(weights_uri, sha256, spec.backbone) as overlay:
            return _create(spec, num_classes, overlay)
    except Exception as error:
        _create(spec, num_classes, False)  # raises what is no fault of the weights
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"the pretrained weights of {spec.backbone} cannot be loaded ({first_line(error)}): "
            "delete them from the hub's cache (HF_HOME), so that they are downloaded again"
        ) from error


def _create(spec: TrialSpec, num_classes: int, pretrained: bool | dict[str, Any]) -> nn.Module:
    args = spec.backbone_args
    return create_model(spec.backbone, num_classes, spec.recipe, args, pretrained, spec.seed)


def finished_model(spec: TrialSpec, place: Place, num_classes: int, weights: str) -> nn.Module:
    """A finished trial's model on the CPU, with its ``student`` or ``ema`` weights.

    Raises ``DamagedWeightsError`` if the weights are not as they were written.
    """
    model = _create(spec, num_classes, False)
    take_weights(model, load_weights(spec.id, place, model), weights, spec.id, place)
    return model


def take_weights(
    model: nn.Module, states: NetworkStates, weights: str, trial_id: str, place: Place
) -> None:
    """Lets a model have one network's weights; ``DamagedWeightsError`` if they are not its own."""
    try:
        model.load_state_dict(states[weights])
    except RuntimeError as error:  # a missing or another tensor
        where = place.storage.location(weights_file(trial_id))
        problem = str(error).splitlines()[-1].strip()
        raise DamagedWeightsError(trial_id, f"{where}: of another model: {problem}") from error


def load_weights(trial_id: str, place: Place, model: nn.Module) -> NetworkStates:
    """The weights of a finished trial, whose model is built as this one.

    Raises ``DamagedWeightsError`` if the file is missing or not as it was written.
    """
    where = place.storage.location(weights_file(trial_id))
    # of student and teacher, and the names of their tensors
    limit = 2 * sum(tensor.nbytes for tensor in model.state_dict().values()) + 2**24
    try:
        content = place.storage.read(weights_file(trial_id), limit)
        if place.weights_sha256 not in (None, FileFacts.of(content).sha256):
            raise DamagedWeightsError(trial_id, f"{where}: damaged, it is not what was written")
        return decode_weights(content)
    except FileNotFoundError as error:
        raise DamagedWeightsError(trial_id, f"{where}: missing") from error
    except (SafetensorError, UnusableFileError, LookupError) as error:
        raise DamagedWeightsError(trial_id, f"{where}: damaged: {error}") from error
