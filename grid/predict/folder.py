"""A prediction's folder: parts, and ``predictions.json`` once all of them are there.

Until then, ``started.json`` says which prediction the parts belong to, so that the same command
resumes it.
"""

import io
import json
from dataclasses import asdict
from fractions import Fraction
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from semigrid.data.errors import InputError
from semigrid.data.json_text import json_text
from semigrid.data.ranges import Block, ImageRange
from semigrid.data.schema import Dataset, Split
from semigrid.data.splits import label_subset
from semigrid.data.storage import open_storage
from semigrid.data.storage.in_use import remove_unfinished
from semigrid.grid.predict.abstain import Calibration, at_threshold, calibrate
from semigrid.grid.predict.images import Images
from semigrid.grid.predict.inference import WinnerModel
from semigrid.grid.study.layout import RAY_LOGS

STARTED, SUMMARY, PARTS = "started.json", "predictions.json", "parts"
ANSWER_COLUMNS = ["image_id", "abstain", "error"]
CALIBRATION: Split = "val"
# The content of ``predictions.json``.
Summary = dict[str, Any]


class PredictionFolder:
    """The files of one prediction, with either an ``accuracy`` to promise or a ``threshold``.

    ``calibration`` is None until ``start`` or ``calibrate`` was called by this or an earlier
    process. Raises ``InputError`` where the folder holds another prediction, or something else.
    """

    def __init__(
        self,
        uri: str,
        cell: str,
        model: WinnerModel,
        images: Images,
        accuracy: float | None,
        threshold: float | None,
        with_probabilities: bool = True,
    ):
        self.storage = open_storage(uri)
        self.model, self.images = model, images
        self.accuracy, self.threshold = accuracy, threshold
        # everything that shapes a prediction, by its name in messages
        self.request = {
            "cell": cell,
            "trial": model.spec.id,
            "weights": model.weights,
            "weights_sha256": model.place.weights_sha256,
            "images": images.identity,
            "accuracy": accuracy,
            "threshold": threshold,
            "probabilities": with_probabilities,
            "classes": list(model.classes),
        }
        # what each part says of itself, so that none is taken for another prediction's
        self._digest = sha256(json.dumps(self.request, sort_keys=True).encode()).hexdigest()
        self._answers: dict[str, pa.Table] = {}  # three columns of each part
        self._written = self._read()
        calibration = self._written.get("calibration")
        self.calibration = None if calibration is None else Calibration(**calibration)

    def _read(self) -> dict[str, Any]:
        """What an earlier run of the same command wrote; empty without one."""
        for name in (SUMMARY, STARTED):
            try:
                content: dict[str, Any] = json.loads(self.storage.read(name))
                before, _ = content["request"], Calibration(**content["calibration"])
                other = [key for key, value in self.request.items() if before[key] != value]
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{self.storage.location(name)}: not what a prediction writes; give another "
                    "--output, or remove that folder"
                ) from error
            if other:
                key = other[0]
                what = f"{key} {before[key]} where this one has {self.request[key]}"
                raise InputError(
                    f"{self.storage.uri}: another prediction lies here, of "
                    f"{f'other {key}' if key in ('images', 'classes') else what}; give another "
                    "--output, or remove that folder"
                )
            return content
        if self.storage.exists():
            if not self.storage.is_folder():
                raise InputError(f"--output {self.storage.uri}: this is a file; give a folder")
            # of a prediction that died before its calibration there are logs alone
            logs = RAY_LOGS.partition("/")[0]
            if any(not n.startswith(".") and n != logs for n in self.storage.entries()):
                raise InputError(
                    f"--output {self.storage.uri}: this folder has files of something else; give "
                    "a new or empty one"
                )
        return {}

    @property
    def summary(self) -> Summary | None:
        """The summary of a finished prediction; None while parts are missing."""
        return None if "counts" not in self._written or self.missing() else self._written

    def missing(self) -> dict[str, ImageRange]:
        """The parts that are not written yet, or cannot be read."""
        there = set(self.storage.names(PARTS))
        for file, images in self.images.parts.items():
            if file in there and file not in self._answers:
                try:
                    with self.storage.open(f"{PARTS}/{file}") as stream:
                        table = pq.read_table(stream, columns=ANSWER_COLUMNS)
                except (OSError, pa.ArrowException):
                    continue
                if len(table) == images.count and self._is_own(table.schema):
                    self._answers[file] = table
        return {file: i for file, i in self.images.parts.items() if file not in self._answers}

    def _is_own(self, part: pa.Schema) -> bool:
        try:
            known = json.loads((part.metadata or {})[b"semigrid"])
            threshold = None if self.calibration is None else self.calibration.threshold
            return (known["prediction"], known["threshold"]) == (self._digest, threshold)
        except (ValueError, KeyError, TypeError):
            return False

    def remove_unfinished(self) -> None:
        """Removes what a killed process of this prediction left half written."""
        remove_unfinished(self.storage, "", PARTS)

    def calibrate(self, dataset: Dataset, predicted: Block) -> None:
        """Starts with what the model's answers on all of val say.

        Those of a cell with ``validation: nested`` say it on the images that chose its model: more
        labels of val it does not count.
        """
        labels = dataset.column(CALIBRATION, "label").to_numpy()
        own = label_subset(labels, Fraction(self.model.spec.validation))
        rows = own[[predicted.errors[row] is None for row in own]]
        probabilities = predicted.rows[rows]
        confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels[rows]
        if self.threshold is not None:
            self.start(at_threshold(confidence, right, self.threshold))
        else:
            assert self.accuracy is not None
            self.start(calibrate(confidence, right, self.accuracy))

    def start(self, calibration: Calibration) -> None:
        """Claims the folder: parts written from now on belong to this prediction."""
        self.calibration = calibration
        started = {"request": self.request, "calibration": asdict(calibration)}
        self.storage.write(STARTED, _json(started))

    def write(self, file: str, predicted: Block) -> None:
        """Writes a part's file, whole or not at all: a row for each image.

        Where an image cannot be read, only its id and the error are not null.
        """
        assert self.calibration is not None
        known = {key: self.request[key] for key in ("cell", "trial", "weights_sha256", "classes")}
        known["threshold"] = threshold = self.calibration.threshold
        known["prediction"] = self._digest
        broken = np.array([error is not None for error in predicted.errors], dtype=bool)
        classes = np.array(self.model.classes)[predicted.rows.argmax(axis=1)].tolist()
        confidence = predicted.rows.max(axis=1)
        abstain = np.ones(len(broken), bool) if threshold is None else confidence < threshold
        columns = {
            "image_id": pa.array(predicted.ids, pa.string()),
            "class": pa.array(classes, pa.string(), mask=broken),
            "probability": pa.array(confidence, pa.float64(), mask=broken),
            "abstain": pa.array(abstain, pa.bool_(), mask=broken),
            "probabilities": pa.array(list(predicted.rows), pa.list_(pa.float64()), mask=broken),
            "error": pa.array(predicted.errors, pa.string()),
        }
        if not self.request["probabilities"]:
            del columns["probabilities"]
        table = pa.table(columns, metadata={"semigrid": json.dumps(known)})
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        self.storage.write(f"{PARTS}/{file}", buffer.getvalue())
        self._answers[file] = table.select(ANSWER_COLUMNS)

    def finish(self) -> Summary:
        """Writes and returns the summary, once all parts are written.

        Raises ``InputError`` where another process has written into a bucket meanwhile.
        """
        assert self.calibration is not None
        for file in self.images.parts:
            with self.storage.open(f"{PARTS}/{file}") as stream:
                if not self._is_own(pq.read_schema(stream)):
                    raise InputError(
                        f"{self.storage.location(PARTS, file)}: another prediction wrote this "
                        "meanwhile; give another --output, or run the same command again"
                    )
        answers = pa.concat_tables([self._answers[file] for file in self.images.parts])
        errors = answers.filter(answers["error"].is_valid()).select(["image_id", "error"])
        summary = {
            **self.request,
            "threshold": self.calibration.threshold,
            "counts": {
                "images": len(answers),
                "predicted": len(answers) - len(errors),
                "abstained": pc.sum(answers["abstain"]).as_py() or 0,
                "errors": len(errors),
            },
            "first_error": next(iter(errors.slice(0, 1).to_pylist()), None),
            "calibration": asdict(self.calibration),
            "request": self.request,
        }
        self.storage.write(SUMMARY, _json(summary))
        self.storage.delete(STARTED)
        return summary


def summary_lines(summary: Summary, uri: str) -> list[str]:
    """A finished prediction in words; ``uri`` is that of its folder."""
    counts, first = summary["counts"], summary["first_error"]
    lines = [
        f"{counts['images']:,} images: {counts['predicted'] - counts['abstained']:,} answered, "
        f"{counts['abstained']:,} abstained from, {counts['errors']:,} unreadable",
        Calibration(**summary["calibration"]).describe(),
    ]
    if first:
        lines.append(f"the first unreadable image is {first['image_id']}: {first['error']}")
    return [*lines, f"predictions: {uri}/{PARTS}, summed up in {uri}/{SUMMARY}"]


def _json(content: dict[str, Any]) -> bytes:
    return (json_text(content, ascii=False) + "\n").encode()
