"""Predictions for a split, each image exactly once on any number of ranks."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from semigrid.data.batches import EvalBatches
from semigrid.data.views.augment import ViewSettings, normalize
from semigrid.trainers.evaluation.predictions import Predictions
from semigrid.trainers.execution.runtime import Runtime

Name = TypeVar("Name", bound=str)
# Makes the context of a forward.
Forward = Callable[[], AbstractContextManager[None]]


def predict(
    model: nn.Module, views: torch.Tensor, settings: ViewSettings, device: torch.device
) -> np.ndarray:
    """Probabilities (B, K) in float64 for uint8 evaluation views (B, 3, H, W).

    The model must be in eval mode and on the device; call this inside ``torch.inference_mode``.
    """
    images = normalize(views.to(device), settings)
    probabilities: np.ndarray = _probabilities(model, images, contextlib.nullcontext).cpu().numpy()
    return probabilities


def _probabilities(model: nn.Module, images: torch.Tensor, forward: Forward) -> torch.Tensor:
    """Probabilities (B, K) in float64 of normalised images, on their device."""
    with forward():
        logits: torch.Tensor = model(images)
    # in float64 a confident mistake keeps a finite cross-entropy
    return logits.double().softmax(dim=1)


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Within this context the model is in eval mode; after it, each module is in its own again."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:  # not model.train(): what is frozen stays in eval mode
            module.training = True


def evaluate(
    model: nn.Module, batches: EvalBatches, settings: ViewSettings, runtime: Runtime
) -> Predictions:
    """Runs the model in eval mode over every rank's rows; all ranks get all, sorted by image id."""
    return evaluate_all({"model": model}, batches, settings, runtime)["model"]


def evaluate_all(
    models: Mapping[Name, nn.Module],
    batches: EvalBatches,
    settings: ViewSettings,
    runtime: Runtime,
    forward: Forward = contextlib.nullcontext,
) -> dict[Name, Predictions]:
    """As ``evaluate``, several models in one pass over the images.

    The host waits for the device once, at the end: 8 bytes an image, a class and a model lie there.
    """
    ids: list[str] = []
    labels: list[np.ndarray] = []
    found: list[torch.Tensor] = []
    with contextlib.ExitStack() as modes, torch.inference_mode():
        for model in models.values():
            modes.enter_context(eval_mode(model))
        for batch in batches:
            views = batch.views["eval"]
            if runtime.device.type == "cuda":
                views = views.pin_memory()
            images = normalize(views.to(runtime.device, non_blocking=True), settings)
            each = [_probabilities(model, images, forward) for model in models.values()]
            found.append(torch.stack(each, dim=1))
            labels.append(batch.labels.numpy())
            ids += batch.ids
        # a rank may have no rows
        here = [torch.cat(found).cpu().numpy()] if found else []
    parts = runtime.gather((ids, labels, here))
    all_ids = [image_id for part in parts for image_id in part[0]]
    all_labels = np.concatenate([array for part in parts for array in part[1]])
    probabilities = np.concatenate([array for part in parts for array in part[2]])
    order = np.argsort(np.array(all_ids))
    sorted_ids, sorted_labels = [all_ids[i] for i in order], all_labels[order]
    return {
        name: Predictions(sorted_ids, sorted_labels, probabilities[order, number])
        for number, name in enumerate(models)
    }
