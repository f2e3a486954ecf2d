"""The prediction table: a model's probabilities for each image of a split, as a file, too.

Every score of a cell derives from such tables. Imports no PyTorch, so that tables and reports need
not wait for it.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from semigrid.trainers.evaluation.scores import scores

COLUMNS = ("image_id", "label", "probabilities")


@dataclass(frozen=True)
class Predictions:
    """Ids, true classes (N,), probabilities (N, K) in float64, and slice columns by name."""

    ids: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    slices: Mapping[str, list[str | None]] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Acc@1 and Acc@5 in per cent and cross-entropy in nats, as the ledger stores them."""
        result = scores(self.labels, self.probabilities)
        return {"acc1": 100 * result.acc1, "acc5": 100 * result.acc5, "ce": result.ce}

    def confident(self, threshold: float) -> dict[str, float]:
        """How good the predictions would be as pseudo labels, as shares from 0 to 1.

        ``pseudo_coverage`` is the share of images whose confidence reaches the threshold, and
        ``pseudo_accuracy`` the share of right ones among those; left out where there are none.
        """
        chosen = self.probabilities.max(axis=1) >= threshold
        quality = {"pseudo_coverage": float(chosen.mean())}
        if chosen.any():
            quality["pseudo_accuracy"] = float(self.right[chosen].mean())
        return quality

    @property
    def right(self) -> np.ndarray:
        """Whether each image was put into its class, (N,)."""
        return np.asarray(self.probabilities.argmax(axis=1) == self.labels)

    def encode(self) -> bytes:
        """The table as a Parquet file."""
        classes = self.probabilities.shape[1]
        table = pa.table(
            {
                "image_id": self.ids,
                "label": self.labels,
                "probabilities": pa.array(
                    self.probabilities.tolist(), pa.list_(pa.float64(), classes)
                ),
                **self.slices,
            }
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        return buffer.getvalue()


def decode_predictions(content: bytes) -> Predictions:
    """The table of a Parquet file. Raises ``ValueError`` if it is damaged or not such a table."""
    try:
        table = pq.read_table(pa.BufferReader(content))
        flat = table["probabilities"].combine_chunks().flatten().to_numpy()
        probabilities = flat.reshape(len(table), -1)
        labels = table["label"].to_numpy().astype(np.int64)
        ids = table["image_id"].to_pylist()
    except (OSError, KeyError, ValueError, TypeError, AttributeError, pa.ArrowException) as error:
        raise ValueError(f"not a table of predictions: {error}") from error
    names = [name for name in table.column_names if name not in COLUMNS]
    slices = {name: table[name].to_pylist() for name in names}
    return Predictions(ids, labels, probabilities, slices)
