"""TensorBoard event files, a folder for each trial: ``tensorboard/CELL/TRIAL``.

tensorboardX imports torch, which takes seconds: only what writes imports it.
"""

import os
import shutil
import time
from pathlib import Path
from typing import Any

from semigrid.data.storage import Storage
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.summary import ENDED
from semigrid.grid.trackers.tracker import MEASURED, Past, Run, course_of, folder_at, stamp

FOLDER = "tensorboard"
# Ends the name of the file that completes a trial, or has its test scores, with the ``stamp``.
MARK = ".ended-"

# The metrics' names that were written, by step.
Written = dict[int, set[str]]


class TensorBoard:
    """Scalars of each evaluation while it trains; at its end the recipe, and what was missed."""

    def __init__(self, storage: Storage):
        self.storage = storage
        self._open: dict[str, tuple[Any, Written]] = {}

    def _name(self, run: Run) -> str:
        return f"{FOLDER}/{run.cell}/{run.id}"

    def _marks(self, run: Run) -> set[str]:
        try:
            names = os.listdir(self.storage.location(self._name(run)))
        except FileNotFoundError:
            return set()
        return {name.rpartition(MARK)[2] for name in names if MARK in name}

    def catch_up(self, past: Past) -> None:
        for run, record in past:
            if record.status in ENDED and stamp(record) not in self._marks(run):
                self.ended(run, record)

    def evaluated(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        if run.id not in self._open:
            if self._marks(run):  # it trains once more
                self._remove(run)
            self._open[run.id] = _writer(folder_at(self.storage, self._name(run))), {}
        writer, written = self._open[run.id]
        if step in written:  # its process died after it had said this
            written[step] = set()
            return
        written[step] = set(metrics)
        _write(writer, step, metrics, time.time())
        writer.flush()

    def ended(self, run: Run, record: Record) -> None:
        writer, written = self._open.pop(run.id, (None, {}))
        if writer is not None:
            writer.close()
        if record.status not in ENDED:
            return  # what there is shows how far it came
        course, marks = course_of(record), self._marks(run)
        trained = stamp(record).removesuffix(MEASURED)
        if trained not in marks:
            if written != {step: set(metrics) for step, metrics in course.items()}:
                # interrupted, or trained while nobody followed: once more from the record
                self._remove(run)
                self._write_course(run, record, course)
            self._complete(run, record, trained)
        if record.test is not None and stamp(record) not in marks:
            scores = {f"test/{name}": value for name, value in record.test.items()}
            self._write_marked(run, stamp(record), [_scalars(scores, record.best_step)])

    def _remove(self, run: Run) -> None:
        shutil.rmtree(folder_at(self.storage, self._name(run)))

    def _write_course(self, run: Run, record: Record, course: dict[int, dict[str, float]]) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        writer = _writer(folder_at(self.storage, self._name(run)))
        # a TensorBoard that is open has read the steps of the files that were here before
        restart = SessionLog(status=SessionLog.START)
        writer.write_event(Event(wall_time=record.started_at, step=0, session_log=restart))
        taken = (record.finished_at or record.started_at) - record.started_at
        for step, metrics in sorted(course.items()):
            _write(writer, step, metrics, record.started_at + taken * step / max(course))
        writer.close()

    def _complete(self, run: Run, record: Record, mark: str) -> None:
        """Its best scores and, for the HParams tab, its recipe."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import hparams

        scores = {f"best/{name}": value for name, value in record.val.items()}
        events = [Event(summary=part) for part in hparams(run.hyper_parameters(), scores)]
        self._write_marked(run, mark, [*events, _scalars(scores, record.best_step)])

    def _write_marked(self, run: Run, mark: str, events: list[Any]) -> None:
        """A file of its own, whose name is there when all of it is."""
        folder = folder_at(self.storage, self._name(run))
        writer = _writer(folder, prefix=".making", suffix=MARK + mark)
        for event in events:
            event.wall_time = time.time()
            writer.write_event(event)
        writer.close()
        beside = Path(writer._file_name)
        beside.rename(folder / beside.name.replace(".making", "events", 1))

    def close(self) -> None:
        for writer, _ in self._open.values():
            writer.close()
        self._open.clear()


def _writer(folder: Path, prefix: str = "events", suffix: str = "") -> Any:
    """Writes at once, where ``SummaryWriter`` has a thread and a pipe for each trial."""
    from tensorboardX.event_file_writer import EventsWriter

    return EventsWriter(str(folder / prefix), suffix)


def _write(writer: Any, step: int, metrics: dict[str, float], wall_time: float) -> None:
    tagged = {}
    for name, value in metrics.items():
        group, _, rest = name.partition("_")
        tag = f"val_{group}/{rest}" if group in ("student", "ema") else f"train/{name}"
        tagged[tag] = value
    event = _scalars(tagged, step)
    event.wall_time = wall_time
    writer.write_event(event)


def _scalars(values: dict[str, float], step: int) -> Any:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    summary = Summary(value=[Summary.Value(tag=t, simple_value=v) for t, v in values.items()])
    return Event(step=step, summary=summary)
