"""Successive halving: rungs, cutoffs, and a search whose poor trials end early."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.experiments import changed, experiment_text, plan_of
from tests.helpers.played import Trials, finished, has_finished
from tests.helpers.scheduling import scheduler_of, start_next, study_of
from tests.helpers.scores import alike

from semigrid.grid.study.halving import cutoffs, rungs
from semigrid.grid.study.ledger import Record, start_record
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.state import Job
from semigrid.trainers.evaluation.choose import Cutoffs, course, stopped_at
from semigrid.trainers.recipe import SteppedRecipe


def recipe(evaluations: int, steps: int = 400, warmup: int = 0) -> SteppedRecipe:
    return SteppedRecipe(steps=steps, evaluations=evaluations, warmup_steps=warmup)


@pytest.mark.parametrize(
    ("evaluations", "expected"),
    [(1, []), (2, [200]), (4, [100, 200]), (8, [50, 100, 200]), (10, [40, 80, 200])],
)
def test_rungs_are_the_evaluations_at_a_half_a_quarter_and_so_on(
    evaluations: int, expected: list[int]
) -> None:
    found = recipe(evaluations)
    assert [found.evaluation_steps[number] for number in rungs(found)] == expected


def test_no_rung_lies_in_the_warm_up() -> None:
    found = recipe(8, warmup=50)
    assert [found.evaluation_steps[number] for number in rungs(found)] == [100, 200]


def line(scores: list[float], steps: int = 400) -> list[tuple[int, float, float]]:
    """A course with these scores at its evaluations."""
    return [(round((i + 1) * steps / 4), acc1, 1.0) for i, acc1 in enumerate(scores)]


def test_a_trial_must_be_among_the_best_third_of_its_rung() -> None:
    own = recipe(4)
    earlier = [(own, line([10.0 * i, 10.0 * i + 5])) for i in range(1, 8)]  # seven trials
    limits = cutoffs(own, earlier, 3)
    assert limits == {100: (60.0, 1.0), 200: (65.0, 1.0)}  # the second best of seven
    assert stopped_at(line([60, 65, 0, 0]), limits) is None
    assert stopped_at(line([59, 99]), limits) == 100
    assert stopped_at(line([60, 64, 99]), limits) == 200
    # of equal Acc@1 the cross-entropy decides, as everywhere
    assert stopped_at([(100, 60.0, 1.1)], limits) == 100


def test_a_stopped_trial_has_no_say_at_rungs_it_did_not_reach() -> None:
    own = recipe(4)
    limits = cutoffs(own, [(own, line([50, 60, 70, 80])), (own, line([40]))], 3)
    assert limits == {100: (50.0, 1.0), 200: (60.0, 1.0)}
    assert cutoffs(own, [], 3) == {}


def test_trials_of_different_lengths_are_compared_at_the_same_share_of_their_steps() -> None:
    own = recipe(4, steps=1000)
    limits = cutoffs(own, [(recipe(4), line([50, 60, 70, 80]))], 3)
    assert limits == {250: (50.0, 1.0), 500: (60.0, 1.0)}


def test_trials_with_another_number_of_evaluations_have_no_say() -> None:
    # five steps have five evaluations: the second is at 2/5, not at 2/10
    assert cutoffs(recipe(10, steps=20), [(recipe(10, steps=5), [(2, 90.0, 1.0)])], 3) == {}


def test_a_course_is_the_best_so_far_of_student_and_teacher() -> None:
    history = [
        {"step": 1.0, "student_acc1": 50, "student_ce": 2, "ema_acc1": 40, "ema_ce": 1},
        {"step": 2.0, "student_acc1": 45, "student_ce": 2, "ema_acc1": 50, "ema_ce": 1.5},
        {"step": 3.0, "student_acc1": 30, "student_ce": 2, "ema_acc1": 20, "ema_ce": 1},
    ]
    assert course(history, "balanced") == [(1, 50, 2), (2, 50, 1.5), (3, 50, 1.5)]


def early(**search: Any) -> Plan:
    settings = {"trials": 16, "wave": 4, "early_stopping": True, **search}
    vit = {"steps": 8, "evaluations": 4}
    text = experiment_text(search=settings)
    plan = plan_of(text)
    for name, known in plan._recipes.items():
        plan._recipes[name] = known.model_copy(update=vit)
    return plan


def history_of(course: list[tuple[int, float, float]]) -> list[dict[str, float]]:
    """Evaluations with this course, in which the teacher is as good as the student."""
    return [
        alike(
            {"step": step}
            | {"student_acc1": acc1, "student_ce": ce, "ema_acc1": acc1, "ema_ce": ce}
        )
        for step, acc1, ce in course
    ]


def trained(job: Job) -> Record:
    """What a deterministic training under the job's cutoffs leaves: quality shows at every rung."""
    result = finished(job)
    final = result.val["acc1"]
    steps = job.spec.recipe.evaluation_steps
    full = [(step, final * (i + 1) / len(steps), 1.0) for i, step in enumerate(steps)]
    end = stopped_at(full, job.cutoffs)
    if end is not None:
        full = [point for point in full if point[0] <= end]
        result.status = "stopped"
    result.history = history_of(full)
    return result


def play(plan: Plan, trials: Trials, slots: int, order: int) -> list[Job]:
    """Runs the plan with ``slots`` at a time; ``order`` says which of them ends first."""
    scheduler = scheduler_of(plan, trials, lambda record: has_finished(trials, record.id))
    running: list[Job] = []
    jobs: list[Job] = []
    while not scheduler.done:
        while len(running) < slots and (job := start_next(scheduler)):
            running.append(job)
        job = running.pop(order % len(running))
        result = trained(job)
        if job.kind == "evaluate":
            result = trials[job.spec.id].model_copy(update={"test": {"acc1": 1.0}})
        trials[job.spec.id] = result
        scheduler.complete(job, result)
        jobs.append(job)
    assert {s.stage for s in scheduler.study.searches.values()} == {"finished"}
    return jobs


def steps_of(trials: Trials) -> int:
    return sum(t.course[-1][0] for t in trials.values())


@cache
def one_by_one() -> Trials:
    """All trials of ``early``, each started when the one before it has ended."""
    trials: Trials = {}
    play(early(), trials, 1, 0)
    return trials


@settings(deadline=None, max_examples=30)
@given(slots=st.integers(1, 9), order=st.integers(0, 7))
def test_timing_changes_no_decision(slots: int, order: int) -> None:
    found: Trials = {}
    jobs = play(early(), found, slots, order)
    assert found == one_by_one()
    assert len(jobs) == len({job.key for job in jobs})


def test_poor_trials_end_early_and_the_published_recipe_never() -> None:
    stopped: list[int] = []
    steps = whole_steps = 0
    for weight_decay in (0.01, 0.02, 0.03, 0.04, 0.05, 0.06):  # each a draw of its own
        plan = varied(early(), weight_decay)
        trials: Trials = {}
        play(plan, trials, 3, 0)
        scheduler = scheduler_of(plan, trials)
        for state in scheduler.study.searches.values():
            outcomes = [scheduler.study.outcome(trial) for trial in state.trials]
            assert len(outcomes) == 16
            assert outcomes[0] == "finished" and state.trials[0].cutoffs == {}
            assert all(trial.cutoffs for trial in state.trials[1:])
            stopped.append(outcomes.count("stopped"))
        whole: Trials = {}
        play(varied(early(early_stopping=False), weight_decay), whole, 3, 0)
        steps, whole_steps = steps + steps_of(trials), whole_steps + steps_of(whole)
    assert np.mean(stopped) >= 9
    assert steps < 0.55 * whole_steps  # half of them, give or take luck


def varied(plan: Plan, weight_decay: float) -> Plan:
    for name, known in plan._recipes.items():
        plan._recipes[name] = known.model_copy(update={"weight_decay": weight_decay})
    return plan


def test_switched_off_later_the_stopped_ones_are_trained_to_the_end() -> None:
    trials: Trials = {}
    play(early(), trials, 2, 0)
    stopped = {i for i, t in trials.items() if t.status == "stopped"}
    known = set(trials)
    jobs = play(early(early_stopping=False), trials, 2, 0)
    again = {job.spec.id for job in jobs if job.kind == "train"} & known
    assert again and again <= stopped  # those that both searches suggest
    assert all(trials[i].status == "finished" for i in again)


def test_switched_on_later_the_result_is_that_of_a_run_that_had_it_from_the_start() -> None:
    fresh: Trials = {}
    play(early(), fresh, 2, 0)
    trials: Trials = {}
    play(early(early_stopping=False), trials, 2, 0)
    play(early(), trials, 2, 0)

    def chosen(known: Trials) -> dict[str, Any]:
        scheduler = scheduler_of(early(), known)
        return {
            name: (state.winner, [scheduler.study.outcome(trial) for trial in state.trials])
            for name, state in scheduler.study.searches.items()
        }

    assert chosen(trials) == chosen(fresh)


def test_a_record_of_other_cutoffs_is_trained_again_only_if_it_ends_too_soon() -> None:
    plan = plan_of(changed("search", {"trials": 1}))
    study = study_of(plan)
    trial = study.searches["digits/vit/50%"].trials[0]
    for limits, expected in [
        ({}, None),
        ({3: (60.0, 1.0)}, "stopped"),
        ({3: (40.0, 1.0)}, None),
    ]:
        stopped = start_record(trial.spec, "digits/vit/50%")
        stopped.status, stopped.history = "stopped", history_of([(3, 50.0, 1.0)])
        study = replace(study, records={trial.id: stopped})
        cut: Cutoffs = limits
        assert study.outcome(replace(trial, cutoffs=cut)) == expected


def test_a_cell_starts_with_the_winner_of_the_next_smaller_fraction() -> None:
    text = changed("grid.0.labels", ["100%", "25%", "50%"])
    # of eight trials, the published recipe seldom wins
    text = text.replace("trials: 3", "trials: 8")
    plan = plan_of(text.replace("wave: 2", "wave: 2\n  warm_start: true"))
    trials: Trials = {}
    jobs = play(plan, trials, 4, 1)
    scheduler = scheduler_of(plan, trials)
    followed = 0
    for state in scheduler.study.searches.values():
        neighbor = state.search.neighbor
        assert (neighbor is None) == (
            state.search.cell.labels
            == min(c.labels for c in plan.cells if c.model == state.search.cell.model)
        )
        if neighbor is None:
            continue
        smaller = scheduler.study.searches[neighbor]
        assert smaller.search.cell.labels < state.search.cell.labels
        assert smaller.winner is not None
        params = smaller.winner.params
        assert params in [trial.params for trial in state.trials[:2]]
        followed += params != {}
    assert followed  # some winner is not the published recipe, or this would show little
    assert len(jobs) == len({job.key for job in jobs})


def test_a_collapsed_trial_is_no_measure_for_the_others() -> None:
    plan = early()
    scheduler = scheduler_of(plan)
    published = scheduler.study.searches["digits/vit/50%"].trials[0]
    (job,) = [j for j in scheduler.ready() if j.spec.id == published.spec.id]
    steps = job.spec.recipe.evaluation_steps
    ended = start_record(job.spec, job.search.name)
    good_until_the_last = [(step, 99.0, 0.1) for step in steps]
    ended.status, ended.history = "collapsed", history_of(good_until_the_last)
    scheduler.start(job)
    scheduler.complete(job, ended)
    wave = scheduler.study.searches["digits/vit/50%"].trials[1:]
    assert len(wave) == 4 and all(trial.cutoffs == {} for trial in wave)
