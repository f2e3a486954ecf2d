"""TensorBoard event files, in a folder for each trial: ``tensorboard/CELL/TRIAL``.

tensorboardX imports torch, which takes seconds: only functions that write import it.
"""

import os
import shutil
import time
from pathlib import Path
from typing import Any

from semigrid.data.storage import Storage
from semigrid.grid.study.layout import TENSORBOARD
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.summary import ENDED
from semigrid.grid.trackers.tracker import TrackedTrial, Tracker, course_of, folder_at, stamp

# Start of the name of an empty file that says of which end of a trial the events are.
MARK = "complete-"


class TensorBoard(Tracker):
    """Scalars of each evaluation while a trial trains, all of its record's at its end."""

    def __init__(self, storage: Storage):
        self.storage = storage
        self._live: dict[str, EventFile] = {}

    def _name(self, trial: TrackedTrial) -> str:
        return f"{TENSORBOARD}/{trial.cell}/{trial.id}"

    def known_end(self, trial: TrackedTrial) -> str:
        try:
            names = os.listdir(self.storage.location(self._name(trial)))
        except FileNotFoundError:
            return ""
        return next((n.removeprefix(MARK) for n in names if n.startswith(MARK)), "")

    def evaluated(self, trial: TrackedTrial, step: int, metrics: dict[str, float]) -> None:
        if trial.id not in self._live:
            if self.known_end(trial):  # it is trained again
                self._remove(trial)
            self._live[trial.id] = EventFile(folder_at(self.storage, self._name(trial)))
        self._live[trial.id].write(step, _tagged(metrics), time.time())
        self._live[trial.id].flush()

    def ended(self, trial: TrackedTrial, record: Record) -> None:
        live = self._live.pop(trial.id, None)
        if live is not None:
            live.close()
        if record.status in ENDED:  # else the live events show how far it came
            self._remove(trial)
            folder = folder_at(self.storage, self._name(trial))
            _write_record(folder, trial, record)
            (folder / f"{MARK}{stamp(record)}").touch()

    def _remove(self, trial: TrackedTrial) -> None:
        shutil.rmtree(folder_at(self.storage, self._name(trial)))

    def close(self) -> None:
        for live in self._live.values():
            live.close()
        self._live.clear()


class EventFile:
    """An event file that is written at once.

    tensorboardX's ``SummaryWriter`` would take a thread and a pipe for each trial.
    """

    def __init__(self, folder: Path):
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event

        self._writer = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}"))
        self.add(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())

    def write(self, step: int, scalars: dict[str, float], wall_time: float) -> None:
        """Writes scalars by tag."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self.add(Event(step=step, wall_time=wall_time, summary=Summary(value=values)))

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.flush()
        self._writer.close()


def _write_record(folder: Path, trial: TrackedTrial, record: Record) -> None:
    """All evaluations, the best scores and those on test and, for the HParams tab, the recipe."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import hparams

    events = EventFile(folder)
    # a TensorBoard that is open has read the steps of the files that were here before
    restart = SessionLog(status=SessionLog.START)
    events.add(Event(wall_time=record.started_at, step=0, session_log=restart))
    course = course_of(record)
    end = record.finished_at or record.started_at
    for step, metrics in sorted(course.items()):
        share = step / max(course)
        wall_time = record.started_at + (end - record.started_at) * share
        events.write(step, _tagged(metrics), wall_time)
    best = {f"best/{name}": value for name, value in record.val.items()}
    for summary in hparams(trial.hyper_parameters(), best):
        events.add(Event(wall_time=end, summary=summary))
    test = {f"test/{name}": value for name, value in (record.test or {}).items()}
    events.write(record.best_step, best | test, end)
    events.close()


def _tagged(metrics: dict[str, float]) -> dict[str, float]:
    """Metrics by their tags in TensorBoard, such as ``val_ema/acc1`` and ``train/loss``."""
    tagged = {}
    for name, value in metrics.items():
        group, _, rest = name.partition("_")
        tag = f"val_{group}/{rest}" if group in ("student", "ema") else f"train/{name}"
        tagged[tag] = value
    return tagged
