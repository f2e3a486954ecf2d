"""The prediction table: a model's probabilities for each image of a split, as a file, too.

Every score of a cell derives from such tables. Imports no PyTorch, so that tables and reports need
not wait for it.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from semigrid.trainers.evaluation.scores import natural_view, scores

COLUMNS = ("image_id", "label", "probabilities")


@dataclass(frozen=True)
class Predictions:
    """Ids, true classes (N,), probabilities (N, K) in float64, and slice columns by name."""

    ids: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    slices: Mapping[str, list[str | None]] = field(default_factory=dict)

    def metrics(self, class_shares: np.ndarray, tau: float = 0.0) -> dict[str, float]:
        """Acc@1 and Acc@5 in per cent and cross-entropy in nats, as the ledger stores them.

        ``acc1``, ``acc5`` and ``ce`` are balanced, ``acc1_natural`` and so on natural. The
        arguments are those of ``scores``.
        """
        result = scores(self.labels, self.probabilities, class_shares, tau)
        return {
            name: round(100 * value, 10) if name.startswith("acc") else value
            for name, value in vars(result).items()
            if name != "ece"
        }

    def natural(self, class_shares: np.ndarray, tau: float) -> "Predictions":
        """The same images with their ``natural_view``."""
        view = natural_view(self.probabilities, class_shares, tau)
        return replace(self, probabilities=view)

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


def most_bytes(images: int, classes: int) -> int:
    """Bytes that a table of so many images and classes may take, in its file or in memory."""
    return 2**20 + images * (8 * classes + 2**14)


def decode_predictions(content: bytes, images: int, classes: int) -> Predictions:
    """The table of a Parquet file, which must hold so many images and classes.

    What its footer promises is checked before anything is unpacked: a small file may promise
    gigabytes. Raises ``ValueError`` with what is wrong if it is damaged or not such a table.
    """
    try:
        schema = pq.read_schema(pa.BufferReader(content))
        # one value may stand for all rows, and would be repeated for each
        texts = [field.name for field in schema if field.type in _TEXT]
        file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
        problem = _schema_problem(schema, classes) or _size_problem(file, images, classes)
        if problem is not None:
            raise ValueError(problem)
        table = file.read()
        columns = {name: _texts(table[name], most_bytes(images, classes)) for name in texts}
        names = [name for name in table.column_names if name not in COLUMNS]
        slices = {name: columns.get(name, [None] * images) for name in names}
        if any(table[name].null_count for name in COLUMNS):
            raise ValueError("a value is missing")
        labels = table["label"].to_numpy()
        flat = np.concatenate(
            [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in _chunks(table)]
        )
        probabilities = flat.reshape(images, classes)
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"not a table of predictions: {error}") from error
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise ValueError(f"the label {wrong[0]} is no class: they are 0 to {classes - 1}")

    if not np.isfinite(probabilities).all() or (probabilities < 0).any():
        raise ValueError("a probability is not a number from 0 to 1")
    off = np.abs(probabilities.sum(axis=1) - 1)
    if off.size and off.max() > 1e-6:
        raise ValueError(
            f"the probabilities of {columns['image_id'][off.argmax()]} do not sum to 1"
        )
    return Predictions(columns["image_id"], labels, probabilities, slices)


_TEXT = (pa.string(), pa.large_string())


def _chunks(table: pa.Table) -> list[pa.Array]:
    # an empty table may have no chunk
    return table["probabilities"].chunks or [pa.array([], table["probabilities"].type)]


def _texts(column: pa.ChunkedArray, most: int) -> list[Any]:
    """The values of a column that was read as a dictionary; at most so many bytes of them."""
    lengths = [
        pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0
        for chunk in column.chunks
    ]
    if sum(lengths) > most:
        raise ValueError(f"{sum(lengths):,} bytes of text for {len(column):,} images")
    return list(column.to_pylist())


def _schema_problem(schema: pa.Schema, classes: int) -> str | None:
    """What is wrong with a table's columns; None if nothing is."""
    if len(set(schema.names)) < len(schema.names):
        return "two columns have one name"
    of_probabilities = pa.list_(pa.float64(), classes)
    wanted = dict(zip(COLUMNS, (_TEXT, (pa.int64(),), (of_probabilities,)), strict=True))
    for name in COLUMNS:
        if name not in schema.names:
            return f"there is no column {name!r}"
    for name, type_ in zip(schema.names, schema.types, strict=True):
        types = wanted.get(name, (*_TEXT, pa.null()))
        if type_ not in types:
            return f"the column {name!r} is of {type_}, not of {types[0]}"
    return None


def _size_problem(file: pq.ParquetFile, images: int, classes: int) -> str | None:
    """What is wrong with the sizes that a file's footer promises; None if nothing is."""
    metadata = file.metadata
    if metadata.num_rows != images:
        return f"{metadata.num_rows:,} rows, but there are {images:,} test images"
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    unpacked = sum(group.total_byte_size for group in groups)
    if not 0 <= unpacked <= most_bytes(images, classes):
        return f"{unpacked:,} bytes for {images:,} images"
    # a column's own damage is an error here; where it is asked for below, it ends the process
    file.scan_contents()
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    if any(column.num_values > images * max(1, classes) for column in columns):
        return f"more values than {images:,} images and {classes:,} classes have"
    return None
