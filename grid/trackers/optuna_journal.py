"""The searches as Optuna studies in a journal file, for ``optuna-dashboard``."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from semigrid.data.storage import Storage
from semigrid.grid.study.layout import OPTUNA, OPTUNA_JOURNAL
from semigrid.grid.study.ledger import ENDED, Record
from semigrid.grid.study.plan import Plan, Search
from semigrid.grid.study.search import distribution
from semigrid.grid.study.state import Job, StudyState
from semigrid.grid.trackers.tracker import Tracker, folder_at
from semigrid.trainers.evaluation.choose import Cutoffs, stopped_at
from semigrid.trainers.methods import Space

# User attribute of a study's trial: the identity of the trial it shows.
TRIAL = "trial"
STATES = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
# Exceptions of Optuna, or of this module, for a journal that is not as it was written.
DAMAGED = (ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError)


class OptunaJournal(Tracker):
    """One study for each cell, with a trial for each trial of its search that ended.

    A study is written anew where it shows a trial in another way than the ledger: the trial failed
    and was trained again, or it was trained further than an earlier file allowed.
    """

    def __init__(self, study: StudyState, storage: Storage):
        self.storage = storage
        self._searches = study.searches
        self._spaces = {s.name: _with_published(study.plan, s) for s in study.plan.searches}
        self.path = folder_at(storage, OPTUNA) / OPTUNA_JOURNAL
        try:
            self._open()
        except DAMAGED:
            self.path.unlink()  # all of it is in the ledger
            self._open()

    def _open(self) -> None:
        if self.path.exists():
            _check(self.path)
        self._journal = JournalStorage(JournalFileBackend(str(self.path)))
        self._shown: dict[str, dict[str, FrozenTrial]] = {}
        for name in optuna.get_all_study_names(self._journal):
            study = optuna.load_study(study_name=name, storage=self._journal)
            if study.direction is not StudyDirection.MAXIMIZE:
                raise ValueError(f"{name} is not a study of semigrid")
            trials = study.get_trials(deepcopy=False)
            self._shown[name] = {trial.user_attrs[TRIAL]: trial for trial in trials}

    def catch_up(self, records: Mapping[str, Record]) -> None:
        """Shows the trials of each search as it is now, and those of earlier files under its name.

        A trial may have been trained under another name, or for another search too.
        """
        studies: dict[str, dict[str, FrozenTrial]] = {name: {} for name in self._searches}
        for record in records.values():
            if record.cell in studies:
                studies[record.cell] |= self._frozen(record.cell, record, {})
        for name, state in self._searches.items():
            for trial in state.trials:
                if trial.id in records:
                    studies[name] |= self._frozen(name, records[trial.id], trial.cutoffs)
        for name, trials in studies.items():
            if trials:
                self._show(name, trials)

    def ended(self, job: Job, record: Record) -> None:
        folder_at(self.storage, OPTUNA)
        name = job.search.name
        if new := self._frozen(name, record, job.cutoffs):
            self._show(name, self._shown.get(name, {}) | new)

    def _frozen(self, name: str, record: Record, cutoffs: Cutoffs) -> dict[str, FrozenTrial]:
        """The trial by its id; empty if the study does not show it."""
        if record.spec.seed != 0 or record.status not in (*ENDED, "failed"):
            return {}
        return {record.id: frozen(record, cutoffs, self._spaces[name])}

    def _show(self, name: str, trials: dict[str, FrozenTrial]) -> None:
        """Makes a study show exactly these trials."""
        shown = self._shown.get(name, {})
        # a trial that ended cannot be changed or removed
        if any(i not in trials or not _alike(trial, trials[i]) for i, trial in shown.items()):
            optuna.delete_study(study_name=name, storage=self._journal)
            shown = {}
        new = [trial for trial_id, trial in trials.items() if trial_id not in shown]
        if new:
            study = optuna.create_study(
                storage=self._journal, study_name=name, direction="maximize", load_if_exists=True
            )
            study.add_trials(sorted(new, key=lambda t: t.datetime_complete or datetime.min))
        self._shown[name] = trials


def _check(path: Path) -> None:
    """Raises ``ValueError`` unless every line is whole; Optuna ignores a last line that is not."""
    content = path.read_bytes()
    for line in content.splitlines():
        json.loads(line)
    if content and not content.endswith(b"\n"):
        raise ValueError("its last line is cut")


def _alike(a: FrozenTrial, b: FrozenTrial) -> bool:
    """Whether two trials show the same; a time of day depends on this machine's time zone."""
    names = ("state", "value", "params", "distributions", "intermediate_values", "user_attrs")
    return all(getattr(a, name) == getattr(b, name) for name in names)


def frozen(record: Record, cutoffs: Cutoffs, space: Space) -> FrozenTrial:
    """The record as a trial of a study: its values of what is searched, its scores, its times.

    It is pruned where it fell below a cutoff of its search, whatever the record says: another
    search, or an earlier file, may have let it train on.
    """
    scores = record.course
    end = stopped_at(scores, cutoffs)
    status = record.status if end is None else "stopped"
    state = STATES.get(status, TrialState.FAIL)
    params = {name: float(getattr(record.spec.recipe, name)) for name in space}
    distributions: dict[str, BaseDistribution] = {
        name: _holding(distribution(*space[name]), params[name]) for name in space
    }
    attributes = {TRIAL: record.id, "status": status, "training seconds": record.seconds}
    if record.error and status == record.status:
        attributes["error"] = record.error
    made = create_trial(
        state=state,
        value=record.score[0] if state is TrialState.COMPLETE else None,
        params=params,
        distributions=distributions,
        user_attrs=attributes,
        intermediate_values={step: acc1 for step, acc1, _ in scores if end is None or step <= end},
    )
    made.datetime_start = datetime.fromtimestamp(record.started_at)
    made.datetime_complete = datetime.fromtimestamp(record.finished_at or record.started_at)
    return made


def _holding(known: FloatDistribution, value: float) -> FloatDistribution:
    """The distribution, widened to hold a value from an earlier file's range."""
    log = known.log and value > 0
    return FloatDistribution(min(known.low, value), max(known.high, value), log=log)


def _with_published(plan: Plan, search: Search) -> Space:
    """The search's space, widened to hold the recipe's own values, which the first trial has.

    Optuna compares the trials of a study only by parameters with one range in all of them.
    """
    recipe, space = plan.varied(search), plan.space(search)
    own = {name: float(getattr(recipe, name)) for name in space}
    return {n: (min(low, own[n]), max(high, own[n])) for n, (low, high) in space.items()}
