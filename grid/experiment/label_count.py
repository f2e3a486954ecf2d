"""How many labels a cell uses: those that it trains on, and those of val that choose it."""

from dataclasses import dataclass
from fractions import Fraction

from semigrid.data.splits import images_at
from semigrid.grid.experiment.checks import labeled_images
from semigrid.grid.experiment.experiment import Experiment


@dataclass(frozen=True)
class LabelCount:
    """Labelled images of a cell: ``train`` it learns from, ``val`` choose its winner.

    Trainings, checkpoints and early stopping are all chosen on val, so its labels had to be there.
    """

    train: int
    val: int

    @property
    def total(self) -> int:
        return self.train + self.val

    def __str__(self) -> str:
        return f"{self.train:,} to train and {self.val:,} to choose"


def labels_used(experiment: Experiment, dataset: str, fraction: Fraction) -> LabelCount:
    """The labels that a cell at a label fraction uses."""
    opened = experiment.datasets[dataset]
    return LabelCount(
        labeled_images(opened, fraction), sum(val_counts(experiment, dataset, fraction).values())
    )


def val_counts(experiment: Experiment, dataset: str, fraction: Fraction) -> dict[str, int]:
    """The val images by class that choose at a label fraction."""
    share = fraction if experiment.file.validation == "nested" else Fraction(1)
    counts = experiment.datasets[dataset].manifest.counts["val"]
    return {name: images_at(share, images) for name, images in counts.items()}


def val_fraction(experiment: Experiment, dataset: str, fraction: Fraction) -> Fraction:
    """The share of each class's val images that choose; 1 wherever that is all of them."""
    kept = val_counts(experiment, dataset, fraction)
    return Fraction(1) if kept == experiment.datasets[dataset].manifest.counts["val"] else fraction


def val_labels_for(experiment: Experiment, dataset: str, train: float) -> int:
    """Val labels of the label fraction with so many train labels; it may lie above 100 %."""
    of_train = sum(experiment.datasets[dataset].manifest.counts["train"].values())
    return labels_used(experiment, dataset, Fraction(train / of_train)).val
