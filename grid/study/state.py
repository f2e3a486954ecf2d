"""The state of a study: what the plan and the ledger together say of every cell."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from semigrid.grid.study.ledger import ENDED, SETTLED, Record
from semigrid.grid.study.plan import Plan, Search
from semigrid.trainers.evaluation.choose import Cutoffs, stopped_at
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.job import JobKind

# the stages of a search, in the order in which it goes through them
Stage = Literal["waiting", "searching", "seeds", "evaluating", "finished", "failed", "blocked"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True)
class Job:
    """One thing to do: train a trial, evaluate a finished one on test, or ask it of the pool.

    ``images`` is how many images of the pool, from its start, a trial is to answer: soft targets.
    """

    kind: JobKind
    spec: TrialSpec
    search: Search
    cutoffs: Cutoffs = field(default_factory=dict, hash=False)  # of early stopping
    images: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.spec.id


@dataclass(frozen=True)
class Trial:
    """A trial of a search: what differs from its recipe, and what it must reach to be continued."""

    params: dict[str, float]
    spec: TrialSpec
    cutoffs: Cutoffs

    @property
    def id(self) -> str:
        return self.spec.id


@dataclass(frozen=True)
class SearchState:
    """One search's progress through its waves, its seeds and its evaluation on test.

    Attributes:
        seeds: the winner on each seed, trained or not.
        by_seed: the same once all of them are trained, else empty.
        missing: the winner on the seeds that must be trained, or trained again.
        pending: jobs that can run now or are running.
        hopeless: whether it failed for good, so that no other run will find a winner.
    """

    search: Search
    stage: Stage = "waiting"
    trials: tuple[Trial, ...] = ()
    winner: Trial | None = None
    seeds: Mapping[int, TrialSpec] = field(default_factory=dict)
    by_seed: Mapping[int, TrialSpec] = field(default_factory=dict)
    missing: tuple[TrialSpec, ...] = ()
    pending: tuple[Job, ...] = ()
    failure: str | None = None
    hopeless: bool = False

    @property
    def specs(self) -> list[TrialSpec]:
        """Its trials and the winner on other seeds, each once."""
        specs = [*(trial.spec for trial in self.trials), *self.seeds.values()]
        return list({spec.id: spec for spec in specs}.values())

    @property
    def chosen(self) -> set[str]:
        """Ids of the winner on every seed."""
        winner = set() if self.winner is None else {self.winner.id}
        return winner | {spec.id for spec in self.seeds.values()}

    @property
    def ended(self) -> bool:
        return self.stage in ("finished", "failed", "blocked")


@dataclass(frozen=True)
class StudyState:
    """All searches of a plan at one moment, as ``StudyRules`` derives them from the ledger.

    Attributes:
        records: those of the ledger, by trial id.
        searches: the state of each search, by its name.
        goals: the stage after which this run leaves a search; searches without a goal are not its
            concern.
        failed: errors of jobs that failed in this run, by their keys.
        lost: trials whose weights this run found damaged.
    """

    plan: Plan
    records: Mapping[str, Record]
    searches: Mapping[str, SearchState]
    goals: Mapping[str, Stage]
    failed: Mapping[tuple[str, str], str] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()

    def settled(self, trial_id: str) -> Record | None:
        """The record of a trial that ended for good, else None."""
        record = self.records.get(trial_id)
        return record if record is not None and record.status in SETTLED else None

    def has_ended(self, trial_id: str) -> bool:
        """Whether the trial's training ended for good or was stopped early."""
        return trial_id in self.records and self.records[trial_id].status in ENDED

    def outcome(self, trial: Trial) -> str | None:
        """The trial's final status in its search; None if it must be trained.

        A trial below a cutoff is ``stopped`` even if it was trained further, for a file without
        early stopping: it counts as in a run that stopped it.
        """
        record = self.records.get(trial.id)
        if record is not None and stopped_at(record.course, trial.cutoffs) is not None:
            return "stopped"
        settled = self.settled(trial.id)
        return None if settled is None else settled.status

    def is_wanted(self, name: str) -> bool:
        """Whether this run has anything to do with the search."""
        return name in self.goals

    def is_asked(self, name: str) -> bool:
        """Whether this run finishes the search, instead of only preparing others."""
        return self.goals.get(name) == "finished"

    def is_open(self, name: str) -> bool:
        """Whether this run still has something to do for the search, now or later."""
        return self.is_wanted(name) and not self.searches[name].ended

    def jobs(self, name: str) -> tuple[Job, ...]:
        """The search's pending jobs, unless they lie beyond this run's goal."""
        state, goal = self.searches[name], self.goals.get(name)
        if goal is None or STAGES.index(state.stage) > STAGES.index(goal):
            return ()
        return state.pending

    @property
    def has_jobs(self) -> bool:
        """Whether this run has anything to do now."""
        return any(self.jobs(name) for name in self.searches)

    def pool_unused(self, name: str) -> list[str]:
        """Why the search's winner learnt next to nothing from its pool, of each seed where so."""
        specs = self.searches[name].by_seed.values()
        return [why for spec in specs if (why := self.records[spec.id].pool_unused)]

    def trainings_done(self, name: str) -> int:
        """How many trainings of the search have ended."""
        return sum(self.has_ended(spec.id) for spec in self.searches[name].specs)

    def trainings_left(self, name: str) -> int:
        """How many trainings this run still needs for the search, as far as is known."""
        state = self.searches[name]
        if not self.is_wanted(name):
            return 0
        pending = sum(job.kind == "train" for job in self.jobs(name))
        with_seeds = self.goals[name] != "searching"
        if state.stage == "seeds" and with_seeds:  # also seeds that wait for their parent
            return len(state.missing)
        if state.stage not in ("waiting", "searching"):
            return pending
        seeds = self.plan.experiment.file.seeds - 1 if with_seeds else 0
        return pending + self.plan.trials[name] - len(state.trials) + seeds

    def answers_left(self) -> dict[str, int]:
        """How many pool images each teacher's winners are still to be asked, by search.

        As far as is known: for the trainings of its students that are left, whose seeds have a
        teacher each.
        """
        wanted: dict[str, dict[int, int]] = {}
        for search in self.plan.searches:
            if not search.teachers or not self.trainings_left(search.name):
                continue
            seeds = self.plan.experiment.file.seeds if self.goals[search.name] != "searching" else 1
            images = self.plan.pool_images(search) or 0
            for teacher in search.teachers:
                of_teacher = wanted.setdefault(teacher.name, {})
                of_teacher |= {n: max(images, of_teacher.get(n, 0)) for n in range(seeds)}
        return {name: self._unanswered(name, by_seed) for name, by_seed in wanted.items()}

    def _unanswered(self, name: str, wanted: Mapping[int, int]) -> int:
        """Of the images that a search's winners are asked, by seed, those without an answer."""
        trials = self.searches[name].seeds
        records = {seed: self.records.get(spec.id) for seed, spec in trials.items()}
        answered = {seed: record.soft_targets for seed, record in records.items() if record}
        return sum(max(0, images - answered.get(seed, 0)) for seed, images in wanted.items())


def goals_of(plan: Plan, only: Collection[str] | None = None) -> dict[str, Stage]:
    """The stage after which a run leaves each search that concerns it.

    Args:
        only: names of the cells to finish, None for all. Other cells are taken as far as these
            need: parents are trained, neighbours searched.
    """
    names = [search.name for search in plan.searches] if only is None else only
    goals: dict[str, Stage] = dict.fromkeys(names, "finished")
    for search in reversed(plan.searches):  # searches come after those that they need
        if search.name not in goals:
            continue
        needs: dict[str, Stage] = {}
        if plan.experiment.file.search.warm_start and search.neighbor is not None:
            needs[search.neighbor] = "searching"
        if search.parent is not None:
            needs[search.parent.name] = "seeds"
        # evaluated, too: a student's claim is that it is as good as they are
        needs |= {teacher.name: "finished" for teacher in search.teachers}
        for name, stage in needs.items():
            goals[name] = max(goals.get(name, stage), stage, key=STAGES.index)
    return goals
