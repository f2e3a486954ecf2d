"""What a model card says, as typed values for its template."""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from semigrid.data.schema import Manifest
from semigrid.data.splits import images_at
from semigrid.grid.analysis.result_set import FEW_IMAGES
from semigrid.grid.analysis.statistics import Interval, quantile, share_interval
from semigrid.grid.export.check import Check
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Cell
from semigrid.grid.tables.slices import tally
from semigrid.trainers.evaluation.predictions import Predictions
from semigrid.trainers.evaluation.scores import Scores, scores
from semigrid.trainers.methods import METHODS, Method, why_unused
from semigrid.trainers.models.weights import Weights
from semigrid.trainers.trial.identity import TrialSpec


@dataclass(frozen=True)
class GroupScore:
    """Test images of a class, of a slice's value, or all, and how many were classified right."""

    name: str
    images: int
    right: int

    @property
    def accuracy(self) -> float:
        return self.right / self.images

    @property
    def interval(self) -> Interval:
        return share_interval(self.right, self.images)

    @property
    def few(self) -> bool:
        return self.images < FEW_IMAGES


@dataclass(frozen=True)
class ClassScore(GroupScore):
    """With its training images, and the class it was most often mistaken for, and how often."""

    training: int
    mistaken_for: tuple[str, int] | None


@dataclass(frozen=True)
class CardFacts:
    """Facts of an exported model.

    ``chain`` holds the records from the first training to the exported one, ``seeds`` the winner's
    record by seed, ``trials`` how many trials the cell's search had.
    """

    cell: Cell
    chain: list[Record]
    seeds: dict[int, Record]
    trials: int
    manifest: Manifest
    predictions: Predictions
    parameters: int
    check: Check
    onnx: bool

    @property
    def record(self) -> Record:
        return self.chain[-1]

    @property
    def spec(self) -> TrialSpec:
        return self.record.spec

    @property
    def weights(self) -> Weights | None:
        """The weights that training began with; None for random ones."""
        return self.record.weights

    @property
    def method(self) -> Method:
        return METHODS[self.spec.method]

    def hyper_parameters(self, spec: TrialSpec) -> dict[str, Any]:
        """The values of a recipe that have an effect in its method."""
        return {
            name: value
            for name, value in spec.recipe.model_dump(mode="json").items()
            if value is not None and why_unused(name, spec.recipe, spec.method) is None
        }

    @cached_property
    def training_images(self) -> dict[str, int]:
        """Labelled training images by class, at the cell's label fraction."""
        counts = self.manifest.counts["train"]
        return {
            name: images_at(Fraction(self.spec.labels), images) for name, images in counts.items()
        }

    @cached_property
    def classes(self) -> list[ClassScore]:
        """All classes: lowest accuracy first, those without test images last."""
        names, labels = self.manifest.classes, self.predictions.labels
        chosen = self.predictions.probabilities.argmax(axis=1)
        classes = []
        for index, name in enumerate(names):
            counts = np.bincount(chosen[labels == index], minlength=len(names))
            images, right = int(counts.sum()), int(counts[index])
            counts[index] = 0
            most = int(counts.argmax())
            mistaken_for = (names[most], int(counts[most])) if counts[most] else None
            training = self.training_images.get(name, 0)
            classes.append(ClassScore(name, images, right, training, mistaken_for))
        return sorted(classes, key=lambda c: (not c.images, c.accuracy if c.images else 0.0))

    @property
    def weak_classes(self) -> list[ClassScore]:
        """Up to three classes whose accuracy is below that over all images."""
        average = self.overall.accuracy
        return [each for each in self.classes if each.images and each.accuracy < average][:3]

    @cached_property
    def slices(self) -> dict[str, list[GroupScore]]:
        """Scores by value of each slice: most test images first, images without a value last."""
        slices = {}
        for name, values in self.predictions.slices.items():
            counts = tally(values, self.predictions.right)
            slices[name] = [GroupScore(value, *count) for value, count in counts.items()]
        return slices

    @cached_property
    def overall(self) -> GroupScore:
        right = self.predictions.right
        return GroupScore("all", len(right), int(right.sum()))

    @cached_property
    def scores(self) -> Scores:
        return scores(self.predictions.labels, self.predictions.probabilities)

    @property
    def acc5_interval(self) -> Interval:
        images = self.overall.images
        return share_interval(round(self.scores.acc5 * images), images)

    @property
    def loss_interval(self) -> Interval | None:
        """Student's interval of the mean cross-entropy, in nats; None for a single image."""
        images = self.overall.images
        if images < 2:
            return None
        own = self.predictions.probabilities[np.arange(images), self.predictions.labels]
        losses = -np.log(np.maximum(own, np.finfo(np.float64).eps))
        half = quantile(images - 1) * float(losses.std(ddof=1)) / images**0.5
        return Interval(max(0.0, float(losses.mean()) - half), float(losses.mean()) + half)

    @property
    def overconfidence(self) -> float:
        """Mean confidence less accuracy, from -1 to 1."""
        confidence = self.predictions.probabilities.max(axis=1)
        return float(confidence.mean()) - self.overall.accuracy

    @property
    def acc1_by_seed(self) -> dict[int, float]:
        """Acc@1 on test of the winner's seeds, in per cent."""
        return {seed: r.test["acc1"] for seed, r in self.seeds.items() if r.test}

    @property
    def device_seconds(self) -> Counter[str]:
        """Seconds of training by kind of device."""
        total: Counter[str] = Counter()
        for record in self.chain:
            total.update(record.device_seconds)
        return total
