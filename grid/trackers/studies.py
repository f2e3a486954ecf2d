"""The searches as Optuna studies in a journal, for ``optuna-dashboard``."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from grid.ledger import COLLAPSED, ENDED, Record
from grid.plan import Search
from grid.search import Space, distribution
from grid.trackers.tracker import Run
from trainers.choose import course

FILE = "optuna/journal.log"
# whose trial a study's trial is
TRIAL = "trial"


class Studies:
    """One study a cell, named by it, with a trial for each of its search's trials that ended."""

    def __init__(self, folder: Path, space_of: Callable[[Search], Space]):
        self.path, self.space_of = folder / FILE, space_of
        self._known: dict[str, set[str]] = {}
        self._studies: dict[str, optuna.Study] = {}
        # of a driver that was killed; nobody else writes here while the run's lock is held
        self.path.with_name(self.path.name + ".lock").unlink(missing_ok=True)
        try:
            self._open()
        except (ValueError, KeyError, IndexError, TypeError, AssertionError):
            self.path.unlink()  # cut or changed: a mirror is made again
            self._open()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            _check(self.path)
        self._storage = JournalStorage(JournalFileBackend(str(self.path)))
        for study in optuna.get_all_study_names(self._storage):
            found = optuna.load_study(study_name=study, storage=self._storage)
            self._studies[study] = found
            self._known[study] = {trial.user_attrs[TRIAL] for trial in found.get_trials(False)}

    def catch_up(self, run: Run, record: Record) -> None:
        """Adds what ended while nobody mirrored."""
        if run.id not in self._known.get(run.search.name, ()):
            self.ended(run, record)

    def evaluated(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        """Nothing: a study's trial is written once, whole."""

    def ended(self, run: Run, record: Record) -> None:
        name = run.search.name
        if record.status not in ENDED or run.spec.seed != 0:
            return
        if name not in self._studies:
            self._studies[name] = optuna.create_study(
                storage=self._storage, study_name=name, direction="maximize"
            )
        known = self._known.setdefault(name, set())
        if run.id not in known:
            known.add(run.id)
            self._studies[name].add_trial(frozen(record, self.space_of(run.search)))

    def close(self) -> None:
        """Nothing: every trial is on disk."""


def _check(path: Path) -> None:
    """Raises ``ValueError`` unless every line is whole."""
    content = path.read_bytes()
    for line in content.splitlines():
        json.loads(line)
    if content and not content.endswith(b"\n"):
        raise ValueError("its last line is cut")


def frozen(record: Record, space: Space) -> FrozenTrial:
    """The record as a trial of a study: its values of what is searched, its scores, its times."""
    recipe = record.spec.recipe
    params = {name: float(getattr(recipe, name)) for name in space}
    distributions: dict[str, BaseDistribution] = {
        name: _holding(distribution(*space[name]), params[name]) for name in space
    }
    state = TrialState.FAIL if record.status in COLLAPSED else TrialState.COMPLETE
    if record.status == "stopped":
        state = TrialState.PRUNED
    attributes = {
        TRIAL: record.id,
        "status": record.status,
        "training seconds": record.seconds,
        **({"error": record.error} if record.error else {}),
    }
    trial = FrozenTrial(
        number=-1,  # the study gives it its own
        trial_id=-1,
        state=state,
        value=record.val["acc1"] if state is TrialState.COMPLETE else None,
        datetime_start=datetime.fromtimestamp(record.started_at, UTC),
        datetime_complete=datetime.fromtimestamp(record.finished_at or record.started_at, UTC),
        params=params,
        distributions=distributions,
        user_attrs=attributes,
        system_attrs={},
        intermediate_values={step: acc1 for step, acc1, _ in course(record.history)},
    )
    trial._validate()
    return trial


def _holding(known: FloatDistribution, value: float) -> FloatDistribution:
    """The distribution, widened where the published value lies outside a range of the user's."""
    log = known.log and value > 0
    return FloatDistribution(min(known.low, value), max(known.high, value), log=log)
