"""Predictions that count every image once, and the metrics derived from them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from data.augment import ViewSettings, normalize
from data.batches import EvalBatches
from trainers.runtime import Runtime


@dataclass(frozen=True)
class Predictions:
    """What a model says of a split: ids, true classes (N,) and probabilities (N, K) in float64."""

    ids: list[str]
    labels: np.ndarray
    probabilities: np.ndarray

    def metrics(self) -> dict[str, float]:
        """Acc@1 and Acc@5 in per cent and cross-entropy in nats."""
        from sklearn.metrics import log_loss, top_k_accuracy_score

        classes = np.arange(self.probabilities.shape[1])
        top5 = 100.0
        if len(classes) > 5:
            top5 = 100 * top_k_accuracy_score(self.labels, self.probabilities, k=5, labels=classes)
        return {
            "acc1": 100 * float((self.probabilities.argmax(axis=1) == self.labels).mean()),
            "acc5": float(top5),
            "ce": float(log_loss(self.labels, self.probabilities, labels=classes)),
        }

    def confident(self, threshold: float) -> dict[str, float]:
        """What the predictions were worth as pseudo labels, from 0 to 1.

        ``pseudo_coverage`` is the share of images whose confidence reaches the threshold,
        ``pseudo_accuracy`` the share of right ones among those, left out where there are none.
        """
        chosen = self.probabilities.max(axis=1) >= threshold
        right = self.probabilities.argmax(axis=1) == self.labels
        found = {"pseudo_coverage": float(chosen.mean())}
        if chosen.any():
            found["pseudo_accuracy"] = float(right[chosen].mean())
        return found


def evaluate(
    model: nn.Module, batches: EvalBatches, settings: ViewSettings, runtime: Runtime
) -> Predictions:
    """Runs the model in eval mode over every rank's rows and joins them, sorted by image id."""
    was_training = model.training
    model.eval()
    ids: list[str] = []
    labels, probabilities = [], []
    with torch.inference_mode():
        for batch in batches:
            images = normalize(batch.views["eval"].to(runtime.device), settings)
            # in float64 a confident mistake keeps a finite cross-entropy
            probabilities.append(model(images).double().softmax(dim=1).cpu().numpy())
            labels.append(batch.labels.numpy())
            ids += batch.ids
    model.train(was_training)
    parts = runtime.gather((ids, labels, probabilities))
    all_ids = [image_id for part in parts for image_id in part[0]]
    # every image is on one rank, and every rank learns of all
    all_labels = np.concatenate([array for part in parts for array in part[1]])
    all_probabilities = np.concatenate([array for part in parts for array in part[2]])
    order = np.argsort(np.array(all_ids))
    return Predictions([all_ids[i] for i in order], all_labels[order], all_probabilities[order])
