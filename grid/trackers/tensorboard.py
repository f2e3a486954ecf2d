"""TensorBoard event files, in a folder for each trial: ``tensorboard/CELL/TRIAL``.

tensorboardX imports torch, which takes seconds: only functions that write import it.
"""

import shutil
import time
from pathlib import Path
from typing import Any

from semigrid.data.escape import file_name
from semigrid.data.storage import Storage
from semigrid.grid.study.layout import TENSORBOARD
from semigrid.grid.study.ledger import ENDED, Record
from semigrid.grid.study.state import Job
from semigrid.grid.trackers.tracker import Tracker, course_of, described, folder_at, stamp

# Start of the name of an empty file that says of which end of a trial the events are.
MARK = "complete-"


class TensorBoard(Tracker):
    """A file for each evaluation while a trial trains, one with all of its record at its end."""

    def __init__(self, storage: Storage):
        self.storage = storage

    def known_end(self, record: Record) -> str:
        folder = Path(self.storage.location(place(record.cell, record.id)))
        return next((file.name.removeprefix(MARK) for file in folder.glob(f"{MARK}*")), "")

    def _folder(self, cell: str, trial_id: str) -> Path:
        return folder_at(self.storage, place(cell, trial_id))

    def evaluated(self, job: Job, step: int, metrics: dict[str, float]) -> None:
        folder = self._folder(job.search.name, job.spec.id)
        if any(folder.glob(f"{MARK}*")):  # it is trained again
            shutil.rmtree(folder)
            folder.mkdir()
        _write(folder, [_scalars(step, _tagged(metrics), time.time())])

    def write(self, record: Record) -> None:
        if record.status in ENDED:  # else the live events show how far it came
            folder = self._folder(record.cell, record.id)
            shutil.rmtree(folder)
            folder.mkdir()
            _write(folder, _events(record))
            (folder / f"{MARK}{stamp(record)}").touch()


def place(cell: str, trial_id: str) -> str:
    """The folder of a trial, relative to the run's."""
    return "/".join([TENSORBOARD, *map(file_name, [*cell.split("/"), trial_id])])


def _events(record: Record) -> list[Any]:
    """All evaluations, the best scores and those on test and, for the HParams tab, the recipe."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import hparams

    # a TensorBoard that is open has read the steps of the files that were here before
    restart = SessionLog(status=SessionLog.START)
    events = [Event(wall_time=record.started_at, step=0, session_log=restart)]
    course = course_of(record)
    end = record.finished_at or record.started_at
    for step, metrics in sorted(course.items()):
        share = step / max(course)
        wall_time = record.started_at + (end - record.started_at) * share
        events.append(_scalars(step, _tagged(metrics), wall_time))
    best = {f"best/{name}": value for name, value in record.val.items()}
    _, values, _ = described(record.spec, record.cell)
    for summary in hparams(values, best):
        events.append(Event(wall_time=end, summary=summary))
    test = {f"test/{name}": value for name, value in (record.test or {}).items()}
    return [*events, _scalars(record.best_step, best | test, end)]


def _scalars(step: int, values: dict[str, float], wall_time: float) -> Any:
    """An event with scalars by tag."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    return Event(step=step, wall_time=wall_time, summary=Summary(value=scalars))


def _write(folder: Path, events: list[Any]) -> None:
    """Writes events as a file; ``SummaryWriter`` would take a thread and a pipe for it."""
    from tensorboardX import RecordWriter
    from tensorboardX.proto.event_pb2 import Event

    writer = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}"))
    for event in [Event(wall_time=time.time(), file_version="brain.Event:2"), *events]:
        writer.write(event.SerializeToString())
    writer.flush()
    writer.close()


def _tagged(metrics: dict[str, float]) -> dict[str, float]:
    """Metrics by their tags in TensorBoard, such as ``val_ema/acc1`` and ``train/loss``."""
    tagged = {}
    for name, value in metrics.items():
        group, _, rest = name.partition("_")
        tag = f"val_{group}/{rest}" if group in ("student", "ema") else f"train/{name}"
        tagged[tag] = value
    return tagged
