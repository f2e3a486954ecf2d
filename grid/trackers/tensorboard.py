"""TensorBoard event files, a folder for each trial: ``tensorboard/CELL/TRIAL``."""

import shutil
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from grid.ledger import Record
from grid.trackers.tracker import Run, course_of, numbers

FOLDER = "tensorboard"


class TensorBoard:
    """Scalars of each evaluation while it trains; at its end the whole course, and the recipe."""

    def __init__(self, folder: Path):
        self.folder = folder / FOLDER
        self._open: dict[str, tuple[SummaryWriter, set[int]]] = {}

    def _where(self, run: Run) -> Path:
        return self.folder / run.search.name / run.id

    def catch_up(self, run: Run, record: Record) -> None:
        """Writes what ended while nobody did."""
        if not self._where(run).exists():
            self.ended(run, record.model_copy(update={"test": None}))
            if record.test is not None:
                self._note_test(run, record)

    def evaluated(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        if run.id not in self._open:
            self._open[run.id] = SummaryWriter(str(self._where(run))), set()
        writer, written = self._open[run.id]
        written.add(step)
        _write(writer, step, metrics)
        writer.flush()

    def ended(self, run: Run, record: Record) -> None:
        course = course_of(record)
        writer, written = self._open.pop(run.id, (None, set()))
        if record.test is not None:
            self._note_test(run, record)
            return
        if writer is None or written != set(course):
            # it was interrupted, or trained by a run that wrote none: once more from the record
            if writer is not None:
                writer.close()
            shutil.rmtree(self._where(run), ignore_errors=True)
            if not course:
                return
            writer = SummaryWriter(str(self._where(run)))
            for step, metrics in course.items():
                _write(writer, step, metrics)
        else:
            for reading in record.speed:  # which no report of an evaluation has
                speed = numbers(reading)
                _write(writer, int(speed.pop("step")), speed)
        _write_recipe(writer, run, record)
        writer.close()

    def _note_test(self, run: Run, record: Record) -> None:
        writer = SummaryWriter(str(self._where(run)), filename_suffix=".test")
        for name, value in (record.test or {}).items():
            writer.add_scalar(f"test/{name}", value, record.best_step)
        writer.close()

    def close(self) -> None:
        for writer, _ in self._open.values():
            writer.close()
        self._open.clear()


def _write(writer: SummaryWriter, step: int, metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        group, _, rest = name.partition("_")
        tag = f"val_{group}/{rest}" if group in ("student", "ema") else f"train/{name}"
        writer.add_scalar(tag, value, step)


def _write_recipe(writer: SummaryWriter, run: Run, record: Record) -> None:
    """For the HParams tab, in the trial's own folder."""
    scores = {f"best/{name}": value for name, value in record.val.items()}
    for name, value in scores.items():
        writer.add_scalar(name, value, record.best_step)
    parts: tuple[Any, ...] = hparams(run.hyper_parameters(), scores)
    for part in parts:
        writer.file_writer.add_summary(part)
