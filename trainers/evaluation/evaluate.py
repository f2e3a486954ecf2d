"""Predictions for a split, each image exactly once on any number of ranks."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from semigrid.data.batches import EvalBatches
from semigrid.data.views.augment import ViewSettings, normalize
from semigrid.trainers.evaluation.predictions import Predictions
from semigrid.trainers.execution.runtime import Runtime


def predict(
    model: nn.Module, views: torch.Tensor, settings: ViewSettings, device: torch.device
) -> np.ndarray:
    """Probabilities (B, K) in float64 for uint8 evaluation views (B, 3, H, W).

    The model must be in eval mode and on the device; call this inside ``torch.inference_mode``.
    """
    images = normalize(views.to(device), settings)
    # in float64 a confident mistake keeps a finite cross-entropy
    probabilities: np.ndarray = model(images).double().softmax(dim=1).cpu().numpy()
    return probabilities


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
    ids: list[str] = []
    labels, probabilities = [], []
    with eval_mode(model), torch.inference_mode():
        for batch in batches:
            probabilities.append(predict(model, batch.views["eval"], settings, runtime.device))
            labels.append(batch.labels.numpy())
            ids += batch.ids
    parts = runtime.gather((ids, labels, probabilities))
    all_ids = [image_id for part in parts for image_id in part[0]]
    all_labels = np.concatenate([array for part in parts for array in part[1]])
    all_probabilities = np.concatenate([array for part in parts for array in part[2]])
    order = np.argsort(np.array(all_ids))
    return Predictions([all_ids[i] for i in order], all_labels[order], all_probabilities[order])
