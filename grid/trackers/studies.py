"""The searches as Optuna studies in a journal, for ``optuna-dashboard``."""

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from semigrid.data.storage import Storage
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.search import distribution
from semigrid.grid.study.summary import ENDED
from semigrid.grid.trackers.tracker import Past, Run, folder_at
from semigrid.trainers.choose import course, stopped_at
from semigrid.trainers.methods import Space

FOLDER, FILE = "optuna", "journal.log"
# whose trial a study's trial is
TRIAL = "trial"
STATES = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
# what a journal that is not as it was written makes Optuna, or us, raise
DAMAGED = (ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError)


class _Journal(JournalFileBackend):
    """Can write many logs at once: each by itself takes a lock and waits for the disk."""

    _waiting: list[dict[str, Any]] | None = None
    _read = 0

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._waiting is None:
            super().append_logs(logs)
        else:
            self._waiting += logs

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        if self._waiting is None:
            yield from super().read_logs(log_number_from)
            return
        new, self._read = self._waiting[self._read :], len(self._waiting)
        yield from new

    @contextmanager
    def together(self) -> Iterator[None]:
        """Until it is left, Optuna sees no logs but its own; then they are appended."""
        self._waiting, self._read = [], 0
        try:
            yield
        finally:
            waiting, self._waiting = self._waiting, None
            if waiting:
                super().append_logs(waiting)


class Studies:
    """One study a cell, named by it, with a trial for each of its search's trials that ended.

    A study that shows a trial in another way than the ledger does now (it failed and was trained
    again, or trained further than the file allowed then) is written anew.

    Args:
        spaces: what each search's trials are drawn from, by its name.
    """

    def __init__(self, storage: Storage, spaces: Mapping[str, Space]):
        self.storage, self.spaces = storage, spaces
        self.path = folder_at(storage, FOLDER) / FILE
        # of a driver that was killed; nobody else writes here while the run's lock is held
        self.path.with_name(self.path.name + ".lock").unlink(missing_ok=True)
        try:
            self._open()
        except DAMAGED:
            self.path.unlink()  # a mirror is made again
            self._open()

    def _open(self) -> None:
        if self.path.exists():
            _check(self.path)
        self._journal = _Journal(str(self.path))
        self._optuna = JournalStorage(self._journal)
        self._shown: dict[str, dict[str, FrozenTrial]] = {}
        for study in optuna.get_all_study_names(self._optuna):
            found = self._study(study)
            if found.direction is not StudyDirection.MAXIMIZE:
                raise ValueError(f"{study} is not a study of ours")
            trials = found.get_trials(deepcopy=False)
            self._shown[study] = {trial.user_attrs[TRIAL]: trial for trial in trials}

    def catch_up(self, past: Past) -> None:
        new: dict[str, dict[str, FrozenTrial]] = {}
        for run, record in past:
            trial = self._trial(run, record)
            if trial is not None:
                new.setdefault(run.cell, {})[run.id] = trial
        with self._journal.together():
            written = [self._show(name, trials, all_there_are=True) for name, trials in new.items()]
        if any(written):
            self._open()

    def evaluated(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        """Nothing: a study's trial is written once, whole."""

    def ended(self, run: Run, record: Record) -> None:
        trial = self._trial(run, record)
        if trial is not None:
            folder_at(self.storage, FOLDER)
            self._show(run.cell, {run.id: trial})

    def close(self) -> None:
        """Nothing: every trial is on disk."""

    def _trial(self, run: Run, record: Record) -> FrozenTrial | None:
        shown = record.status in (*ENDED, "failed") and run.spec.seed == 0
        if not shown or run.cell not in self.spaces:
            return None
        return frozen(run, record, self.spaces[run.cell])

    def _show(self, name: str, trials: dict[str, FrozenTrial], all_there_are: bool = False) -> bool:
        """Makes a study show these trials; whether there was anything to write."""
        shown = self._shown.get(name, {})
        new = {i: t for i, t in trials.items() if i not in shown or not _alike(shown[i], t)}
        foreign = shown.keys() - trials.keys() if all_there_are else set()
        if not new and not foreign:
            return False
        added = list(new.values())
        if not shown:
            if name not in self._shown:
                optuna.create_study(storage=self._optuna, study_name=name, direction="maximize")
        elif foreign or shown.keys() & new.keys():
            # a trial that ended cannot be changed
            shown = {i: t for i, t in shown.items() if i not in foreign}
            optuna.delete_study(study_name=name, storage=self._optuna)
            optuna.create_study(storage=self._optuna, study_name=name, direction="maximize")
            added = list((shown | new).values())
        study = self._study(name)
        study.add_trials(sorted(added, key=lambda t: t.datetime_complete or datetime.min))
        self._shown[name] = shown | new
        return True

    def _study(self, name: str) -> optuna.Study:
        # the sampler is not asked for anything
        return optuna.load_study(
            study_name=name, storage=self._optuna, sampler=optuna.samplers.RandomSampler()
        )


def _check(path: Path) -> None:
    """Raises ``ValueError`` unless every line is whole."""
    content = path.read_bytes()
    for line in content.splitlines():
        json.loads(line)
    if content and not content.endswith(b"\n"):
        raise ValueError("its last line is cut")


def _alike(a: FrozenTrial, b: FrozenTrial) -> bool:
    """Whether two trials show the same; times of day may be told in another time zone."""
    names = ("state", "value", "params", "distributions", "intermediate_values", "user_attrs")
    return all(getattr(a, name) == getattr(b, name) for name in names)


def frozen(run: Run, record: Record, space: Space) -> FrozenTrial:
    """The record as a trial of a study: its values of what is searched, its scores, its times.

    It was stopped where it fell below a cutoff of its search, whatever the record says: another
    search, or file, may have let it train on.
    """
    scores = course(record.history[:-1] if record.status == "collapsed" else record.history)
    end = stopped_at(scores, run.cutoffs)
    status = record.status if end is None else "stopped"
    state = STATES.get(status, TrialState.FAIL)
    params = {name: float(getattr(record.spec.recipe, name)) for name in space}
    distributions: dict[str, BaseDistribution] = {
        name: _holding(distribution(*space[name]), params[name]) for name in space
    }
    attributes = {
        TRIAL: record.id,
        "status": status,
        "training seconds": record.seconds,
        **({"error": record.error} if record.error and status == record.status else {}),
    }
    trial = FrozenTrial(
        number=-1,  # the study gives it its own
        trial_id=-1,
        state=state,
        value=record.val["acc1"] if state is TrialState.COMPLETE else None,
        datetime_start=datetime.fromtimestamp(record.started_at),
        datetime_complete=datetime.fromtimestamp(record.finished_at or record.started_at),
        params=params,
        distributions=distributions,
        user_attrs=attributes,
        system_attrs={},
        intermediate_values={step: acc1 for step, acc1, _ in scores if end is None or step <= end},
    )
    trial._validate()
    return trial


def _holding(known: FloatDistribution, value: float) -> FloatDistribution:
    """The distribution, widened where a value lies outside: of an earlier range of the file's."""
    log = known.log and value > 0
    return FloatDistribution(min(known.low, value), max(known.high, value), log=log)
