"""Losses over soft targets, and their averages between two evaluations."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from semigrid.trainers.methods.step import StepTargets


def soft_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of logits (B, K) with soft targets (B, K) for each image, (B,), in float32."""
    return F.cross_entropy(logits.float(), targets, reduction="none")


class LogitAdjustment:
    """z + τ·log π: the logits that a training learns (Menon et al. 2021, 2007.07314, eq. 10).

    π are the classes' shares among the labels that are trained on. What the network itself says, z,
    is then as if all classes were equally frequent. With τ = 0 nothing is added.

    ``shares`` (K,) are the π.

    Args:
        labels: those that are trained on, (N,); a class without any counts as if it had one.
        tau: τ, ``Recipe.logit_adjustment``.
    """

    def __init__(self, labels: np.ndarray, num_classes: int, tau: float, device: torch.device):
        counts = np.bincount(labels, minlength=num_classes).clip(min=1)
        self.shares = counts / counts.sum()
        log_shares = torch.from_numpy(np.log(self.shares))
        self._added = (tau * log_shares).float().to(device) if tau else None

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Adjusted logits (B, K), in float32 if anything was added."""
        return logits if self._added is None else logits.float() + self._added


def entropy(counts: torch.Tensor) -> float:
    """Entropy in nats of the distribution proportional to the counts (K,); 0 without any."""
    shares = counts.double() / counts.sum().clamp(min=1)
    return float(torch.special.entr(shares).sum())


class StepAverages:
    """Sums over the steps since the last evaluation; tensors, so that no step waits for a GPU."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.steps = 0

    def add(self, targets: StepTargets, losses: Sequence[torch.Tensor]) -> None:
        """Adds a step's values and its losses, in the order of its rows."""
        values = dict(targets.averages)
        first, *others = zip(targets.rows, losses, strict=True)
        total = first[0].factor * first[1]
        for rows, loss in others:
            total = total + rows.factor * loss
        if others:
            values |= {rows.loss: loss for rows, loss in (first, *others)}
        values["loss"] = total
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.steps += 1

    def of_this_rank(self, name: str) -> float:
        """This rank's mean since the last evaluation, after one step at least."""
        return float(self.sums[name]) / self.steps

    def take(self, gather: Callable[[Any], list[Any]]) -> dict[str, float]:
        """Means over all ranks, and the entropy of the pseudo labels in nats; starts anew."""
        mine = {name: (total / self.steps).tolist() for name, total in self.sums.items()}
        self.sums, self.steps = {}, 0
        ranks = gather(mine)
        means = {name: np.mean([rank[name] for rank in ranks], axis=0) for name in mine}
        counts = means.pop("pseudo_counts", None)
        values = {name: float(value) for name, value in means.items()}
        if counts is not None:
            values["pseudo_entropy"] = entropy(torch.from_numpy(counts))
        return values

    def state(self, gather: Callable[[Any], list[Any]]) -> dict[str, Any]:
        """Every rank's sums: a resumed training reports what an uninterrupted one would."""
        sums = gather({name: total.cpu() for name, total in self.sums.items()})
        return {"sums": sums, "summed_steps": self.steps}

    def load(self, state: dict[str, Any], rank: int, device: torch.device) -> None:
        """Goes on from ``state``, also on another number of ranks."""
        if state["sums"]:
            mine = state["sums"][rank % len(state["sums"])]
            self.sums = {name: total.to(device) for name, total in mine.items()}
        self.steps = state["summed_steps"]
