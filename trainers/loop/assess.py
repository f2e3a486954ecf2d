"""An evaluation on val within a training: its metrics, its record, and whether it may go on."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from semigrid.data.errors import InputError
from semigrid.trainers.evaluation.evaluate import evaluate_all
from semigrid.trainers.evaluation.scores import SUFFIXES, Metric
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.loop.health import HopelessError
from semigrid.trainers.loop.networks import Networks
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.loop.streams import Streams
from semigrid.trainers.methods import Stepped
from semigrid.trainers.methods.losses import LogitAdjustment, entropy
from semigrid.trainers.methods.method import NetworkName
from semigrid.trainers.recipe import SteppedRecipe

# the largest number that a record may have
MOST = torch.finfo(torch.float32).max


class Assessor:
    """Evaluates both networks of a training on val, in the training's precision.

    Args:
        class_shares: the classes' natural shares, (K,), for the natural scores.
        metric: which scores tell the networks apart.
    """

    def __init__(
        self,
        method: Stepped[Any],
        recipe: SteppedRecipe,
        networks: Networks,
        streams: Streams,
        runtime: Runtime,
        adjustment: LogitAdjustment,
        class_shares: np.ndarray,
        metric: Metric,
    ):
        self._method, self._recipe, self._networks = method, recipe, networks
        self._streams, self._runtime, self._adjustment = streams, runtime, adjustment
        self._class_shares, self._metric = class_shares, metric
        labels = torch.from_numpy(np.asarray(streams.validation.table.labels))
        self._natural_entropy = entropy(torch.bincount(labels, minlength=len(class_shares)))

    def assess(
        self, losses: Mapping[str, float], outcome: Outcome
    ) -> dict[NetworkName, dict[str, float]]:
        """Metrics of student and teacher; adds an evaluation to the outcome's history.

        Raises ``HopelessError`` when the training leads to nothing, and ``InputError`` when the
        method records what no record can hold.

        Args:
            losses: means over the steps since the last evaluation.
        """
        step = outcome.step
        if not math.isfinite(losses["loss"]):
            raise self._diverged(step, f"the mean loss is {losses['loss']}")
        networks, streams = self._networks, self._streams
        predictions = evaluate_all(
            networks.by_name, streams.validation, streams.views, self._runtime, networks.autocast
        )
        for name, each in predictions.items():
            if not np.isfinite(each.probabilities).all():
                raise self._diverged(step, f"the {name} predicts no finite probabilities")
        shares, tau = self._class_shares, self._recipe.logit_adjustment
        metrics = {name: each.metrics(shares, tau) for name, each in predictions.items()}
        own: dict[str, float] = {}
        for name, values in metrics.items():
            own |= {f"{name}_{metric}": value for metric, value in values.items()}
        acc1 = f"acc1{SUFFIXES[self._metric]}"
        own["teacher_gap"] = metrics["ema"][acc1] - metrics["student"][acc1]
        taken = {"step", *own, *metrics["ema"]}
        self._check(losses, taken, step)
        measures: dict[str, float] = {}
        if self._networks.answers is not None:
            trained = predictions[self._networks.answers].natural(self._adjustment.shares, tau)
            found = self._method.measures(trained, self._recipe)
            measures = {name: float(value) for name, value in found.items()}
            self._check(measures, taken | {*losses}, step)
        outcome.history.append({"step": step, **losses, **own, **measures})
        collapsed = self._method.health(outcome.history, self._recipe, self._natural_entropy)
        if collapsed:
            raise HopelessError("collapsed", collapsed)
        return metrics

    def _check(self, values: Mapping[str, float], taken: set[str], step: int) -> None:
        """Raises ``InputError`` for a method's values that would make the record unreadable."""
        for name, value in values.items():
            what = f"method {self._method.name}: {name}, which it records,"
            if name in taken:
                raise InputError(f"{what} is a name that the evaluation itself has; rename it")
            if not abs(value) <= MOST:
                raise InputError(
                    f"{what} is {value} at step {step}, no finite number: leave out what cannot be "
                    "told, or mend the method"
                )

    def _diverged(self, step: int, problem: str) -> HopelessError:
        return HopelessError(
            "diverged",
            f"up to step {step} the training diverged: {problem}; lower base_lr (it is "
            f"{self._recipe.base_lr:g})",
        )
