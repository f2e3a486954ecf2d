"""What is trained next: hands out the jobs of a study and records how they end."""

from collections.abc import Iterator
from dataclasses import replace

from semigrid.grid.study.ledger import Record
from semigrid.grid.study.rules import StudyRules
from semigrid.grid.study.state import Job, SearchState, StudyState


class Scheduler:
    """Hands out jobs in the order of the plan's priorities.

    ``study`` is the present state, a new object after each job that ends. Trials that failed in
    earlier runs are trained again; a failure in this run fails its cell and blocks the cells that
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
        self._put_back: set[tuple[str, str]] = set()
        self._dropped: set[str] = set()
        priorities = study.plan.priorities()
        self._by_priority = sorted(study.searches, key=lambda name: -priorities[name])

    def start(self, job: Job) -> Job:
        """Marks a job as running until it is completed or released."""
        self.running[job.key] = job
        self._begun[job.key] = len(self.trained)
        return job

    def release(self, job: Job) -> None:
        """Makes a running job ready again, after its process died."""
        del self.running[job.key]

    def ready(self) -> Iterator[Job]:
        """Jobs that can run now; those with the longest chain of children come first."""
        for name in self._by_priority:
            for job in self.study.jobs(name):
                if job.key not in self.running:
                    yield job

    @property
    def done(self) -> bool:
        """Whether nothing runs and nothing can be started."""
        return not self.running and not self.study.has_jobs

    def complete(self, job: Job, record: Record | None, error: str | None = None) -> None:
        """Takes over a job's end: the record of its trial, and the error if it failed."""
        del self.running[job.key]
        trial_id, study = job.spec.id, self.study
        if record is not None:
            study = replace(study, records={**study.records, trial_id: record})
        if error is not None:
            study = replace(study, failed={**study.failed, job.key: error})
        elif job.kind == "train":
            self.trained.append(trial_id)
            study = replace(study, lost=study.lost - {trial_id})
        elif job.kind == "evaluate":
            self.evaluated.append(trial_id)
        self.study = self.rules.advance(study, trial_id)

    def lose(self, job: Job, trial_id: str, problem: str) -> None:
        """Records that a job found a trial's weights damaged: both are run again.

        If it happens to the same trial twice, the job fails with this ``problem``: something here
        damages files.
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

    def put_back(self, job: Job, problem: str) -> bool:
        """Lets a job wait that found soft targets damaged, until its teachers made them again.

        Returns False where that happened before: the job fails with this ``problem`` then.
        """
        if job.key in self._put_back:
            self.complete(job, None, problem)
            return False
        self._put_back.add(job.key)
        del self.running[job.key]
        self.study = self.rules.advance(self.study, job.spec.id)
        return True

    def losers(self) -> list[str]:
        """Trials whose weights can be deleted, as no search can choose them; each is named once."""
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
            children = [s for s in searches.values() if state.search in s.search.sources]
            searches |= {child.search.name: replace(child, pending=()) for child in children}
    return replace(study, searches=searches, lost=study.lost | {trial_id})
