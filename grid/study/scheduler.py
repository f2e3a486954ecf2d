"""What to train next: the plan and the ledger, nothing else, decide."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from semigrid.grid.study.halving import cutoffs
from semigrid.grid.study.ledger import COLLAPSED, SETTLED
from semigrid.grid.study.plan import Plan, Search
from semigrid.grid.study.search import Tried, space_of, suggest_wave
from semigrid.trainers.choose import Cutoffs, is_better, stopped_at
from semigrid.trainers.trial import TrialSpec

State = Literal["waiting", "searching", "seeds", "measuring", "finished", "failed", "blocked"]


STAGES: tuple[State, ...] = get_args(State)  # in the order in which a search goes through them


@dataclass(frozen=True)
class Job:
    """One thing to do: train a trial, or measure a finished one on test."""

    kind: Literal["train", "measure"]
    spec: TrialSpec
    search: Search
    cutoffs: Cutoffs = field(default_factory=dict, hash=False)  # of early stopping

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.spec.id


@dataclass(frozen=True)
class Trial:
    """A suggestion of a search: what differs from its recipe, and what it must reach to go on."""

    params: dict[str, float]
    spec: TrialSpec
    cutoffs: Cutoffs


class SearchState:
    """One search's progress through its waves, its seeds and its measurement."""

    def __init__(self, search: Search):
        self.search = search
        self.state: State = "waiting"
        self.trials: list[Trial] = []
        self.winner: TrialSpec | None = None
        self.seeds: dict[int, TrialSpec] = {}  # the winner on each, trained or not
        self.by_seed: dict[int, TrialSpec] = {}  # the same, once all are trained
        self.pending: list[Job] = []
        self.failure: str | None = None
        self.hopeless = False  # failed for good: no run will find a winner

    @property
    def specs(self) -> list[TrialSpec]:
        """Its trials and the winner's other seeds, as far as they are known, each once."""
        known = [trial.spec for trial in self.trials] + list(self.seeds.values())
        return list({spec.id: spec for spec in known}.values())

    def chose(self, trial_id: str) -> bool:
        """Whether a trial is its winner, on any seed."""
        chosen = [self.winner, *self.seeds.values()]
        return any(spec is not None and spec.id == trial_id for spec in chosen)

    @property
    def ended(self) -> bool:
        return self.state in ("finished", "failed", "blocked")


class Scheduler:
    """Hands out jobs in the order of the plan's priorities and follows what becomes of them.

    ``facts`` holds of each trial what ``ledger.record_summary`` keeps. Failures of earlier
    runs are tried again; a failure of this run fails its cell and blocks the cells that start
    from it. With ``only``, names of cells, just these are finished, and of others as much as these
    need: a parent is trained, a neighbour searched.
    """

    def __init__(
        self,
        plan: Plan,
        facts: dict[str, dict[str, Any]],
        has_weights: Callable[[str], bool],
        has_predictions: Callable[[str], bool] = lambda trial_id: True,
        suggest: Callable[..., list[dict[str, float]]] = suggest_wave,
        only: Collection[str] | None = None,
    ):
        self.plan = plan
        self.config = plan.experiment.file.search
        self.facts = facts
        self.suggest = suggest
        self._has_weights, self.has_predictions = has_weights, has_predictions
        self._lost: set[str] = set()  # whose weights were found damaged
        self._lost_before: set[str] = set()
        self._begun: dict[tuple[str, str], int] = {}  # how many trials had trained when a job began
        self.running: dict[tuple[str, str], Job] = {}
        self.failed: dict[str, str] = {}
        self.trained: list[str] = []
        self.measured: list[str] = []
        self.states = {s.name: SearchState(s) for s in plan.searches}
        self._last_stages = _last_stages(plan, self.config.warm_start, only)
        self._undropped = set(self.states)
        priorities = plan.priorities()
        self._by_priority = sorted(plan.searches, key=lambda s: -priorities[s.name])
        self._advance_all()

    def next(self) -> Job | None:
        """The first job that is ready; it counts as running from here on."""
        for job in self.ready():
            return self.start(job)
        return None

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
        for search in self._by_priority:
            for job in self._wanted_jobs(search.name):
                if job.key not in self.running:
                    yield job

    def is_wanted(self, name: str) -> bool:
        """Whether this run has to do with the search at all."""
        return name in self._last_stages

    def is_asked(self, name: str) -> bool:
        """Whether this run is to finish the search, not only to train it for another."""
        return self.is_wanted(name) and self._last_stages[name] not in ("searching", "seeds")

    def is_open(self, name: str) -> bool:
        """Whether this run has something left to do for the search, or will have."""
        return self.is_wanted(name) and not self.states[name].ended

    def trainings_left(self, name: str) -> int:
        """How many trainings the search still takes, as far as the facts say."""
        state, jobs = self.states[name], self._wanted_jobs(name)
        pending = sum(job.kind == "train" for job in jobs)
        if not self.is_wanted(name):
            return pending
        with_seeds = self._last_stages[name] != "searching"
        if state.state == "seeds" and with_seeds:  # some may wait for those they start from
            return sum(self._is_missing(spec) for spec in state.seeds.values())
        if state.state not in ("waiting", "searching"):
            return pending
        seeds = self.plan.experiment.file.seeds - 1 if with_seeds else 0
        return pending + self.config.trials - len(state.trials) + seeds

    def _wanted_jobs(self, name: str) -> list[Job]:
        state, last = self.states[name], self._last_stages.get(name)
        if last is None or STAGES.index(state.state) > STAGES.index(last):
            return []
        return state.pending

    @property
    def done(self) -> bool:
        """Whether nothing runs and nothing can be started."""
        return not self.running and not any(self._wanted_jobs(name) for name in self.states)

    def complete(self, job: Job, summary: dict[str, Any] | None, error: str | None = None) -> None:
        """Takes note of a job's end: the ledger's summary of its trial, or an error."""
        del self.running[job.key]
        if summary is not None:
            self.facts[job.spec.id] = summary
        if error is not None:
            self.failed[job.spec.id] = error
        elif job.kind == "train":
            self.trained.append(job.spec.id)
            self._lost.discard(job.spec.id)
        else:
            self.measured.append(job.spec.id)
        self._advance_all(job.spec.id)

    def lose(self, job: Job, trial_id: str, problem: str) -> None:
        """Takes note that a job found a trial's weights damaged: that trial, then the job, again.

        The second time it is an error of the job's: something here damages what is written.
        """
        new_since = trial_id in self.trained[self._begun[job.key] :]
        if not new_since and trial_id not in self._lost:
            if trial_id in self._lost_before:
                self.complete(job, None, problem)
                return
            self._lost.add(trial_id)
            self._lost_before.add(trial_id)
            for state in self.states.values():
                # also one that failed afterwards: what starts from it must hear of it
                if state.state != "blocked" and state.chose(trial_id):
                    self._reopen(state)
        del self.running[job.key]
        self._advance_all()

    def _reopen(self, state: SearchState) -> None:
        """Makes a search choose its winner again, and what starts from it wait for that."""
        state.state, state.winner, state.pending = "waiting", None, []
        state.seeds, state.by_seed = {}, {}
        state.failure = None
        for child in self.states.values():
            if child.search.parent is not None and child.search.parent.name == state.search.name:
                child.pending = []

    def has_weights(self, trial_id: str) -> bool:
        return trial_id not in self._lost and self._has_weights(trial_id)

    def outcome(self, trial: Trial) -> str | None:
        """What became of a trial in this search, for good; None while it must (still) be trained.

        ``stopped`` where it fell below a cutoff, whatever its record says: one that was trained
        further, by a file without early stopping, counts as it would in a run that never did.
        """
        facts = self.facts.get(trial.spec.id, {})
        if stopped_at(facts.get("course", ()), trial.cutoffs) is not None:
            return "stopped"
        status = facts.get("status")
        return status if status in SETTLED else None

    def losers(self) -> list[str]:
        """Finished trials that, since the last call, no search can choose: their weights can go."""
        settled = [name for name in self._undropped if self.states[name].winner is not None]
        if not settled:
            return []
        kept = {
            spec.id
            for state in self.states.values()
            for spec in [state.winner, *state.seeds.values()]
            if spec is not None
        }
        undecided = {
            trial.spec.id
            for state in self.states.values()
            if state.winner is None
            for trial in state.trials
        }
        found = set()
        for name in settled:
            losers = {trial.spec.id for trial in self.states[name].trials} - kept
            found |= losers - undecided
            if not losers & undecided:
                self._undropped.discard(name)
        return sorted(found)

    def _advance_all(self, trial_id: str | None = None) -> None:
        """Moves on the searches that a trial's end concerns, and those that waited for them."""
        for search in self.plan.searches:  # parents come first
            state = self.states[search.name]
            if not state.ended and self._concerns(trial_id, state):
                self._advance(state)

    def _concerns(self, trial_id: str | None, state: SearchState) -> bool:
        if not state.pending or any(job.spec.id == trial_id for job in state.pending):
            return True
        parent = state.search.parent
        return parent is not None and trial_id in self._chosen(parent.name)

    def _chosen(self, name: str) -> set[str]:
        """The trials that a search chose, one a seed."""
        return {spec.id for spec in self.states[name].seeds.values()}

    def _advance(self, state: SearchState) -> None:
        """Moves a search as far as the facts allow and lists what it needs next."""
        state.pending = []
        parent = None
        if state.search.parent is not None:
            parent = self.states[state.search.parent.name]
            # one that failed to be measured is trained, and can be started from
            if parent.state in ("failed", "blocked") and not parent.by_seed:
                state.state, state.hopeless = "blocked", parent.hopeless
                state.failure = f"starts from {parent.search.name}, which is {parent.state}"
                return
            if parent.winner is None:
                return
        neighbor = self._neighbor(state)
        if neighbor is not None and neighbor.winner is None and not neighbor.hopeless:
            if neighbor.ended:  # the next run may find its winner, and would search anew with it
                state.state = "blocked"
                name = neighbor.search.name
                state.failure = f"starts with the winner of {name}, which is {neighbor.state}"
            return
        if state.winner is None:
            state.state = "searching"
            self._search(state, parent)
        if state.winner is not None and not state.pending:
            state.state = "seeds"
            self._run_seeds(state, parent)
        if state.by_seed and not state.pending:
            state.state = "measuring"
            self._measure(state)

    def _neighbor(self, state: SearchState) -> SearchState | None:
        """The search whose winner this one starts with, where the file asks for that."""
        if not self.config.warm_start or state.search.neighbor is None:
            return None
        return self.states[state.search.neighbor]

    def _search(self, state: SearchState, parent: SearchState | None) -> None:
        parent_id = parent.winner.id if parent and parent.winner else None
        while True:
            if self._fail_if_any(state, [trial.spec for trial in state.trials]):
                return
            missing = [trial for trial in state.trials if self.outcome(trial) is None]
            if missing:
                state.pending = [
                    Job("train", trial.spec, state.search, trial.cutoffs) for trial in missing
                ]
                return
            left = self.config.trials - len(state.trials)
            if left <= 0:
                break
            state.trials += self._wave(state, parent_id, left)
        self._choose_winner(state)

    def _wave(self, state: SearchState, parent_id: str | None, left: int) -> list[Trial]:
        # what the others are measured against goes first, alone
        alone = self.config.early_stopping and not state.trials
        suggestions = self.suggest(
            state.search.name,
            self.plan.recipe(state.search),
            space_of(self.plan, state.search),
            self.config.sampler,
            [self._tried(trial) for trial in state.trials],
            1 if alone else min(self.config.wave, left),
            identity=self.plan.spec(state.search, {}, 0, parent_id).id,
            starts=self._starts(state),
        )
        return [self._trial(state, params, parent_id) for params in suggestions]

    def _trial(self, state: SearchState, params: dict[str, float], parent_id: str | None) -> Trial:
        spec = self.plan.spec(state.search, params, 0, parent_id)
        limits: Cutoffs = {}
        if self.config.early_stopping:
            earlier = [
                (trial.spec.recipe, self._course(trial))
                for trial in state.trials
                if self.outcome(trial) not in COLLAPSED
            ]
            limits = cutoffs(spec.recipe, earlier, self.config.reduction_factor)
        return Trial(params, spec, limits)

    def _starts(self, state: SearchState) -> list[dict[str, float]]:
        neighbor = self._neighbor(state)
        starts: list[dict[str, float]] = [{}]
        if neighbor is not None and neighbor.winner is not None:
            winner = neighbor.winner.id
            starts.append(next(a.params for a in neighbor.trials if a.spec.id == winner))
        return [start for i, start in enumerate(starts) if start not in starts[:i]]

    def _course(self, trial: Trial) -> list[tuple[int, float, float]]:
        """Its evaluations in this search: up to where it was stopped."""
        course = self.facts[trial.spec.id].get("course", ())
        end = stopped_at(course, trial.cutoffs)
        return [point for point in course if end is None or point[0] <= end]

    def _tried(self, trial: Trial) -> Tried:
        outcome = self.outcome(trial)
        if outcome == "stopped":
            rungs = {step: acc1 for step, acc1, _ in self._course(trial)}
            return Tried(trial.params, rungs[max(rungs)], stopped=True, rungs=rungs)
        val = self.facts[trial.spec.id]["val"]
        return Tried(trial.params, float(val["acc1"]) if outcome == "finished" else None)

    def _choose_winner(self, state: SearchState) -> None:
        best: TrialSpec | None = None
        for trial in state.trials:
            if self.outcome(trial) != "finished":
                continue
            val = self.facts[trial.spec.id]["val"]
            if best is None or is_better(val, self.facts[best.id]["val"]):
                best = trial.spec
        if best is None:
            first = self.facts[state.trials[0].spec.id]
            state.state, state.hopeless = "failed", True
            state.failure = f"every trial diverged or collapsed, the first: {first['error']}"
            return
        if not self.has_weights(best.id):
            # an earlier, larger search chose another winner and let these weights go
            state.pending = [Job("train", best, state.search)]
            return
        state.winner = best

    def _run_seeds(self, state: SearchState, parent: SearchState | None) -> None:
        assert state.winner is not None
        params = next(a.params for a in state.trials if a.spec.id == state.winner.id)
        wanted = {0: state.winner}
        for seed in range(1, self.plan.experiment.file.seeds):
            parent_id = parent.seeds[seed].id if parent else None
            wanted[seed] = self.plan.spec(state.search, params, seed, parent_id)
        state.seeds = wanted
        if self._fail_if_any(state, list(wanted.values())):
            return
        collapsed = [spec for spec in wanted.values() if self._status(spec) in COLLAPSED]
        if collapsed:
            facts = self.facts[collapsed[0].id]
            state.state = "failed"
            state.failure = (
                f"the winner {facts['status']} on seed {collapsed[0].seed}: {facts['error']}"
            )
            return
        missing = [seed for seed, spec in wanted.items() if self._is_missing(spec)]
        state.pending = [
            Job("train", wanted[seed], state.search)
            for seed in missing
            if parent is None or not self._is_missing(parent.seeds[seed])
        ]
        state.by_seed = {} if missing else wanted

    def _is_missing(self, spec: TrialSpec) -> bool:
        """Whether a winner must (again) be trained on this seed."""
        return self._status(spec) is None or not self.has_weights(spec.id)

    def _measure(self, state: SearchState) -> None:
        if state.search.in_table and not self._fail_if_any(state, list(state.by_seed.values())):
            state.pending = [
                Job("measure", spec, state.search)
                for spec in state.by_seed.values()
                if self.facts[spec.id]["test"] is None or not self.has_predictions(spec.id)
            ]
        if not state.pending and state.state == "measuring":
            state.state = "finished"

    def _status(self, spec: TrialSpec) -> str | None:
        """How it ended, for good; None while it must still be trained."""
        status = self.facts.get(spec.id, {}).get("status")
        return status if status in SETTLED else None

    def _fail_if_any(self, state: SearchState, specs: list[TrialSpec]) -> bool:
        errors = [self.failed[spec.id] for spec in specs if spec.id in self.failed]
        if errors:
            state.state = "failed"
            state.failure = errors[0]
        return bool(errors)


def _last_stages(plan: Plan, warm_start: bool, only: Collection[str] | None) -> dict[str, State]:
    """The stage after which this run leaves each search that it has to do with."""
    if only is None:
        return {search.name: STAGES[-1] for search in plan.searches}
    found: dict[str, State] = {}
    by_name = {search.name: search for search in plan.searches}

    def want(name: str, stage: State) -> None:
        if name in found and STAGES.index(found[name]) >= STAGES.index(stage):
            return
        found[name] = stage
        search = by_name[name]
        if search.parent is not None:
            want(search.parent.name, "seeds")
        if warm_start and search.neighbor is not None:
            want(search.neighbor, "searching")

    for name in only:
        want(name, "measuring")
    return found
