"""A prediction's folder: parts, and ``predictions.json`` once all of them are there.

Until then, ``started.json`` says which prediction the parts belong to, so that the same command
resumes it.
"""

import io
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage
from semigrid.grid.predict.abstain import Calibration
from semigrid.grid.predict.images import Images, OutputPart
from semigrid.grid.predict.inference import PredictedImages, WinnerModel

FORMAT = 1
STARTED, SUMMARY, PARTS = "started.json", "predictions.json", "parts"
ANSWER_COLUMNS = ["image_id", "abstain", "error"]


@dataclass(frozen=True)
class Request:
    """A requested prediction, with either an ``accuracy`` to promise or a ``threshold``."""

    cell: str
    accuracy: float | None
    threshold: float | None
    with_probabilities: bool


class PredictionFolder:
    """The files of one prediction. Raises ``InputError`` where the folder holds others."""

    def __init__(self, uri: str, request: Request, model: WinnerModel, images: Images):
        self.storage = open_storage(uri)
        self.request, self.model, self.images = request, model, images
        # everything that shapes a prediction, by its name in messages
        self.identity = {
            "format": FORMAT,
            "cell": request.cell,
            "trial": model.spec.id,
            "weights": model.weights,
            "weights_sha256": model.place.weights_sha256,
            "images": images.identity,
            "accuracy": request.accuracy,
            "threshold": request.threshold,
            "probabilities": request.with_probabilities,
            "classes": list(model.classes),
        }
        self._answers: dict[str, pa.Table] = {}  # three columns of each part
        self._written = self._read()
        calibration = self._written.get("calibration")
        self.calibration = None if calibration is None else Calibration(**calibration)

    def _read(self) -> dict[str, Any]:
        """What an earlier run of the same command wrote; empty without one."""
        for name in (SUMMARY, STARTED):
            try:
                content = json.loads(self.storage.read(name))
                before = {key: content["request"][key] for key in self.identity}
                _ = Calibration(**content["calibration"])
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{self.storage.location(name)}: not what a prediction writes; give another "
                    "--output, or remove that folder"
                ) from error
            self._check_same(before)
            return dict(content)
        if self.storage.exists():
            if not self.storage.is_folder():
                raise InputError(f"--output {self.storage.uri}: this is a file; give a folder")
            if any(not name.startswith(".") for name in self.storage.entries()):
                raise InputError(
                    f"--output {self.storage.uri}: this folder has files of something else; give "
                    "a new or empty one"
                )
        return {}

    def _check_same(self, before: dict[str, Any]) -> None:
        for key, value in self.identity.items():
            if before[key] != value:
                words = {"images": "other images", "classes": "other classes"}
                other = words.get(key, f"{key} {before[key]} where this one has {value}")
                raise InputError(
                    f"{self.storage.uri}: another prediction lies here, of {other}; give another "
                    "--output, or remove that folder"
                )

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished prediction; None while parts are missing."""
        return None if "counts" not in self._written or self.missing() else self._written

    def missing(self) -> list[OutputPart]:
        """The parts that are not written yet, or cannot be read."""
        there = set(self.storage.names(PARTS))
        for part in self.images.parts:
            if part.file in there and part.file not in self._answers:
                try:
                    with self.storage.open(f"{PARTS}/{part.file}") as file:
                        table = pq.read_table(file, columns=ANSWER_COLUMNS)
                except (OSError, pa.ArrowException):
                    continue
                if len(table) == part.count:
                    self._answers[part.file] = table
        return [part for part in self.images.parts if part.file not in self._answers]

    def start(self, calibration: Calibration) -> None:
        """Claims the folder: parts written from now on belong to this prediction."""
        self.calibration = calibration
        started = {"request": self.identity, "calibration": asdict(calibration)}
        self.storage.write(STARTED, _json(started))

    def write(self, part: OutputPart, predicted: PredictedImages) -> None:
        """Writes a part's file, whole or not at all."""
        assert self.calibration is not None
        table = predictions_table(predicted, self.identity, self.calibration)
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        self.storage.write(f"{PARTS}/{part.file}", buffer.getvalue())
        self._answers[part.file] = table.select(ANSWER_COLUMNS)

    def finish(self) -> dict[str, Any]:
        """Writes and returns the summary, once all parts are written."""
        assert self.calibration is not None
        answers = pa.concat_tables([self._answers[part.file] for part in self.images.parts])
        errors = answers.filter(answers["error"].is_valid()).select(["image_id", "error"])
        counts = {
            "images": len(answers),
            "predicted": len(answers) - len(errors),
            "abstained": pc.sum(answers["abstain"]).as_py() or 0,
            "errors": len(errors),
        }
        summary = {
            "cell": self.identity["cell"],
            "trial": self.identity["trial"],
            "weights_sha256": self.identity["weights_sha256"],
            "threshold": self.calibration.threshold,
            "accuracy": self.identity["accuracy"],
            "classes": self.identity["classes"],
            "counts": counts,
            "first_error": next(iter(errors.slice(0, 1).to_pylist()), None),
            "calibration": asdict(self.calibration),
            "request": self.identity,
        }
        self.storage.write(SUMMARY, _json(summary))
        self.storage.delete(STARTED)
        return summary


def summary_lines(summary: dict[str, Any], uri: str) -> list[str]:
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


def predictions_table(
    predicted: PredictedImages, identity: dict[str, Any], calibration: Calibration
) -> pa.Table:
    """One row for each image; where it cannot be read, only its id and the error are not null."""
    classes = identity["classes"]
    broken = np.array([error is not None for error in predicted.errors], dtype=bool)
    chosen = predicted.probabilities.argmax(axis=1)
    confidence = predicted.probabilities.max(axis=1)
    threshold = calibration.threshold
    abstain = np.ones(len(broken), bool) if threshold is None else confidence < threshold
    columns: dict[str, Any] = {
        "image_id": pa.array(predicted.ids, pa.string()),
        "class": pa.array(np.array(classes)[chosen].tolist(), pa.string(), mask=broken),
        "probability": pa.array(confidence, pa.float64(), mask=broken),
        "abstain": pa.array(abstain, pa.bool_(), mask=broken),
    }
    if identity["probabilities"]:
        columns["probabilities"] = pa.array(
            list(predicted.probabilities), pa.list_(pa.float64()), mask=broken
        )
    columns["error"] = pa.array(predicted.errors, pa.string())
    known = {"cell": identity["cell"], "trial": identity["trial"], "threshold": threshold}
    known |= {"weights_sha256": identity["weights_sha256"], "classes": classes}
    return pa.table(columns).replace_schema_metadata({"semigrid": json.dumps(known)})


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
