"""What a model card is made of, and words for weights and sources that its parts share."""

from dataclasses import dataclass
from fractions import Fraction

from semigrid.data.schema import Manifest
from semigrid.data.splits import images_at
from semigrid.grid.export.card_scores import ClassScore, class_scores
from semigrid.grid.export.check import Check
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Cell
from semigrid.grid.tables.markdown import escape
from semigrid.trainers.predictions import Predictions
from semigrid.trainers.weights import Weights, is_non_commercial

OTHER = "other"
# names that the hub knows; any other is `other` there, with a name of its own
_HUB_LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nd-4.0", "openrail"),
    *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
)


@dataclass(frozen=True)
class CardFacts:
    """``chain`` holds the records from the first training to the one that is exported."""

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
    def training_images(self) -> dict[str, int]:
        """Labelled training images by class, of the cell's fraction."""
        fraction = Fraction(self.record.spec.labels)
        counts = self.manifest.counts["train"]
        return {name: images_at(fraction, images) for name, images in counts.items()}

    @property
    def classes(self) -> list[ClassScore]:
        return class_scores(self.predictions, self.manifest.classes, self.training_images)


def card_license(weights: Weights | None, data_license: str) -> str:
    """The licence of the weights that training began with, by the hub's name for it if it has one.

    ``other`` where nobody has stated one (with random weights at the start it is the user's to
    choose), and where it would promise more than the images allow.
    """
    if weights is None:
        return OTHER
    known = weights.license.split(" ")[0].lower()
    if is_non_commercial(data_license) and not is_non_commercial(known):
        return OTHER
    return known if known in _HUB_LICENSES else OTHER


def weights_words(weights: Weights) -> str:
    terms = f"licence {escape(weights.license)}"
    if is_non_commercial(weights.license):
        terms += " (not for commercial use)"
    known = f", SHA-256 `{weights.sha256}`" if weights.sha256 else ""
    return f"{source_words(weights.source)}, {terms}{known}"


def source_words(source: str) -> str:
    """Where something is from. Of a path on the maker's machine only the end is told."""
    path = source.removeprefix("file://")
    if path.startswith("/"):
        return f"{escape(path.rstrip('/').rpartition('/')[2])} (a local file or folder)"
    return escape(source)
