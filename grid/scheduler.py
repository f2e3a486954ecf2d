"""What to train next: the plan and the ledger, nothing else, decide."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from grid.ledger import SETTLED, STOPPED
from grid.plan import Plan, Search
from grid.search import Tried, default_space, score, suggest_wave
from trainers.choose import is_better
from trainers.trial import TrialSpec

State = Literal["waiting", "searching", "seeds", "measuring", "finished", "failed", "blocked"]


@dataclass(frozen=True)
class Job:
    """One thing to do: train a trial, or measure a finished one on test."""

    kind: Literal["train", "measure"]
    spec: TrialSpec
    search: Search

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.spec.id


class SearchState:
    """One search's progress through its waves, its seeds and its measurement."""

    def __init__(self, search: Search):
        self.search = search
        self.state: State = "waiting"
        self.trials: list[tuple[dict[str, float], TrialSpec]] = []
        self.winner: TrialSpec | None = None
        self.by_seed: dict[int, TrialSpec] = {}
        self.pending: list[Job] = []
        self.failure: str | None = None


class Scheduler:
    """Hands out jobs in the order of the plan's priorities and follows what becomes of them.

    ``facts`` holds of each trial what ``grid.ledger.record_summary`` keeps. Failures of earlier
    runs are tried again; a failure of this run fails its cell and blocks the cells that start
    from it.
    """

    def __init__(
        self, plan: Plan, facts: dict[str, dict[str, Any]], has_weights: Callable[[str], bool]
    ):
        self.plan = plan
        self.facts = facts
        self.has_weights = has_weights
        self.running: dict[tuple[str, str], Job] = {}
        self.failed: dict[str, str] = {}
        self.trained: list[str] = []
        self.measured: list[str] = []
        self.states = {s.name: SearchState(s) for s in plan.searches}
        priorities = plan.priorities()
        self._by_priority = sorted(plan.searches, key=lambda s: -priorities[s.name])
        self._advance_all()

    def next(self) -> Job | None:
        """A job that can run now and is not running; it counts as running from here on."""
        for search in self._by_priority:
            for job in self.states[search.name].pending:
                if job.key not in self.running:
                    self.running[job.key] = job
                    return job
        return None

    @property
    def done(self) -> bool:
        """Whether nothing runs and nothing can be started."""
        return not self.running and not any(s.pending for s in self.states.values())

    def complete(self, job: Job, summary: dict[str, Any] | None, error: str | None = None) -> None:
        """Takes note of a job's end: the ledger's summary of its trial, or an error."""
        del self.running[job.key]
        if summary is not None:
            self.facts[job.spec.id] = summary
        if error is not None:
            self.failed[job.spec.id] = error
        elif job.kind == "train":
            self.trained.append(job.spec.id)
        else:
            self.measured.append(job.spec.id)
        self._advance_all()

    def losers(self) -> list[str]:
        """Finished trials of settled searches that no search chose: their weights can go."""
        settled = [s for s in self.states.values() if s.winner is not None]
        kept = {spec.id for s in settled for spec in [s.winner, *s.by_seed.values()] if spec}
        open_trials = {
            spec.id for s in self.states.values() if s.winner is None for _, spec in s.trials
        }
        return sorted(
            spec.id
            for s in settled
            for _, spec in s.trials
            if spec.id not in kept and spec.id not in open_trials
        )

    def _advance_all(self) -> None:
        for search in self.plan.searches:  # parents come first
            state = self.states[search.name]
            if state.state not in ("finished", "failed", "blocked"):
                self._advance(state)

    def _advance(self, state: SearchState) -> None:
        """Moves a search as far as the facts allow and lists what it needs next."""
        state.pending = []
        parent = None
        if state.search.parent is not None:
            parent = self.states[state.search.parent.name]
            if not self._ready(parent):
                if parent.state in ("failed", "blocked"):
                    state.state = "blocked"
                    state.failure = f"starts from {parent.search.name}, which is {parent.state}"
                return
        if state.winner is None:
            state.state = "searching"
            self._search(state, parent)
        if state.winner is not None and not state.pending:
            state.state = "seeds"
            self._run_seeds(state, parent)
        if state.winner is not None and not state.pending:
            state.state = "measuring"
            self._measure(state)

    def _ready(self, parent: SearchState) -> bool:
        """Whether a search's winners, on all seeds, are trained and can be started from."""
        return len(parent.by_seed) == self.plan.experiment.file.seeds

    def _search(self, state: SearchState, parent: SearchState | None) -> None:
        config = self.plan.experiment.file.search
        parent_id = parent.by_seed[0].id if parent else None
        while True:
            missing = [spec for _, spec in state.trials if self._status(spec) is None]
            if self._fail_if_any(state, [spec for _, spec in state.trials]):
                return
            if missing:
                state.pending = [Job("train", spec, state.search) for spec in missing]
                return
            left = config.trials - len(state.trials)
            if left <= 0:
                break
            state.trials += self._wave(state, parent_id, min(config.wave, left))
        self._choose_winner(state)

    def _wave(
        self, state: SearchState, parent_id: str | None, count: int
    ) -> list[tuple[dict[str, float], TrialSpec]]:
        config = self.plan.experiment.file.search
        recipe = self.plan.recipe(state.search)
        method = self.plan.experiment.file.models[state.search.cell.model].method
        suggestions = suggest_wave(
            state.search.name,
            recipe,
            {**default_space(method, recipe), **config.space.get(method, {})},
            config.sampler,
            [self._tried(params, spec) for params, spec in state.trials],
            count,
            identity=self.plan.spec(state.search, {}, 0, parent_id).id,
        )
        return [
            (params, self.plan.spec(state.search, params, 0, parent_id)) for params in suggestions
        ]

    def _tried(self, params: dict[str, float], spec: TrialSpec) -> Tried:
        facts = self.facts[spec.id]
        return Tried(params, score(facts["val"]) if facts["status"] == "finished" else None)

    def _choose_winner(self, state: SearchState) -> None:
        best: TrialSpec | None = None
        for _, spec in state.trials:
            facts = self.facts[spec.id]
            if facts["status"] != "finished":
                continue
            if best is None or is_better(facts["val"], self.facts[best.id]["val"]):
                best = spec
        if best is None:
            first = self.facts[state.trials[0][1].id]
            state.state = "failed"
            state.failure = f"every trial diverged or collapsed, the first: {first['error']}"
            return
        if not self.has_weights(best.id):
            # an earlier, larger search chose another winner and let these weights go
            state.pending = [Job("train", best, state.search)]
            return
        state.winner = best

    def _run_seeds(self, state: SearchState, parent: SearchState | None) -> None:
        assert state.winner is not None
        params = next(p for p, spec in state.trials if spec.id == state.winner.id)
        wanted = {0: state.winner}
        for seed in range(1, self.plan.experiment.file.seeds):
            parent_id = parent.by_seed[seed].id if parent else None
            wanted[seed] = self.plan.spec(state.search, params, seed, parent_id)
        if self._fail_if_any(state, list(wanted.values())):
            return
        stopped = [spec for spec in wanted.values() if self._status(spec) in STOPPED]
        if stopped:
            facts = self.facts[stopped[0].id]
            state.state = "failed"
            state.failure = (
                f"the winner {facts['status']} on seed {stopped[0].seed}: {facts['error']}"
            )
            return
        state.pending = [
            Job("train", spec, state.search)
            for spec in wanted.values()
            if self._status(spec) is None or not self.has_weights(spec.id)
        ]
        if not state.pending:
            state.by_seed = wanted

    def _measure(self, state: SearchState) -> None:
        if state.search.in_table and not self._fail_if_any(state, list(state.by_seed.values())):
            state.pending = [
                Job("measure", spec, state.search)
                for spec in state.by_seed.values()
                if self.facts[spec.id]["test"] is None
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
