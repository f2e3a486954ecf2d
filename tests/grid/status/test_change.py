"""A changed experiment file: what it keeps, what it trains, and what a part of it takes along."""

from typing import Any

import pytest
import yaml
from tests.helpers.experiments import (
    SEMI,
    SMALL,
    STUDENT,
    VIT,
    changed,
    distill_text,
    experiment_text,
    plan_of,
)
from tests.helpers.played import finished, ran
from tests.helpers.scheduling import scheduler_of, start_next, study_of

from semigrid.data.errors import InputError
from semigrid.grid.status.change import CellChange, Change, compare
from semigrid.grid.status.snapshot import cells_progress
from semigrid.grid.study.state import StudyState


def change(before: str, after: str, only: list[str] | None = None) -> tuple[Change, StudyState]:
    """What the second file changes after a whole run of the first."""
    records, _, _ = ran(before)
    plan = plan_of(after)
    chosen = None if only is None else plan.matching(only)
    study = study_of(plan, records, lambda record: record.id in records, chosen)
    return compare(study, before), study


def cells(found: Change) -> dict[str, tuple[str, int, int]]:
    return {cell.cell: (cell.what, cell.kept, cell.to_do) for cell in found.cells}


def test_the_same_file_changes_nothing() -> None:
    found, _ = change(experiment_text(), experiment_text())
    assert found.keys == [] and found.removed == {} and found.unused == 0
    assert set(cells(found).values()) == {("finished", 3, 0)}


def test_more_trials_keep_what_was_trained_and_say_what_hangs_on_a_winner() -> None:
    text = experiment_text(search={"trials": 5, "wave": 2})
    found, _ = change(experiment_text(), text)
    assert [str(key) for key in found.keys] == ["search.trials: 3 → 5"]
    assert cells(found)["digits/vit/50%"] == ("continued", 3, 2)
    child = next(cell for cell in found.cells if cell.cell == "digits/semi-vit/50%/100%")
    assert (child.what, child.kept, child.to_do, child.waits) == ("continued", 0, 5, True)
    assert child.why == "kept if digits/vit/50% keeps its winner"
    assert found.unused == 0


def test_a_waiting_cell_keeps_its_trainings_when_the_winner_stays() -> None:
    text = experiment_text(search={"trials": 5, "wave": 2})
    records, _, before = ran(experiment_text())
    _, jobs, after = ran(text, records)
    kept = [
        n for n, s in after.study.searches.items() if s.winner == before.study.searches[n].winner
    ]
    assert any("/vit/" in name for name in kept)
    trained = [job.search.name for job in jobs if job.kind == "train"]
    for name in kept:
        if "/vit/" in name:
            assert trained.count(name) == 2
            assert trained.count(name.replace("vit", "semi-vit") + "/100%") == 2


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("models.vit.recipe.base_lr", 0.04, "models.vit.recipe.base_lr: 0.03 → 0.04"),
        ("models.vit.recipe.layer_decay", 0.8, "models.vit.recipe.layer_decay: 0.65 → 0.8"),
        ("models.vit.backbone_args.depth", 2, "models.vit.backbone_args.depth: 1 → 2"),
        ("train.precision", "bf16", "train.precision: fp32 → bf16"),
    ],
)
def test_a_changed_recipe_searches_anew_says_why_and_loses_nothing(
    key: str, value: Any, line: str
) -> None:
    found, _ = change(experiment_text(), changed(key, value))
    assert [str(k) for k in found.keys][0] == line and len(found.keys) == 1
    assert cells(found)["digits/vit/50%"] == ("anew", 0, 3)
    by_name = {cell.cell: cell for cell in found.cells}
    assert line.split(".", 2)[-1].split(":")[0].split(".")[-1] in by_name["digits/vit/50%"].why
    assert cells(found)["digits/semi-vit/50%/100%"] == ("anew", 0, 3)
    assert found.unused == 12  # they stay, and no cell asks for them
    assert found.removed == {}


def test_a_childs_own_change_leaves_its_parent_alone() -> None:
    found, _ = change(experiment_text(), changed("models.semi-vit.recipe.base_lr", 0.04))
    assert cells(found)["digits/vit/50%"] == ("finished", 3, 0)
    assert cells(found)["digits/semi-vit/50%/100%"] == ("anew", 0, 3)
    assert found.unused == 6


def test_a_child_is_not_promised_what_its_own_change_takes() -> None:
    text = changed("models.semi-vit.recipe.base_lr", 0.04).replace("trials: 3", "trials: 5")
    found, _ = change(experiment_text(), text)
    child = next(cell for cell in found.cells if cell.cell == "digits/semi-vit/50%/100%")
    assert (child.what, child.waits) == ("anew", False)
    assert child.why == "recipe.base_lr: 0.03 → 0.04"


def student_after(before: str, after: str) -> CellChange:
    found, _ = change(before, after)
    return next(cell for cell in found.cells if cell.cell == STUDENT)


def test_what_becomes_of_a_student_hangs_on_its_teachers() -> None:
    text = distill_text()
    again = yaml.safe_load(text)
    again["models"]["vit"]["recipe"]["base_lr"] = 0.04
    student = student_after(text, yaml.safe_dump(again))
    assert (student.what, student.why) == ("anew", f"{VIT} and {SEMI} train again")
    student = student_after(text, distill_text(search={"trials": 4}))
    assert (student.what, student.waits) == ("continued", True)
    assert student.why == f"kept if {VIT} and {SEMI} keep their winners"
    student = student_after(text, distill_text("vit"))
    assert (student.what, student.why) == ("anew", f"from: {SEMI}, {VIT} → {VIT}")
    records, _, _ = ran(text)
    used = next(r for r in records.values() if r.cell == STUDENT).spec.teachers
    # with so many more trials, of the teachers alone, each of them has another winner
    for trials in range(4, 20):
        more = distill_text(search={"trials": trials})
        records, _, scheduler = ran(more, records, only=[SEMI])
        if all(scheduler.study.searches[n].winner.id not in used for n in (VIT, SEMI)):
            break
    study = study_of(plan_of(more), records)
    student = next(cell for cell in compare(study, text).cells if cell.cell == STUDENT)
    assert (student.what, student.why) == ("anew", f"{VIT} and {SEMI} have other winners")


def test_cells_come_and_go_and_what_goes_stays_in_the_ledger() -> None:
    grid = [
        {"model": "vit", "labels": ["25%", "50%"]},
        {"model": "semi-vit", "labels": ["50%"]},
    ]
    found, _ = change(experiment_text(), experiment_text(grid=grid))
    assert cells(found) == {
        "digits/vit/25%": ("new", 0, 3),
        "digits/vit/50%": ("finished", 3, 0),
        "digits/semi-vit/50%/100%": ("finished", 3, 0),
    }
    assert found.removed == {"digits/vit/100%": 3, "digits/semi-vit/100%/100%": 3}
    assert (found.keys, found.unused) == ([], 6)


def test_a_model_under_another_name_is_the_same_trainings() -> None:
    text = (
        experiment_text()
        .replace("vit:", "transformer:")
        .replace("model: vit", "model: transformer")
    )
    text = text.replace("from: vit", "from: transformer").replace("semi-transformer", "semi-vit")
    found, _ = change(experiment_text(), text)
    assert cells(found)["digits/transformer/50%"] == ("finished", 3, 0)
    assert found.unused == 0


def test_what_changes_no_number_says_so_and_trains_nothing() -> None:
    found, _ = change(experiment_text(), experiment_text(train={"workers": 2}, prices={"cpu": 1}))
    shown = [str(key) for key in found.keys]
    assert shown == [
        "train.workers: 1 → 2  (changes no result)",
        "prices.cpu: — → 1  (changes no result)",
    ]
    assert {what for what, _, _ in cells(found).values()} == {"finished"}


def test_a_folder_without_a_run_has_nothing_to_compare() -> None:
    study = study_of(plan_of(experiment_text()))
    found = compare(study, None)
    assert not found.had_run and {cell.what for cell in found.cells} == {"new"}


def test_a_last_file_that_cannot_be_read_any_more_hides_keys_only() -> None:
    records, _, _ = ran(experiment_text())
    study = study_of(plan_of(experiment_text()), records, lambda record: record.id in records)
    for text in ("", "grid: [", "name: [1]", changed("models.vit.recipe.base_lrr", 1)):
        found = compare(study, text)
        assert {cell.what for cell in found.cells} == {"finished"}


# --only


def test_only_trains_the_matching_cells_and_what_they_start_from() -> None:
    _, jobs, scheduler = ran(experiment_text(seeds=2), only=["digits/semi-vit/50%/*"])
    trained = {job.search.name for job in jobs}
    assert trained == {"digits/vit/50%", "digits/semi-vit/50%/100%"}
    # the parent's winners are trained on both seeds, but measured on test only where asked for
    measured = {job.search.name for job in jobs if job.kind == "evaluate"}
    assert measured == {"digits/semi-vit/50%/100%"}
    # what its end is told by
    assert list(cells_progress(scheduler.study)) == ["digits/semi-vit/50%/100%"]
    assert scheduler.study.searches["digits/semi-vit/50%/100%"].stage == "finished"
    assert scheduler.study.searches["digits/vit/100%"].stage == "searching"


def test_the_rest_later_trains_what_the_part_left_and_comes_to_the_same() -> None:
    whole, _, _ = ran(experiment_text(seeds=2))
    part, first, _ = ran(experiment_text(seeds=2), only=["*/50%/*", "*/50%"])
    rest, second, _ = ran(experiment_text(seeds=2), part)
    assert rest.keys() == whole.keys()
    keys = [job.key for job in first + second]
    assert len(keys) == len(set(keys))


def test_only_takes_neighbours_along_where_their_winner_comes_first() -> None:
    search = {"trials": 3, "wave": 2, "warm_start": True}
    text = experiment_text(search=search, seeds=2)
    whole, _, _ = ran(text)
    part, jobs, scheduler = ran(text, only=["digits/vit/100%"])
    assert part.keys() < whole.keys()
    # the neighbour is searched, its other seeds are not asked for
    assert {(j.search.name, j.spec.seed) for j in jobs} == {
        ("digits/vit/50%", 0),
        ("digits/vit/100%", 0),
        ("digits/vit/100%", 1),
    }
    assert scheduler.study.trainings_left("digits/vit/50%") == 0


def test_a_new_model_or_dataset_is_one_line_and_so_is_one_that_is_gone() -> None:
    content = yaml.safe_load(experiment_text())
    content["models"]["wide"] = {**content["models"]["vit"], "backbone": "test_vit"}
    content["datasets"]["others"] = "builtin://digits"
    for before, after, arrow in [
        (experiment_text(), yaml.safe_dump(content), "— → defined"),
        (yaml.safe_dump(content), experiment_text(), "defined → —"),
    ]:
        keys = [str(key) for key in change(before, after)[0].keys]
        assert sorted(keys) == [f"datasets.others: {arrow}", f"models.wide: {arrow}"]


def test_more_seeds_take_one_training_a_seed_of_every_cell_children_included() -> None:
    found, study = change(experiment_text(), experiment_text(seeds=3))
    assert {to_do for _, _, to_do in cells(found).values()} == {2}
    assert {kept for _, kept, _ in cells(found).values()} == {3}
    left = sum(study.trainings_left(name) for name in study.searches)
    records, _, _ = ran(experiment_text())
    _, jobs, _ = ran(experiment_text(seeds=3), records)
    trained = [job for job in jobs if job.kind == "train"]
    assert len(trained) == left == 8 and {job.spec.seed for job in trained} == {1, 2}


def test_a_pattern_that_matches_nothing_lists_what_is_near() -> None:
    with pytest.raises(InputError) as caught:
        plan_of(experiment_text()).matching(["digits/vti/*", "digits/*"])
    assert "--only 'digits/vti/*'" in str(caught.value)
    assert "digits/vit/50%" in str(caught.value) and len(caught.value.problems) == 1


def test_only_shows_what_it_leaves_alone() -> None:
    text = experiment_text(search={"trials": 5, "wave": 2})
    found, study = change(experiment_text(), text, only=["digits/vit/50%"])
    assert cells(found)["digits/vit/50%"] == ("continued", 3, 2)
    others = [v for k, v in cells(found).items() if k != "digits/vit/50%"]
    assert {(what, to_do) for what, _, to_do in others} == {("not asked", 0)}
    assert sum(study.trainings_left(name) for name in study.searches) == 2


def test_trainings_left_is_what_is_then_trained() -> None:
    for text in (experiment_text(seeds=3), experiment_text(search={"trials": 5, "wave": 3})):
        plan = plan_of(text)
        scheduler = scheduler_of(plan)
        study = scheduler.study
        left = sum(study.trainings_left(name) for name in study.searches)
        assert left == plan.counts()["trainings"]
        while job := start_next(scheduler):
            scheduler.complete(job, finished(job))
            if job.kind == "train":
                left -= 1
            study = scheduler.study
            assert sum(study.trainings_left(name) for name in study.searches) == left
        assert left == 0


@pytest.mark.parametrize("vit", [{"from": "semi-vit"}, {"from": "vit"}, {"from": "nobody"}])
def test_models_that_start_from_each_other_in_the_copy_of_a_run_are_a_change(
    vit: dict[str, str],
) -> None:
    models = {"vit": {**vit, "method": "finetune"}, "semi-vit": SMALL["models"]["semi-vit"]}
    found = compare(study_of(plan_of(experiment_text())), experiment_text(models=models))
    expected = ["semi-vit", "vit"]  # one that names no model is no experiment of any version
    assert [k.before for k in found.keys if k.key == "models.vit.from"] == [
        name for name in expected if name == vit["from"]
    ]
