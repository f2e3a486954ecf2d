"""What is trained next: hands out the jobs of a study and follows what becomes of them."""

from collections.abc import Iterator
from dataclasses import replace

from semigrid.grid.study.rules import StudyRules
from semigrid.grid.study.state import Job, SearchState, StudyState
from semigrid.grid.study.summary import TrialSummary


class Scheduler:
    """Hands out jobs in the order of the plan's priorities.

    ``study`` is the state at this moment: a new object after each job that ended. Failures of
    earlier runs are tried again; a failure of this run fails its cell and blocks the cells that
    start from it.
    """

    def __init__(self, study: StudyState, rules: StudyRules):
        self.study, self.rules = study, rules
        self.running: dict[tuple[str, str], Job] = {}
        self.trained: list[str] = []
        self.evaluated: list[str] = []
        # how many trials had been trained when a job was started
        self._begun: dict[tuple[str, str], int] = {}
        self._lost_before: set[str] = set()
        self._dropped: set[str] = set()
        priorities = study.plan.priorities()
        self._by_priority = sorted(study.searches, key=lambda name: -priorities[name])

    def start(self, job: Job) -> Job:
        """Counts the job as running until it is completed or released."""
        self.running[job.key] = job
        self._begun[job.key] = len(self.trained)
        return job

    def release(self, job: Job) -> None:
        """Takes a running job back whose process died: it is ready once more."""
        del self.running[job.key]

    def ready(self) -> Iterator[Job]:
        """The jobs that could run now, what is on the longest chain of children first."""
        for name in self._by_priority:
            for job in self.study.jobs(name):
                if job.key not in self.running:
                    yield job

    @property
    def done(self) -> bool:
        """Whether nothing runs and nothing can be started."""
        return not self.running and not self.study.has_jobs

    def complete(self, job: Job, summary: TrialSummary | None, error: str | None = None) -> None:
        """Takes note of a job's end: the summary of its trial's record, or an error."""
        del self.running[job.key]
        trial_id, study = job.spec.id, self.study
        if summary is not None:
            study = replace(study, summaries={**study.summaries, trial_id: summary})
        if error is not None:
            study = replace(study, failed={**study.failed, trial_id: error})
        elif job.kind == "train":
            self.trained.append(trial_id)
            study = replace(study, lost=study.lost - {trial_id})
        else:
            self.evaluated.append(trial_id)
        self.study = self.rules.advance(study, trial_id)

    def lose(self, job: Job, trial_id: str, problem: str) -> None:
        """Takes note that a job found a trial's weights damaged: that trial, then the job, again.

        The second time it is an error of the job's: something here damages what is written.
        """
        study = self.study
        new_since = trial_id in self.trained[self._begun[job.key] :]
        if not new_since and trial_id not in study.lost:
            if trial_id in self._lost_before:
                self.complete(job, None, problem)
                return
            self._lost_before.add(trial_id)
            study = _without_weights(study, trial_id)
        del self.running[job.key]
        self.study = self.rules.advance(study)

    def losers(self) -> list[str]:
        """Trials that no search can choose any more, each named once: their weights can go."""
        states = self.study.searches.values()
        decided = {t.id for state in states if state.winner is not None for t in state.trials}
        open_trials = {t.id for state in states if state.winner is None for t in state.trials}
        chosen = {trial_id for state in states for trial_id in state.chosen}
        losers = decided - open_trials - chosen - self._dropped
        self._dropped |= losers
        return sorted(losers)


def _without_weights(study: StudyState, trial_id: str) -> StudyState:
    """The state in which searches that chose this trial choose their winner again."""
    searches = dict(study.searches)
    for name, state in study.searches.items():
        # a failed search, too: those that start from it must learn of it
        if state.stage != "blocked" and trial_id in state.chosen:
            searches[name] = SearchState(state.search, trials=state.trials)
            children = [s for s in searches.values() if s.search.parent == state.search]
            searches |= {child.search.name: replace(child, pending=()) for child in children}
    return replace(study, searches=searches, lost=study.lost | {trial_id})
