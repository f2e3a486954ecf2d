"""Models distilled from others of a grid: trained, resumed, measured, used and exported."""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.experiments import SEMI, STUDENT, VIT, distill_text, plan_of
from tests.helpers.in_process import Grid, no_group
from tests.helpers.nasty import saved
from tests.helpers.scheduling import study_of
from tests.helpers.tiny import tiny_model, tiny_recipe

from semigrid.data.builder.write import StoredImage, write_dataset
from semigrid.data.catalog import open_dataset
from semigrid.data.ranges import Block, make_views
from semigrid.data.schema import Dataset, Split
from semigrid.data.storage import FileFacts, open_storage
from semigrid.data.views.augment import (
    ViewSettings,
    make_view,
    normalize,
    view_seed,
)
from semigrid.data.views.render import decode
from semigrid.grid.predict.images import dataset_images
from semigrid.grid.predict.inference import winner_model
from semigrid.grid.run.dispatch import conclude, trial_job
from semigrid.grid.run.work import do_job
from semigrid.grid.study.layout import record_file
from semigrid.grid.study.state import Job
from semigrid.grid.study.winner import find_winner
from semigrid.trainers.evaluation.predictions import decode_predictions
from semigrid.trainers.execution.checkpoint import Checkpoints, decode_weights, encode_weights
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.features import store
from semigrid.trainers.features.store import Part
from semigrid.trainers.layout import predictions_file, soft_targets_folder, weights_file
from semigrid.trainers.loop.rehearsal import rehearse, rehearsed
from semigrid.trainers.loop.seeds import step_seed
from semigrid.trainers.methods.losses import LogitAdjustment
from semigrid.trainers.options import TrainOptions
from semigrid.trainers.soft_targets.make import (
    Answers,
    Teacher,
    in_this_process,
    soft_target_store,
)
from semigrid.trainers.soft_targets.read import SoftTargets, open_soft_targets
from semigrid.trainers.trial.data import view_settings
from semigrid.trainers.trial.job import DamagedSoftTargetsError, Place, TrialJob
from semigrid.trainers.trial.model import finished_model

IMAGES = 300  # of the pool at 100 %


class Counting(Grid):
    """A grid that counts the images which teachers are shown, and may die before one of them."""

    def __init__(self, *args: Any, dies_after: int | None = None):
        super().__init__(*args)
        self.shown: list[str] = []
        self.dies_after = dies_after

    def do(self, job: Job) -> None:
        message = trial_job(self.plan, job, self.ledger.storage)
        self.before(message)
        failure = do_job(message, lambda metrics: None, no_group, self.ask)
        _, problem = conclude(job, self.scheduler, self.ledger, failure)
        self.problems += [] if problem is None else [problem]

    def before(self, job: TrialJob) -> None:
        """What happens before a job."""

    def ask(
        self, teacher: Teacher, parts: Sequence[Part], options: TrainOptions
    ) -> Iterator[Answers]:
        for block in in_this_process(teacher, parts):
            if self.dies_after is not None and len(self.shown) >= self.dies_after:
                raise KeyboardInterrupt
            self.shown += block.ids
            yield block


@dataclass(frozen=True)
class Run:
    folder: Path
    grid: Counting


@pytest.fixture(scope="module", autouse=True)
def small_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "PART_IMAGES", 128)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run that was killed while teachers answered, and went on."""
    folder = tmp_path_factory.mktemp("distill")
    plan = plan_of(distill_text())
    grid = Counting(plan, folder, dies_after=256)
    with pytest.raises(KeyboardInterrupt):
        grid.run()
    again = Counting(plan, folder).run()
    assert not again.problems
    again.shown = [*grid.shown, *again.shown]
    return Run(folder, again)


def student_job(run: Run) -> TrialJob:
    spec = next(r.spec for r in run.grid.records.values() if r.cell == STUDENT)
    job = Job("train", spec, run.grid.plan.searches[-1])
    return trial_job(run.grid.plan, job, run.grid.ledger.storage)


def test_no_image_is_shown_twice_though_the_run_was_killed(run: Run) -> None:
    # 300 images are three files of 128; a last one is whole, for larger pools
    assert len(run.grid.shown) == 2 * 384 and len(set(run.grid.shown)) == 384
    [student] = [r for r in run.grid.records.values() if r.cell == STUDENT]
    assert student.status == "finished" and student.test is not None
    assert student.spec.pool_images == IMAGES
    assert all(0 < record["soft_target_certainty"] < 1 for record in student.history)
    teachers = {r.id: r for r in run.grid.records.values() if r.cell in (VIT, SEMI)}
    assert student.spec.teachers == tuple(sorted(teachers))
    for record in teachers.values():
        assert (record.soft_targets, record.soft_target_files) == (IMAGES, 3)
    assert not list((run.folder / "checkpoints").glob("*/*"))  # nor what showed the progress
    assert Counting(run.grid.plan, run.folder).run().shown == []


def test_soft_targets_are_the_mean_answer_for_weak_views(run: Run, digits: Dataset) -> None:
    student = next(r for r in run.grid.records.values() if r.cell == STUDENT)
    records = [run.grid.records[teacher] for teacher in student.spec.teachers]
    table, answers = digits.read("pool", np.arange(3)), []
    for record in records:
        place = run.grid.plan.place(run.grid.plan.searches[0], str(run.folder))
        model = finished_model(record.spec, place, 10, record.best_weights).eval()
        views = view_settings(record.spec.recipe, ((0.5,) * 3, (0.5,) * 3))
        seed = step_seed(0, 0, "soft targets")
        with torch.inference_mode():
            weak = [
                make_view(decode(content, name), views, "weak", view_seed(seed, 0, name, "weak"))
                for name, content in zip(table.ids, table.images, strict=True)
            ]
            logits = model(normalize(torch.from_numpy(np.stack(weak)), views))
        answers.append(logits.softmax(dim=1))
    job = student_job(run)
    found = opened(job)(table.ids[::-1])
    expected = torch.stack(answers).mean(dim=0).flip(0)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)  # kept in half precision
    torch.testing.assert_close(found.sum(dim=1), torch.ones(3))
    with pytest.raises(LookupError, match="no soft target of image nobody"):
        opened(job)(["nobody"])


def opened(job: TrialJob) -> SoftTargets:
    return open_soft_targets(job, Runtime(Checkpoints(job.checkpoints)))


def teacher_job(run: Run, images: int) -> Job:
    record = next(r for r in run.grid.records.values() if r.cell == VIT)
    return Job("soft targets", record.spec, run.grid.plan.searches[0], images=images)


@pytest.fixture
def copied(run: Run, tmp_path: Path) -> Run:
    shutil.copytree(run.folder, tmp_path / "run")
    return Run(tmp_path / "run", Counting(run.grid.plan, tmp_path / "run"))


def do(grid: Counting, job: Job) -> None:
    do_job(trial_job(grid.plan, job, grid.ledger.storage), lambda _: None, no_group, grid.ask)


def test_the_devices_that_answer_are_in_the_teachers_record(copied: Run) -> None:
    job, grid = teacher_job(copied, 600), copied.grid
    before = grid.records[job.spec.id].device_seconds
    message = trial_job(grid.plan, job, grid.ledger.storage)
    of_gpus = message.options.model_copy(update={"workers": 2, "gpus_per_worker": 0.5})

    def ask(teacher: Teacher, *args: Any) -> Iterator[Answers]:
        """As processes with GPUs answer, which this machine may lack."""
        for block in grid.ask(replace(teacher, device="cpu"), *args):
            yield replace(block, device_kind="NVIDIA A10G")

    started = time.monotonic()
    do_job(message.model_copy(update={"options": of_gpus}), lambda _: None, no_group, ask)
    found = grid.records[job.spec.id].device_seconds
    assert found["cpu"] == before["cpu"]
    assert 0 < found["NVIDIA A10G"] < time.monotonic() - started  # twice half a GPU


def test_a_larger_pool_takes_what_is_there(copied: Run) -> None:
    do(copied.grid, teacher_job(copied, 600))
    assert len(copied.grid.shown) == 640 - 384  # five files, of which three were there
    record = copied.grid.records[teacher_job(copied, 600).spec.id]
    assert (record.soft_targets, record.soft_target_files) == (600, 5)
    do(copied.grid, teacher_job(copied, 300))  # asked by another cell meanwhile
    assert copied.grid.records[record.id].soft_targets == 600


def damage_a_file(folder: Path, job: TrialJob) -> None:
    first, *_ = sorted((folder / soft_targets_folder(job.spec.teachers[0])).glob("*.parquet"))
    first.write_bytes(first.read_bytes()[:-9] + b"something")


def test_damaged_files_are_never_learnt_from(copied: Run) -> None:
    job = student_job(copied)
    damage_a_file(copied.folder, job)
    with pytest.raises(DamagedSoftTargetsError, match="1 files of soft targets are missing or"):
        opened(job)
    ledger = Counting(copied.grid.plan, copied.folder).ledger
    record = ledger.read_all()[job.spec.teachers[0]]
    assert not ledger.has_soft_targets(record, 300)
    assert "2 of 3 files are there; the others are made again" in ledger.problems[0]
    do(copied.grid, Job("soft targets", record.spec, copied.grid.plan.searches[0], images=300))
    assert len(copied.grid.shown) == 128
    assert opened(job) is not None


@pytest.mark.parametrize("times", [1, 2])
def test_a_run_that_finds_damaged_files_has_them_made_again_once(copied: Run, times: int) -> None:
    student = next(r for r in copied.grid.records.values() if r.cell == STUDENT)
    (copied.folder / record_file(student.id)).unlink()
    left = [times]

    class Damaging(Counting):
        def before(self, job: TrialJob) -> None:
            if job.kind == "train" and left[0]:
                left[0] -= 1
                damage_a_file(copied.folder, job)

    grid = Damaging(copied.grid.plan, copied.folder).run()
    assert "1 files of soft targets are missing or damaged; they are made again" in grid.problems[0]
    assert len(grid.shown) == 128
    state = grid.study.searches[STUDENT]
    if times == 1:
        again = grid.records[student.id]
        assert state.stage == "finished" and again.history == student.history
    else:
        assert state.stage == "failed" and "made again once already" in str(state.failure)


def test_a_teacher_that_was_trained_again_answers_again(copied: Run) -> None:
    record = copied.grid.records[teacher_job(copied, 300).spec.id]
    assert record.weights_file is not None
    weights = copied.folder / weights_file(record.id)
    networks = decode_weights(weights.read_bytes())
    for network in networks.values():
        network["head.bias"] += 1
    content = encode_weights(networks)
    weights.write_bytes(content)
    record.weights_file = FileFacts.of(content)
    copied.grid.ledger.write(record)
    do(copied.grid, teacher_job(copied, 300))
    assert len(copied.grid.shown) == 384


def test_an_image_that_cannot_be_shown_has_no_target(tmp_path: Path) -> None:
    content = [b"no image", *(saved(Image.new("RGB", (20, 20)), "png") for _ in range(19))]
    rows = [StoredImage(f"{n}", image, None, "pool", f"{n}") for n, image in enumerate(content)]
    splits: tuple[Split, ...] = ("train", "val", "test")
    rows += [StoredImage(f"{s}{n}", content[1], n, s, s) for s in splits for n in (0, 1)]
    facts = {"name": "shapes", "classes": ["red", "green"], "license": "CC0", "source": "tests"}
    write_dataset(str(tmp_path / "shapes"), rows, **facts)
    dataset = open_dataset(str(tmp_path / "shapes"))
    stores = []
    for number, rows in enumerate([[0.75, 0.25], [0.25, 0.75]]):
        kept = soft_target_store(open_storage(tmp_path), str(number), dataset, 20)
        [part] = kept.parts(["pool"])
        views = make_views(part.images, ViewSettings(img_size=16), weak_seed=0)
        assert sum(error is not None for error in views.errors) == 1
        kept.write(part, Block(views.ids, views.errors, np.tile(rows, (len(views.ids), 1))))
        stores.append(kept)
    soft = SoftTargets(stores, 2)(views.ids)
    broken = [error is not None for error in views.errors]
    assert soft[broken].tolist() == [[0, 0]]
    assert soft[[not each for each in broken]].tolist() == [[0.5, 0.5]] * 19


def test_a_teacher_answers_as_it_was_trained() -> None:
    # of equally frequent classes it says ½ and ½; of these labels, 3 : 1
    spec = SimpleNamespace(logit_adjustment=1)

    class Says(Teacher):
        def predict(self, views: Block) -> Block:
            return Block(views.ids, views.errors, np.full((1, 2), 0.5))

    shares = LogitAdjustment(np.array([0, 0, 0, 1]), 2, 1, torch.device("cpu")).shares
    settings = ViewSettings(img_size=16)
    teacher = Says(cast(Any, spec), Place("", ""), 2, "ema", settings, "cpu", 1, shares)
    answer = teacher.answers(Block(["a"], [None], np.zeros((1, 3, 16, 16), np.uint8)))
    assert answer.rows[0].tolist() == pytest.approx([0.75, 0.25])


def test_the_student_predicts_as_any_model(run: Run, digits: Dataset) -> None:
    ledger = run.grid.ledger
    study = study_of(run.grid.plan, ledger.read_all(), ledger.has_weights)
    cell, record = find_winner(study, STUDENT)
    model = winner_model(run.grid.plan, cell, record, str(run.folder), gpus=0)
    [images] = dataset_images(digits, ["test"]).parts.values()
    content = (run.folder / predictions_file(record.id)).read_bytes()
    measured = decode_predictions(content, 200, 10)
    found = model.predict(make_views(images, model.views))
    order = np.argsort(np.array(found.ids))  # as a table of predictions is sorted
    assert np.allclose(found.rows[order], measured.probabilities, atol=1e-6)


def test_a_step_of_it_is_tried_before_a_run() -> None:
    recipe = rehearsed(tiny_recipe("distill"), "distill", 1)
    views = ViewSettings(img_size=16)
    rehearse(tiny_model(recipe), recipe, "distill", views, 10, with_pool=True)
