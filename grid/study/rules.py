"""How searches move through their stages: the study state as a function of plan and ledger."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from semigrid.grid.study.halving import cutoffs
from semigrid.grid.study.ledger import COLLAPSED, Record
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.search import Tried, Wave, suggest_wave
from semigrid.grid.study.state import Job, SearchState, StudyState, Trial, goals_of
from semigrid.trainers.evaluation.choose import Cutoffs, rank, stopped_at
from semigrid.trainers.methods import Fitted, find_method
from semigrid.trainers.recipe import SteppedRecipe
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.job import JobKind


@dataclass(frozen=True)
class StudyRules:
    """Derives the state of every search from the plan and the ledger.

    Args:
        has_weights: whether the weights of a finished trial are there.
        has_predictions: whether the predictions of an evaluated trial are there.
        has_soft_targets: whether a trial's answers for so many images of the pool are there.
        suggest: ``suggest_wave``, or the same with a memory.
    """

    has_weights: Callable[[Record], bool]
    has_predictions: Callable[[Record], bool] = lambda record: True
    has_soft_targets: Callable[[Record, int], bool] = lambda record, images: True
    suggest: Callable[[Wave], list[dict[str, float]]] = suggest_wave

    def assess(
        self,
        plan: Plan,
        records: Mapping[str, Record],
        only: Collection[str] | None = None,
    ) -> StudyState:
        """The state of a plan with these trials in its ledger; ``only`` as in ``goals_of``."""
        searches = {search.name: SearchState(search) for search in plan.searches}
        return self.advance(StudyState(plan, records, searches, goals_of(plan, only)))

    def advance(self, study: StudyState, changed: str | None = None) -> StudyState:
        """The state with all searches moved on as far as the records allow.

        Args:
            changed: the trial whose end is new; searches that it does not concern stay as they
                are, unless they wait for others.
        """
        searches = dict(study.searches)
        study = replace(study, searches=searches)
        for search in study.plan.searches:  # those that others need come first
            state = searches[search.name]
            if not state.ended and _concerns(study, state, changed):
                searches[search.name] = self._advance(study, replace(state, pending=()))
        return study

    def _advance(self, study: StudyState, state: SearchState) -> SearchState:
        for source in _sources(study, state):
            # one that could not be evaluated is trained, and can be started from
            if source.stage in ("failed", "blocked") and not source.by_seed:
                does = "starts" if source.search == state.search.parent else "learns"
                failure = f"{does} from {source.search.name}, which is {source.stage}"
                return replace(state, stage="blocked", failure=failure, hopeless=source.hopeless)
            if source.winner is None:
                return state
        if not all(teacher.ended for teacher in _teachers(study, state)):
            return state
        if _waits_for_features(study, state):
            return state
        neighbor = _neighbor(study, state)
        if neighbor is not None and neighbor.winner is None and not neighbor.hopeless:
            if neighbor.ended:  # the next run may find its winner, and would search anew with it
                name = neighbor.search.name
                failure = f"starts with the winner of {name}, which is {neighbor.stage}"
                return replace(state, stage="blocked", failure=failure)
            return state
        if state.winner is None:
            searched = self._search(study, replace(state, stage="searching"))
            specs = [job.spec for job in searched.pending]
            if not self._are_taught(study, specs):
                return self._make_soft_targets(study, replace(state, stage="waiting"), specs)
            state = searched
        if state.winner is not None and not state.pending:
            state = self._train_seeds(study, replace(state, stage="seeds"))
        if state.by_seed and not state.pending:
            state = self._evaluate(study, replace(state, stage="evaluating"))
        return state

    def _search(self, study: StudyState, state: SearchState) -> SearchState:
        while True:
            if failure := _first_failure(study, "train", (trial.spec for trial in state.trials)):
                return replace(state, stage="failed", failure=failure)
            missing = [trial for trial in state.trials if study.outcome(trial) is None]
            if missing:
                jobs = (Job("train", t.spec, state.search, t.cutoffs) for t in missing)
                return replace(state, pending=tuple(jobs))
            if len(state.trials) >= study.plan.trials[state.search.name]:
                return self._choose_winner(study, state)
            state = replace(state, trials=(*state.trials, *self._next_wave(study, state)))

    def _next_wave(self, study: StudyState, state: SearchState) -> list[Trial]:
        plan, config = study.plan, study.plan.experiment.file.search
        start, most = _start(study, state, 0), plan.trials[state.search.name]
        # the trial that the others are compared with goes first, alone
        alone = config.early_stopping and not state.trials
        wave = Wave(
            identity=plan.spec(state.search, {}, 0, *start).id,
            recipe=plan.varied(state.search),
            space=plan.space(state.search),
            sampler=config.sampler,
            earlier=[_tried(study, trial) for trial in state.trials],
            count=1 if alone else min(config.wave, most - len(state.trials)),
            starts=_starts(study, state),
        )
        trials = []
        for params in self.suggest(wave):
            spec = plan.spec(state.search, params, 0, *start)
            trials.append(Trial(params, spec, _cutoffs(study, state, spec)))
        return trials

    def _choose_winner(self, study: StudyState, state: SearchState) -> SearchState:
        finished = [trial for trial in state.trials if study.outcome(trial) == "finished"]
        if not finished:
            error = study.records[state.trials[0].id].error
            failure = f"every trial diverged or collapsed, the first: {error}"
            return replace(state, stage="failed", failure=failure, hopeless=True)
        best = max(finished, key=lambda trial: rank(*study.records[trial.id].score))
        if not self._has_weights(study, best.id):
            # an earlier, larger search chose another winner and deleted these weights
            return replace(state, pending=(Job("train", best.spec, state.search),))
        return replace(state, winner=best)

    def _train_seeds(self, study: StudyState, state: SearchState) -> SearchState:
        assert state.winner is not None
        sources = _sources(study, state)
        seeds = {0: state.winner.spec}
        for seed in range(1, study.plan.experiment.file.seeds):
            start = _start(study, state, seed)
            seeds[seed] = study.plan.spec(state.search, state.winner.params, seed, *start)
        state = replace(state, seeds=seeds)
        failure = _first_failure(study, "train", seeds.values()) or _first_collapse(study, seeds)
        if failure:
            return replace(state, stage="failed", failure=failure)
        missing = {
            seed: spec
            for seed, spec in seeds.items()
            if study.settled(spec.id) is None or not self._has_weights(study, spec.id)
        }
        by_seed = {} if missing else seeds
        state = replace(state, by_seed=by_seed, missing=tuple(missing.values()))
        ready = [
            spec
            for seed, spec in missing.items()
            if not any(source.seeds[seed] in source.missing for source in sources)
        ]
        if not self._are_taught(study, ready):
            return self._make_soft_targets(study, state, ready)
        return replace(state, pending=tuple(Job("train", spec, state.search) for spec in ready))

    def _evaluate(self, study: StudyState, state: SearchState) -> SearchState:
        if not state.search.in_table:
            return replace(state, stage="finished")
        if failure := _first_failure(study, "evaluate", state.by_seed.values()):
            return replace(state, stage="failed", failure=failure)
        jobs = tuple(
            Job("evaluate", spec, state.search)
            for spec in state.by_seed.values()
            if (record := study.records[spec.id]).test is None or not self.has_predictions(record)
        )
        return replace(state, stage="evaluating" if jobs else "finished", pending=jobs)

    def _are_taught(self, study: StudyState, specs: Sequence[TrialSpec]) -> bool:
        """Whether all answers of teachers are there which these trials learn."""
        return all(
            self.has_soft_targets(study.records[teacher], spec.pool_images or 0)
            for spec in specs
            for teacher in spec.teachers
        )

    def _make_soft_targets(
        self, study: StudyState, state: SearchState, specs: Sequence[TrialSpec]
    ) -> SearchState:
        """The search waits for answers of its teachers; it fails where one could not give them."""
        jobs = {}
        for teacher in _teachers(study, state):
            for spec in teacher.seeds.values():
                images = max(
                    (t.pool_images or 0 for t in specs if spec.id in t.teachers), default=0
                )
                if self.has_soft_targets(study.records[spec.id], images):
                    continue
                if why := _first_failure(study, "soft targets", [spec]):
                    failure = f"{teacher.search.name} made no soft targets: {why}"
                    return replace(state, stage="failed", failure=failure)
                jobs[spec.id] = Job("soft targets", spec, teacher.search, images=images)
        return replace(state, pending=tuple(jobs.values()))

    def _has_weights(self, study: StudyState, trial_id: str) -> bool:
        return trial_id not in study.lost and self.has_weights(study.records[trial_id])


def _concerns(study: StudyState, state: SearchState, trial_id: str | None) -> bool:
    """Whether a trial's end may move the search; always true for a search without jobs."""
    if not state.pending or any(job.spec.id == trial_id for job in state.pending):
        return True
    return any(trial_id in source.chosen for source in _sources(study, state))


def _sources(study: StudyState, state: SearchState) -> list[SearchState]:
    """The searches whose winners it starts or learns from."""
    return [study.searches[source.name] for source in state.search.sources]


def _teachers(study: StudyState, state: SearchState) -> list[SearchState]:
    return [study.searches[teacher.name] for teacher in state.search.teachers]


def _start(study: StudyState, state: SearchState, seed: int) -> tuple[str | None, list[str]]:
    """The parent and the teachers, as trials, of a search's trainings with a seed."""
    chosen = [source.seeds[seed].id for source in _sources(study, state)]
    return (None, chosen) if state.search.parent is None else (chosen[0], [])


def _neighbor(study: StudyState, state: SearchState) -> SearchState | None:
    """The search whose winner this one tries first; None without a warm start."""
    if not study.plan.experiment.file.search.warm_start or state.search.neighbor is None:
        return None
    return study.searches[state.search.neighbor]


def _waits_for_features(study: StudyState, state: SearchState) -> bool:
    """Whether a cell with fewer labels is making features that this one needs, too."""
    plan, before = study.plan, state.search.neighbor
    if before is None or not isinstance(find_method(plan.method(state.search.cell)), Fitted):
        return False
    return study.is_open(before) and study.searches[before].winner is None


def _starts(study: StudyState, state: SearchState) -> list[dict[str, float]]:
    """A search's first trials: as published and, with a warm start, the neighbour's winner."""
    neighbor = _neighbor(study, state)
    if neighbor is None or neighbor.winner is None or not neighbor.winner.params:
        return [{}]
    return [{}, neighbor.winner.params]


def _cutoffs(study: StudyState, state: SearchState, spec: TrialSpec) -> Cutoffs:
    config = study.plan.experiment.file.search
    if not config.early_stopping or not isinstance(spec.recipe, SteppedRecipe):
        return {}
    earlier = [
        (trial.spec.recipe, _course(study, trial))
        for trial in state.trials
        if isinstance(trial.spec.recipe, SteppedRecipe) and study.outcome(trial) not in COLLAPSED
    ]
    return cutoffs(spec.recipe, earlier, config.reduction_factor)


def _course(study: StudyState, trial: Trial) -> list[tuple[int, float, float]]:
    """A trial's evaluations up to the one at which its search stopped it."""
    course = study.records[trial.id].course
    end = stopped_at(course, trial.cutoffs)
    return [point for point in course if end is None or point[0] <= end]


def _tried(study: StudyState, trial: Trial) -> Tried:
    outcome, course = study.outcome(trial), _course(study, trial)
    if outcome == "stopped":
        rungs = {step: acc1 for step, acc1, _ in course}
        return Tried(trial.params, course[-1][1], stopped=True, rungs=rungs)
    acc1 = study.records[trial.id].score[0] if outcome == "finished" else None
    return Tried(trial.params, acc1)


def _first_failure(study: StudyState, kind: JobKind, specs: Iterable[TrialSpec]) -> str | None:
    """The error of the first of these trials whose job of this kind failed in this run."""
    keys = ((kind, spec.id) for spec in specs)
    return next((study.failed[key] for key in keys if key in study.failed), None)


def _first_collapse(study: StudyState, seeds: Mapping[int, TrialSpec]) -> str | None:
    for seed, spec in seeds.items():
        record = study.settled(spec.id)
        if record is not None and record.status in COLLAPSED:
            return f"the winner {record.status} on seed {seed}: {record.error}"
    return None
