"""Cells that learn from other cells: what they wait for, and what is made for them."""

from fractions import Fraction
from typing import Any

import pytest
import yaml
from tests.helpers.experiments import SEMI, STUDENT, VIT, distill_text, plan_of
from tests.helpers.played import Trials, finished
from tests.helpers.scheduling import scheduler_of, start_next

from semigrid.data.errors import InputError
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.scheduler import Scheduler
from semigrid.grid.study.state import Job


def search_of(plan: Plan, name: str) -> Any:
    return next(search for search in plan.searches if search.name == name)


def test_a_student_comes_after_its_teachers_and_is_another_trial_with_others() -> None:
    plan = plan_of(distill_text())
    assert [search.name for search in plan.searches] == [VIT, SEMI, STUDENT]
    student = search_of(plan, STUDENT)
    assert student.parent is None
    assert [teacher.name for teacher in student.teachers] == [VIT, SEMI]
    spec = plan.spec(student, {}, 0, None, ["b", "a"])
    assert (spec.parent, spec.teachers, spec.pool_images) == (None, ("a", "b"), 300)
    assert spec.id == plan.spec(student, {}, 0, None, ["a", "b"]).id
    assert spec.id != plan.spec(student, {}, 0, None, ["a"]).id
    # other identities know nothing of teachers
    assert "teachers" not in plan.spec(search_of(plan, VIT), {}, 0, None).model_dump()
    longest = plan.priorities()
    assert longest[VIT] == plan.forwards[VIT] + longest[SEMI]
    assert longest[SEMI] == plan.forwards[SEMI] + plan.forwards[STUDENT]
    # 6 steps of 3·(4 + 12) forwards, and each of the 300 images once by both teachers
    assert plan.forwards[STUDENT] == 6 * 3 * 16
    assert plan.answers == {VIT: 300, SEMI: 300}
    assert plan.counts()["forwards"] == sum(plan.forwards.values()) + 600


def test_its_control_costs_as_much_as_student_and_soft_targets() -> None:
    plan = plan_of(distill_text("vit", controls=["compute", "labeled-pool"]))
    names = [cell.name for cell in plan.cells if cell.model == "small"]
    # soft targets are of the pool, so there is no control with another one
    assert names == [STUDENT, f"{STUDENT}/compute"]
    control = plan.spec(search_of(plan, f"{STUDENT}/compute"), {}, 0, None)
    assert (control.method, control.pool_images, control.teachers) == ("finetune", None, ())
    batch = control.recipe.batch_size
    assert control.recipe.total_steps == max(1, round((6 * 3 * 16 + 300) / (3 * batch)))
    cells = {cell.name: cell for cell in plan.cells}
    assert plan.baseline_of(cells[STUDENT]) == cells[f"{STUDENT}/compute"]


@pytest.mark.parametrize(
    ("asked", "teacher"),
    [
        ({"semi-vit": ["100%"], "small": ["100%", "200%"]}, ["100%", "100%"]),
        ({"semi-vit": ["100%", "200%"], "small": ["100%", "200%"]}, ["100%", "200%"]),
    ],
)
def test_a_teacher_is_of_the_same_pool_or_the_only_one(
    asked: dict[str, list[str]], teacher: list[str]
) -> None:
    grid = [{"model": name, "labels": ["50%"], "unlabeled": pool} for name, pool in asked.items()]
    plan = plan_of(distill_text("semi-vit", grid=grid))
    students = [search for search in plan.searches if search.cell.model == "small"]
    found = [search.teachers[0].cell.unlabeled for search in students]
    assert found == [Fraction(each[:-1]) / 100 for each in teacher]


class Played:
    """A study whose jobs end at once; soft targets are there once they were made."""

    def __init__(self, plan: Plan, trials: Trials | None = None):
        self.plan, self.trials, self.jobs = plan, {} if trials is None else trials, list[Job]()

    def there(self, record: Record, images: int) -> bool:
        return record.soft_targets >= images

    def run(self, fail: str | None = None) -> Scheduler:
        """Until nothing is left; jobs of the kind ``fail`` fail."""
        scheduler = scheduler_of(self.plan, self.trials, has_soft_targets=self.there)
        while job := start_next(scheduler):
            self.jobs.append(job)
            if job.kind == fail:
                scheduler.complete(job, self.trials.get(job.spec.id), "boom")
                continue
            record = finished(job)
            if job.kind == "soft targets":
                record = self.trials[job.spec.id].model_copy()
                record.soft_targets = max(record.soft_targets, job.images)
            self.trials[job.spec.id] = record
            scheduler.complete(job, record)
        assert scheduler.done
        return scheduler


def kinds(jobs: list[Job]) -> list[tuple[str, str, int]]:
    return [(job.kind, job.search.name, job.spec.seed) for job in jobs]


def test_soft_targets_are_made_once_when_the_teachers_are_measured() -> None:
    played = Played(plan_of(distill_text(seeds=2, search={"trials": 3, "wave": 2})))
    scheduler = played.run()
    assert {state.stage for state in scheduler.study.searches.values()} == {"finished"}
    made = [job for job in played.jobs if job.kind == "soft targets"]
    assert sorted(kinds(made)) == [
        ("soft targets", name, seed) for name in (SEMI, VIT) for seed in (0, 1)
    ]
    assert {job.images for job in made} == {300}
    order = kinds(played.jobs)
    student = [n for n, (kind, name, _) in enumerate(order) if name == STUDENT and kind == "train"]
    first = order.index(("soft targets", VIT, 0)), order.index(("soft targets", SEMI, 0))
    assert max(first) < student[0]
    assert min(first) > max(n for n, each in enumerate(order) if each[0:2] == ("evaluate", SEMI))
    specs = [played.jobs[n].spec for n in student]
    winners = [scheduler.study.searches[name].seeds for name in (VIT, SEMI)]
    for spec in specs:
        assert spec.teachers == tuple(sorted(seeds[spec.seed].id for seeds in winners))
    # whoever runs it again makes nothing, even where the soft targets were deleted
    for record in played.trials.values():
        record.soft_targets = 0
    again = Played(played.plan, played.trials)
    again.run()
    assert [job for job in again.jobs if job.kind != "evaluate"] == []


def test_a_larger_pool_is_answered_further() -> None:
    grid = [{"model": "vit", "labels": ["50%"]}]
    grid += [{"model": "small", "labels": ["50%"], "unlabeled": ["100%", "200%"]}]
    played = Played(plan_of(distill_text("vit", grid=grid)))
    played.run()
    assert sorted(job.images for job in played.jobs if job.kind == "soft targets") == [300, 600]


def test_a_student_without_teachers_is_blocked_and_one_without_answers_fails() -> None:
    scheduler = Played(plan_of(distill_text())).run(fail="train")
    state = scheduler.study.searches[STUDENT]
    assert (state.stage, state.failure) == ("blocked", f"learns from {VIT}, which is failed")
    played = Played(plan_of(distill_text()))
    state = played.run(fail="soft targets").study.searches[STUDENT]
    assert state.stage == "failed" and "made no soft targets: boom" in str(state.failure)
    assert {played.trials[i].status for i in played.trials} == {"finished"}  # the teachers are
    assert Played(played.plan, played.trials).run().study.searches[STUDENT].stage == "finished"
    # a teacher that could not be evaluated is trained, and answers
    played = Played(plan_of(distill_text()))
    study = played.run(fail="evaluate").study
    assert {study.searches[name].stage for name in (VIT, SEMI, STUDENT)} == {"failed"}
    assert ("soft targets", VIT, 0) in kinds(played.jobs)
    assert ("train", STUDENT, 0) in kinds(played.jobs)


def test_what_teachers_are_still_asked_is_left_to_do() -> None:
    grid = [{"model": "vit", "labels": ["50%"]}]
    grid += [{"model": "small", "labels": ["50%"], "unlabeled": ["100%", "200%"]}]
    played = Played(plan_of(distill_text("vit", grid=grid, seeds=2)))
    study = scheduler_of(played.plan, played.trials, has_soft_targets=played.there).study
    assert study.answers_left() == {VIT: 2 * 600}
    # 100 % is answered on both seeds, and the student with 200 % has one seed to go
    played.run()
    larger = f"{STUDENT.removesuffix('100%')}200%"
    last = next(r for r in played.trials.values() if (r.cell, r.spec.seed) == (larger, 1))
    del played.trials[last.id]
    for record in played.trials.values():
        record.soft_targets = min(record.soft_targets, 300)
    study = scheduler_of(played.plan, played.trials, has_soft_targets=played.there).study
    assert study.answers_left() == {VIT: 2 * 300}
    played.run()
    study = scheduler_of(played.plan, played.trials, has_soft_targets=played.there).study
    assert study.answers_left() == {}


def test_only_the_student_asks_for_measured_teachers() -> None:
    plan = plan_of(distill_text())
    study = scheduler_of(plan, only=[STUDENT]).study
    assert study.goals == {VIT: "finished", SEMI: "finished", STUDENT: "finished"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"from": "vyt"}, "models.small.from: 'vyt' is not a model of this file"),
        ({"from": ["vit", "vit"]}, "models.small.from: 'vit' is named twice"),
        ({"from": None}, "models.small.from: missing; method distill learns what other models say"),
        ({"from": "small"}, "models.small.from: 'small' is of method distill and learns from"),
        ({"from": []}, "models.small.from: must be the name of a model or, of several, a list"),
        ({"from": 3}, "models.small.from: 3: must be the name of a model or, of several, a list"),
        ({"backbone": None}, "models.small.backbone: missing; give a timm name"),
        (
            {"method": "finetune", "from": ["vit"]},
            r"models.small.from: \['vit'\]: method finetune starts from one model: give its name",
        ),
    ],
)
def test_bad_sources_are_refused(changes: dict[str, Any], message: str) -> None:
    content = yaml.safe_load(distill_text())
    content["models"]["small"] |= changes
    with pytest.raises(InputError, match=message):
        plan_of(yaml.safe_dump(content))


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (
            {"semi-vit": [["100%"], ["100%"]], "small": [["50%"], ["100%"]]},
            "models.small.from: grid has no cell digits/semi-vit/50%, only at 100% of the labels; "
            "small at 50% learns from that cell",
        ),
        (
            {"small": [["50%"], ["100%"]]},
            "models.small.from: grid has no cell digits/semi-vit/50%; small at 50% learns",
        ),
        (
            {"semi-vit": [["50%"], ["100%", "200%"]], "small": [["50%"], ["300%"]]},
            r"digits/semi-vit/50% has several pools, and none is 300% \(unlabeled: 100%, 200%\)",
        ),
    ],
)
def test_a_cell_that_no_cell_teaches_is_refused(grid: dict[str, Any], message: str) -> None:
    rows = [{"model": m, "labels": labels, "unlabeled": u} for m, (labels, u) in grid.items()]
    with pytest.raises(InputError, match=message):
        plan_of(distill_text("semi-vit", grid=rows))
