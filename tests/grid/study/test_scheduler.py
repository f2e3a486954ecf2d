"""What trains next, driven by trials such as a ledger holds; the training itself is played."""

from tests.helpers.experiments import changed, experiment_text, plan_of
from tests.helpers.played import Trials, diverged, finished, play
from tests.helpers.scheduling import scheduler_of, start_next, study_of

from semigrid.grid.study.ledger import Record


def test_the_same_trials_and_winners_whatever_the_concurrency_and_the_order_of_ends() -> None:
    outcomes = []
    for slots, seed in [(1, 0), (2, 1), (3, 2), (8, 3)]:
        scheduler, jobs = play(plan_of(experiment_text(seeds=2)), {}, slots, seed)
        winners = {name: s.winner.id for name, s in scheduler.study.searches.items() if s.winner}
        outcomes.append((winners, {job.key for job in jobs}))
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert len(outcomes[0][0]) == 4
    # 4 cells: 3 trials and a second seed to train, two seeds to measure
    assert len(outcomes[0][1]) == 4 * (3 + 1) + 4 * 2


def test_interrupted_anywhere_and_resumed_trains_the_same_and_nothing_twice() -> None:
    text = experiment_text(seeds=2)
    _, whole = play(plan_of(text), {}, slots=2)
    for cut in range(1, len(whole)):
        trials: Trials = {}
        _, first = play(plan_of(text), trials, slots=2, seed=cut, jobs=cut)
        scheduler, second = play(plan_of(text), trials, slots=2, seed=cut + 1)
        keys = [job.key for job in first + second]
        assert len(keys) == len(set(keys))
        assert set(keys) == {job.key for job in whole}
        assert all(s.stage == "finished" for s in scheduler.study.searches.values())


def test_the_state_at_a_runs_end_is_the_one_that_its_ledger_gives() -> None:
    plan = plan_of(experiment_text(seeds=2))
    trials: Trials = {}
    scheduler, _ = play(plan, trials, slots=3)
    assert study_of(plan, trials).searches == scheduler.study.searches


def test_a_state_does_not_change_when_the_run_goes_on() -> None:
    scheduler = scheduler_of(plan_of(experiment_text()))
    before = scheduler.study
    left = before.trainings_left("digits/vit/50%")
    while (job := start_next(scheduler)) and job.kind == "train":
        scheduler.complete(job, finished(job))
    assert scheduler.study.trainings_left("digits/vit/50%") < left
    assert before.trainings_left("digits/vit/50%") == left and not before.records


def test_a_finished_plan_has_nothing_to_do() -> None:
    trials: Trials = {}
    play(plan_of(experiment_text()), trials, slots=2)
    scheduler, jobs = play(plan_of(experiment_text()), trials, slots=2)
    assert scheduler.done and jobs == []


def test_a_child_waits_for_its_parents_winner_and_starts_from_it() -> None:
    scheduler, jobs = play(plan_of(experiment_text(seeds=2)), {}, slots=4)
    ended = [job.key for job in jobs]
    for name, state in scheduler.study.searches.items():
        if state.search.parent is None:
            continue
        parent = scheduler.study.searches[state.search.parent.name]
        for seed, spec in state.by_seed.items():
            assert spec.parent == parent.by_seed[seed].id, name
            assert ended.index(("train", spec.parent)) < ended.index(("train", spec.id))


def test_a_child_is_searched_while_its_parents_other_seeds_are_trained() -> None:
    grid = [{"model": "semi-vit", "labels": ["50%"]}]
    scheduler = scheduler_of(plan_of(experiment_text(seeds=3, grid=grid)))
    parent, child = "digits/vit/50%", "digits/semi-vit/50%/100%"

    def do_all_but_seeds_of_the_parent() -> None:
        while jobs := [
            j for j in scheduler.ready() if not (j.search.name == parent and j.spec.seed)
        ]:
            scheduler.complete(scheduler.start(jobs[0]), finished(jobs[0]))

    do_all_but_seeds_of_the_parent()
    assert scheduler.study.searches[parent].stage == "seeds"
    assert scheduler.study.searches[child].winner is not None
    assert sorted(job.spec.seed for job in scheduler.ready()) == [1, 2]
    assert scheduler.study.trainings_left(child) == scheduler.study.trainings_left(parent) == 2
    second = next(job for job in scheduler.ready() if job.spec.seed == 2)
    scheduler.complete(scheduler.start(second), finished(second))
    own = [job for job in scheduler.ready() if job.search.name == child]
    assert [(job.spec.seed, job.spec.parent) for job in own] == [(2, second.spec.id)]
    do_all_but_seeds_of_the_parent()
    assert (
        scheduler.study.searches[child].stage == "seeds"
    )  # nothing is measured before all are trained
    first = next(scheduler.ready())
    scheduler.complete(scheduler.start(first), None, "out of luck")
    assert scheduler.study.searches[parent].stage == "failed"
    assert scheduler.study.searches[child].stage == "blocked"
    assert scheduler.done


def test_a_childs_seed_starts_with_its_parents_whatever_else_of_it_runs() -> None:
    grid = [{"model": "semi-vit", "labels": ["50%"]}]
    scheduler = scheduler_of(plan_of(experiment_text(seeds=3, grid=grid)))
    parent, child = "digits/vit/50%", "digits/semi-vit/50%/100%"
    while jobs := [job for job in scheduler.ready() if not job.spec.seed]:
        scheduler.complete(scheduler.start(jobs[0]), finished(jobs[0]))
    first, second = scheduler.ready()
    assert {first.search.name, second.search.name} == {parent}
    scheduler.complete(scheduler.start(first), finished(first))
    (running,) = (job for job in scheduler.ready() if job.search.name == child)
    scheduler.start(running)
    scheduler.complete(scheduler.start(second), finished(second))
    (other,) = (job for job in scheduler.ready() if job.search.name == child)
    assert {running.spec.parent, other.spec.parent} == {first.spec.id, second.spec.id}


def test_a_parent_that_cannot_be_measured_can_be_started_from() -> None:
    grid = [{"model": "vit", "labels": ["50%"]}, {"model": "semi-vit", "labels": ["50%"]}]
    scheduler = scheduler_of(plan_of(experiment_text(grid=grid)))
    parent, child = "digits/vit/50%", "digits/semi-vit/50%/100%"
    while job := start_next(scheduler):
        broken = job.kind == "evaluate" and job.search.name == parent
        scheduler.complete(job, None if broken else finished(job), "a bad disk" if broken else None)
    assert scheduler.study.searches[parent].stage == "failed"
    assert scheduler.study.searches[child].stage == "finished"


def test_only_winners_are_measured_on_test_and_each_once() -> None:
    scheduler, jobs = play(plan_of(experiment_text(seeds=3)), {}, slots=3)
    measured = [job.spec.id for job in jobs if job.kind == "evaluate"]
    chosen = [s.id for state in scheduler.study.searches.values() for s in state.by_seed.values()]
    assert sorted(measured) == sorted(chosen)


def test_the_winner_is_the_best_on_val() -> None:
    scheduler, _ = play(plan_of(experiment_text()), {}, slots=2)
    for state in scheduler.study.searches.values():
        scores = {t.spec.id: scheduler.study.records[t.id].val["acc1"] for t in state.trials}
        assert state.winner is not None
        assert scores[state.winner.id] == max(scores.values())


def test_every_seed_runs_the_winners_recipe() -> None:
    scheduler, _ = play(plan_of(experiment_text(seeds=3)), {}, slots=2)
    searched = 0
    for state in scheduler.study.searches.values():
        assert state.winner is not None and set(state.by_seed) == {0, 1, 2}
        assert {spec.seed for spec in state.by_seed.values()} == {0, 1, 2}
        assert all(spec.recipe == state.winner.spec.recipe for spec in state.by_seed.values())
        searched += state.winner.id != state.trials[0].spec.id
    assert searched  # some winner is not the published recipe, or this would show nothing


def test_a_failure_blocks_children_and_nothing_else_and_is_tried_again_by_the_next_run() -> None:
    trials: Trials = {}
    plan = plan_of(experiment_text())
    scheduler, _ = play(plan, trials, slots=2, fail="digits/vit/50%")
    states = {name: s.stage for name, s in scheduler.study.searches.items()}
    assert states == {
        "digits/vit/50%": "failed",
        "digits/vit/100%": "finished",
        "digits/semi-vit/50%/100%": "blocked",
        "digits/semi-vit/100%/100%": "finished",
    }
    assert "digits/vit/50%" in str(scheduler.study.searches["digits/semi-vit/50%/100%"].failure)
    scheduler, jobs = play(plan, trials, slots=2)
    assert all(s.stage == "finished" for s in scheduler.study.searches.values())
    assert {job.search.cell.labels for job in jobs} == {plan.cells[0].labels}


def test_a_diverged_trial_is_a_result_that_cannot_win() -> None:
    plan = plan_of(experiment_text(grid=[{"model": "vit", "labels": ["50%"]}]))
    scheduler = scheduler_of(plan)
    first = True
    while job := start_next(scheduler):
        scheduler.complete(job, diverged(job) if first else finished(job))
        first = False
    state = scheduler.study.searches["digits/vit/50%"]
    assert state.stage == "finished" and len(state.trials) == 3
    assert state.winner is not None and state.winner.id != state.trials[0].spec.id


def test_all_trials_diverged_fails_the_cell() -> None:
    plan = plan_of(experiment_text(grid=[{"model": "vit", "labels": ["50%"]}]))
    scheduler = scheduler_of(plan)
    while job := start_next(scheduler):
        scheduler.complete(job, diverged(job))
    failure = scheduler.study.searches["digits/vit/50%"].failure
    assert failure == "every trial diverged or collapsed, the first: too fast"


def test_more_trials_fractions_and_seeds_train_only_what_is_new() -> None:
    trials: Trials = {}
    _, before = play(plan_of(experiment_text()), trials, slots=2)
    done = {job.key for job in before}
    for text, new_cells in [
        (changed("grid.0.labels", ["50%", "75%", "100%"]), {"digits/vit/75%"}),
        (changed("search.trials", 5), None),
        (experiment_text(seeds=2), None),
    ]:
        _, jobs = play(plan_of(text), dict(trials), slots=2)
        assert not {job.key for job in jobs if job.kind == "train"} & done
        if new_cells is not None:
            assert {job.search.name for job in jobs} == new_cells


def test_losers_are_those_that_no_search_chose() -> None:
    scheduler, _ = play(plan_of(experiment_text(seeds=2)), {}, slots=2)
    chosen = {s.id for state in scheduler.study.searches.values() for s in state.by_seed.values()}
    trained = {t.spec.id for state in scheduler.study.searches.values() for t in state.trials}
    assert set(scheduler.losers()) == trained - chosen


def test_a_winner_whose_weights_are_gone_is_trained_again() -> None:
    trials: Trials = {}
    scheduler, _ = play(plan_of(experiment_text()), trials, slots=2)
    lost = {winner.id for s in scheduler.study.searches.values() if (winner := s.winner)}
    kept: set[str] = set()

    def weights(record: Record) -> bool:
        return record.id in kept or record.id not in lost

    again = scheduler_of(plan_of(experiment_text()), trials, weights)
    trained = []
    while job := start_next(again):
        kept.add(job.spec.id)
        trained.append(job.spec.id)
        again.complete(job, finished(job))
    assert lost <= set(trained)
    assert all(s.stage == "finished" for s in again.study.searches.values())


def test_a_child_whose_failed_parent_lost_its_weights_does_not_try_for_ever() -> None:
    plan = plan_of(
        experiment_text(
            search={"trials": 1},
            grid=[
                {"model": "vit", "labels": ["50%"]},
                {"model": "semi-vit", "labels": ["50%"]},
            ],
        )
    )
    scheduler = scheduler_of(plan)
    train = start_next(scheduler)
    assert train is not None
    scheduler.complete(train, finished(train))
    measure, child = start_next(scheduler), start_next(scheduler)
    if measure is not None and measure.kind != "evaluate":
        measure, child = child, measure
    assert measure is not None and child is not None and measure.kind == "evaluate"
    scheduler.complete(measure, scheduler.study.records[train.spec.id], "could not be measured")
    for _ in range(3):
        scheduler.lose(child, train.spec.id, "damaged")
        # what could not be measured can be trained, and its child needs no more than that
        if (parent := start_next(scheduler)) is None:
            break
        assert parent.spec.id == train.spec.id and parent.kind == "train"
        scheduler.complete(parent, finished(parent))
        again = start_next(scheduler)
        assert again is not None and again.key == child.key
        child = again
    assert scheduler.done
    assert scheduler.study.searches["digits/vit/50%"].stage == "failed"
    assert scheduler.study.searches["digits/semi-vit/50%/100%"].stage in ("failed", "blocked")


def test_a_cell_waits_for_the_next_run_where_its_neighbour_failed_by_accident() -> None:
    text = experiment_text(search={"trials": 3, "wave": 2, "warm_start": True})
    expected: Trials = {}
    undisturbed, _ = play(plan_of(text), expected, slots=2)
    trials: Trials = {}
    scheduler, _ = play(plan_of(text), trials, slots=2, fail="digits/vit/50%")
    state = scheduler.study.searches["digits/vit/100%"]
    assert state.stage == "blocked" and "starts with the winner of digits/vit/50%" in str(
        state.failure
    )
    scheduler, _ = play(plan_of(text), trials, slots=2)
    for name, found in scheduler.study.searches.items():
        assert found.stage == "finished"
        assert found.winner == undisturbed.study.searches[name].winner
    assert trials.keys() == expected.keys()  # nothing was trained that the search does not need


def test_a_cell_goes_on_alone_where_its_neighbour_found_no_winner_for_good() -> None:
    text = experiment_text(
        search={"trials": 2, "warm_start": True}, grid=[{"model": "vit", "labels": ["50%", "100%"]}]
    )
    scheduler = scheduler_of(plan_of(text))
    while job := start_next(scheduler):
        small = job.search.name == "digits/vit/50%"
        scheduler.complete(job, diverged(job) if small else finished(job))
    assert scheduler.study.searches["digits/vit/50%"].stage == "failed"
    assert scheduler.study.searches["digits/vit/100%"].stage == "finished"
