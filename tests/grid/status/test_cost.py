"""Device-seconds: counted whatever happens, estimated from trials or FLOPs, priced by the file."""

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.experiments import VIT, changed, distill_text, experiment_text, plan_of
from tests.helpers.in_process import no_group
from tests.helpers.played import ran
from tests.helpers.scheduling import study_of
from tests.helpers.scores import alike
from tests.helpers.tiny import (
    LABELED_IMAGES,
    POOL_IMAGES,
    TEN_CLASSES,
    run_tiny,
    tiny_model,
    tiny_recipe,
    tiny_streams,
)

from semigrid.data.schema import Dataset
from semigrid.data.storage import open_storage
from semigrid.grid.experiment.bill import bill, show_bill, show_hours
from semigrid.grid.run.dispatch import trial_job
from semigrid.grid.run.work import do_job
from semigrid.grid.status.cost import ASSUMED_GPU, estimate, spent, total
from semigrid.grid.study.ledger import Ledger, Record
from semigrid.grid.study.state import Job, StudyState
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.progress import (
    WRITE_SECONDS_VARIABLE,
    Meter,
    held_devices,
    read_progress,
)
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.layout import PROGRESS
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.loop.train import train
from semigrid.trainers.loop.training import Training
from semigrid.trainers.methods import resolve
from semigrid.trainers.options import TrainOptions
from semigrid.trainers.trial.job import JobKind, TrialJob


def state_of(text: str, records: dict[str, Record]) -> StudyState:
    return study_of(plan_of(text), records, lambda record: record.id in records)


def timed(records: dict[str, Record], seconds: float, kind: str = "cpu") -> dict[str, Record]:
    """The records as if every forward of an image had taken so long."""
    for record in records.values():
        record.device_seconds = {kind: seconds * record.spec.forwards}
        record.history = [evaluation(record.spec.recipe.total_steps)]
    return records


def evaluation(step: int) -> dict[str, float]:
    scores = alike({f"{name}_{of}": 20.0 for name in ("student", "ema") for of in ("acc1", "ce")})
    return {"step": step, **scores}


# Counting.


def test_a_meter_counts_devices_times_seconds_over_all_attempts(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    first = Meter(storage, {"cpu": 4}, {"cpu": 10})
    time.sleep(0.05)
    first.note({"step": 3})
    left_behind = read_progress(storage)
    assert left_behind["step"] == 3 and left_behind["held"] == {"cpu": 4}
    assert 10.2 <= left_behind["device_seconds"]["cpu"] < 12
    # killed here: the next attempt counts on from what the first one wrote down
    second = Meter(storage, {"NVIDIA L4": 1}, {"cpu": 10})
    assert second.spent()["cpu"] == left_behind["device_seconds"]["cpu"]
    assert 0 <= second.spent()["NVIDIA L4"] < 1


def test_progress_is_written_seldom_and_reported_always(tmp_path: Path) -> None:
    meter = Meter(open_storage(tmp_path), {"cpu": 1})
    reports = [meter.note({"step": step}) for step in range(5)]
    assert [r["step"] for r in reports] == [0, 1, 2, 3, 4]
    assert all("device_seconds" in r for r in reports)
    assert read_progress(open_storage(tmp_path))["step"] == 0


def test_steps_that_a_kill_made_a_training_repeat_are_counted(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WRITE_SECONDS_VARIABLE, "0")
    storage, recipe = open_storage(tmp_path), tiny_recipe("finetune")

    class Killed(Exception):
        pass

    def attempt(dies_after: int | None) -> Meter:
        """Eight steps, a checkpoint after every other one."""
        checkpoints = Checkpoints(storage)
        meter = Meter(storage, {"cpu": 1})

        class Mortal(Runtime):
            def stepped(self, step: int) -> None:
                super().stepped(step)
                if step == dies_after:
                    raise Killed

        runtime = Mortal(checkpoints, device="cpu", meter=meter)
        streams = tiny_streams(digits, recipe, "finetune")
        model = tiny_model(recipe)
        with contextlib.suppress(Killed):
            train(
                Training(
                    recipe,
                    "finetune",
                    model,
                    None,
                    streams,
                    runtime,
                    class_shares=TEN_CLASSES,
                    seed=0,
                )
            )
        return meter

    for dies_after in (1, 5, 5):
        attempt(dies_after)
    meter = attempt(None)
    # one step lost, then one, then one: it came to 0, 4 and 4 again
    assert meter.starts == [0, 0, 4, 4]
    assert meter.steps_run == 8 + 3


def test_an_attempt_that_wrote_little_down_came_to_its_checkpoint(tmp_path: Path) -> None:
    first = Meter(open_storage(tmp_path), {"cpu": 1})
    first.begin(0)
    first.step(50)  # the next line is due in ten seconds: it is killed before
    second = Meter(open_storage(tmp_path), {"cpu": 1})
    second.begin(40)
    second.step(100)
    assert second.starts == [0, 40]
    assert second.steps_run == 100


def test_an_attempt_that_was_killed_before_its_first_step_made_none(tmp_path: Path) -> None:
    first = Meter(open_storage(tmp_path), {"cpu": 1})
    first.begin(0)
    first.step(40)
    first.write()
    Meter(open_storage(tmp_path), {"cpu": 1}).note({"step": 0})  # it said that it is there, no more
    third = Meter(open_storage(tmp_path), {"cpu": 1})
    third.begin(40)
    third.step(100)
    assert third.starts == [0, 40]
    assert third.steps_run == 100


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_a_cut_progress_file_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / PROGRESS).write_bytes(content)
    assert read_progress(open_storage(tmp_path)) == {}


def test_what_workers_hold() -> None:
    def held(kinds: list[str], cpus: int, gpus: float) -> dict[str, float]:
        return held_devices(kinds, TrainOptions(cpus_per_worker=cpus, gpus_per_worker=gpus))

    assert held(["cpu", "cpu"], 3, 0) == {"cpu": 6}
    assert held(["NVIDIA A10G"] * 4, 8, 1) == {"NVIDIA A10G": 4}
    assert held(["NVIDIA A10G", "NVIDIA L4"], 8, 0.5) == {"NVIDIA A10G": 0.5, "NVIDIA L4": 0.5}


def job_of(tmp_path: Path, kind: JobKind = "train", **options: Any) -> TrialJob:
    plan = plan_of(experiment_text())
    search = plan.searches[0]
    return TrialJob(
        kind=kind,
        spec=plan.spec(search, {}, 0, None),
        cell=search.name,
        place=plan.place(search, str(tmp_path)),
        options=TrainOptions(cpus_per_worker=3, **options),
    )


def test_a_trial_and_its_measurement_record_what_they_took(tmp_path: Path) -> None:
    started = time.monotonic()
    reports: list[dict[str, Any]] = []
    do_job(job_of(tmp_path), reports.append, no_group)
    (trained,) = Ledger(open_storage(tmp_path)).read_all().values()
    do_job(job_of(tmp_path, "evaluate"), reports.append, no_group)
    elapsed = time.monotonic() - started
    (measured,) = Ledger(open_storage(tmp_path)).read_all().values()
    assert measured.test is not None
    # three cores were held all the time, also while it started and evaluated
    assert trained.seconds * 3 < trained.device_seconds["cpu"] < measured.device_seconds["cpu"]
    assert measured.device_seconds["cpu"] <= elapsed * 3
    assert all("device_seconds" in report for report in reports if "student_acc1" in report)
    # asked to train it once more (its weights are gone): what it took before still counts
    do_job(job_of(tmp_path), reports.append, no_group)
    (again,) = Ledger(open_storage(tmp_path)).read_all().values()
    assert again.device_seconds["cpu"] > measured.device_seconds["cpu"]


def test_a_group_pays_for_its_start_and_says_what_it_ran_on(tmp_path: Path) -> None:
    def group(job: TrialJob) -> Outcome:
        time.sleep(0.1)  # starting
        Meter(job.checkpoints, {"NVIDIA L4": 2}).note({"step": 0})
        raise RuntimeError("a worker broke")

    do_job(job_of(tmp_path, workers=2), lambda _: None, group)
    (failed,) = Ledger(open_storage(tmp_path)).read_all().values()
    assert failed.status == "failed"
    assert 0.2 <= failed.device_seconds["NVIDIA L4"] < 2


# Estimating.


def test_forwards_of_a_recipe() -> None:
    recipe = resolve(tiny_recipe("semi"), "semi", LABELED_IMAGES, POOL_IMAGES)
    # 8 steps of 4 labelled images (a forward, a backward that costs two) and 8 unlabelled ones
    # that pass the teacher too
    spec = plan_of(experiment_text()).spec(plan_of(experiment_text()).searches[-1], {}, 0, "p")
    semi = spec.model_copy(update={"recipe": recipe})
    assert semi.forwards == 8 * (4 * 3 + 8 * 4)
    assert semi.model_copy(update={"method": "finetune"}).forwards == 8 * 4 * 3


def test_the_estimate_is_what_the_rest_takes_at_the_pace_so_far() -> None:
    text = experiment_text(seeds=2)
    records, _, _ = ran(text, only=["*/vit/50%"])
    found = estimate(state_of(text, timed(records, 0.5)), count_flops=False)
    by_model = {each.model: each for each in found}
    vit = by_model["vit"]
    # of vit/100% all 4 trainings remain, 6 steps of 8 images each
    assert (vit.trainings, vit.basis) == (4, "from 4 finished trials")
    assert vit.device_seconds == pytest.approx({"cpu": 4 * 6 * 8 * 3 * 0.5})
    # none of the other model has finished, and FLOPs were not asked for
    semi = by_model["semi-vit"]
    assert (semi.trainings, semi.device_seconds) == (8, None)
    assert total(found) == vit.device_seconds


def test_trials_of_other_recipes_of_the_same_model_teach_too() -> None:
    records, _, _ = ran(experiment_text())
    text = changed("models.vit.recipe.steps", 12)
    found = estimate(state_of(text, timed(records, 0.5)), count_flops=False)[0]
    assert found.basis == "from 6 finished trials"
    assert found.device_seconds == pytest.approx({"cpu": 6 * 12 * 8 * 3 * 0.5})


def test_trials_on_cpus_say_nothing_of_gpus_and_of_larger_images() -> None:
    records, _, _ = ran(experiment_text())
    timed(records, 0.5)
    for key, value in [("train.gpus_per_worker", 1), ("models.vit.recipe.img_size", 32)]:
        text = changed(key, value).replace("trials: 3", "trials: 4")
        assert estimate(state_of(text, records), count_flops=False)[0].device_seconds is None


def test_one_trial_that_was_trained_twice_does_not_spoil_the_pace() -> None:
    text = experiment_text(search={"trials": 4, "wave": 2})
    records = timed(ran(experiment_text())[0], 0.5)
    vit = [r for r in records.values() if r.spec.method == "finetune"]
    vit[0].device_seconds = {"cpu": 1e6}
    found = estimate(state_of(text, records), count_flops=False)[0]
    assert found.device_seconds == pytest.approx({"cpu": 2 * 6 * 8 * 3 * 0.5})


def test_what_teachers_answer_counts_in_the_pace_and_in_what_is_left() -> None:
    grid = [{"model": name, "labels": ["50%"]} for name in ("vit", "small")]
    text = distill_text("vit", grid=grid)
    records = timed(ran(text)[0], 0.5)
    [vit] = [record for record in records.values() if record.cell == VIT]
    records = {vit.id: vit}
    asked = estimate(state_of(text, records), count_flops=False)
    student, teacher = sorted(asked, key=lambda each: each.model)
    assert (teacher.model, teacher.trainings, teacher.device_seconds) == ("vit", 0, {"cpu": 150.0})
    assert (student.model, student.trainings, student.device_seconds) == ("small", 1, None)
    # once it has answered, the pace of a forward is still the same
    vit.soft_targets, vit.device_seconds = 300, {"cpu": vit.device_seconds["cpu"] + 150}
    grid[0]["labels"].append("100%")
    more = estimate(state_of(distill_text("vit", grid=grid), records), count_flops=False)[-1]
    assert (more.model, more.trainings) == ("vit", 1)
    assert more.device_seconds == {"cpu": 0.5 * vit.spec.forwards}


def test_early_stopping_costs_what_it_cost_so_far() -> None:
    text = experiment_text(search={"trials": 6, "wave": 2, "early_stopping": True})
    records = timed(ran(experiment_text())[0], 0.5)
    halves = [r for r in records.values() if r.spec.method == "finetune"][::2]
    for record in halves:  # stopped half way, for half the price
        record.status, record.history = "stopped", [evaluation(3)]
        record.device_seconds = {"cpu": 0.25 * 6 * 8 * 3}
    study = state_of(text, records)
    left = sum(study.trainings_left(f"digits/vit/{share}") for share in ("50%", "100%"))
    found = estimate(study, count_flops=False)[0]
    assert found.device_seconds == pytest.approx({"cpu": left * 0.75 * 6 * 8 * 3 * 0.5})


@pytest.mark.parametrize(("gpus", "kind"), [(0, "cpu"), (1, ASSUMED_GPU)])
def test_without_a_trial_it_is_counted_from_flops_and_says_so(gpus: float, kind: str) -> None:
    text = experiment_text(train={"gpus_per_worker": gpus})
    found = estimate(state_of(text, {}), count_flops=True)
    assert [each.model for each in found] == ["vit", "semi-vit"]
    for each in found:
        assert each.basis == "from FLOPs, within a factor of 3 or so"
        assert each.device_seconds is not None and list(each.device_seconds) == [kind]
        assert each.device_seconds[kind] > 0


def test_flops_of_vit_base_take_what_is_known_of_it() -> None:
    # ViT-B/16 at 224 pixels: 17.5 GFLOP multiply-adds counted once, 35 here; 100 steps of 1,024
    # images, forward and backward, at 30 % of 70 TFLOP/s
    text = changed("models.vit.backbone", "vit_base_patch16_224").replace(
        "img_size: 16", "img_size: 224"
    )
    text = text.replace("patch_size: 4", "patch_size: 16").replace(
        "embed_dim: 16", "embed_dim: 768"
    )
    text = text.replace("depth: 1", "depth: 12").replace("num_heads: 2", "num_heads: 12")
    text = text.replace("steps: 6", "steps: 100").replace("batch_size: 8", "batch_size: 1024")
    text = text + "train: {gpus_per_worker: 1, precision: bf16}\n"
    found = estimate(state_of(text, {}), count_flops=True)[0]
    expected = 6 * 100 * 1024 * 3 * 35.1e9 / (0.3 * 70e12)
    assert found.device_seconds == pytest.approx({ASSUMED_GPU: expected}, rel=0.03)


# Showing.


def test_prices_are_per_device_hour_and_what_has_none_is_named() -> None:
    hours = {"NVIDIA A10G": 2 * 3600.0, "cpu": 1800.0}
    found = bill(hours, {"NVIDIA A10G": 1.2})
    assert found.price == pytest.approx(2.4) and found.unpriced == ["cpu"]
    assert show_bill(hours, {"NVIDIA A10G": 1.2, "cpu": 0.04}) == (
        "2.0 h of NVIDIA A10G, 30.0 min of CPU cores, price 2.42"
    )
    assert show_bill(hours, {"NVIDIA A10G": 1.2}).endswith("price 2.40 without cpu")
    assert show_bill(hours, {}) == "2.0 h of NVIDIA A10G, 30.0 min of CPU cores"


def test_hours_as_people_read_them() -> None:
    assert [show_hours(s) for s in (12, 90, 5400, 3.6e6)] == ["12 s", "1.5 min", "1.5 h", "1,000 h"]


def test_all_that_the_ledger_has_was_spent() -> None:
    records = timed(ran(experiment_text())[0], 0.5)
    study = state_of(experiment_text(), records)
    assert spent(study)["cpu"] == sum(r.device_seconds["cpu"] for r in records.values())


def test_records_of_before_there_were_device_seconds_teach_nothing() -> None:
    records = timed(ran(experiment_text())[0], 0.5)
    for trial_id, record in records.items():
        records[trial_id] = record.model_copy(update={"device_seconds": {}})
    text = experiment_text(search={"trials": 4, "wave": 2})
    for each in estimate(state_of(text, records), count_flops=False):
        assert each.trainings and each.device_seconds is None


# A training says where it stands.


def test_a_thousand_trainings_report_no_more_than_a_driver_can_take(tmp_path: Path) -> None:
    plan, storage = plan_of(experiment_text()), open_storage(tmp_path)
    job = Job("train", plan.spec(plan.searches[0], {}, 0, None), plan.searches[0])
    seconds = [trial_job(plan, job, storage, running).report_seconds for running in range(1000)]
    assert seconds[0] == seconds[99] == 2  # as long as they are few, a live view is lively
    assert sum(1 / s for s in seconds) < 200


def test_a_training_reports_its_loss_between_evaluations(digits: Dataset, tmp_path: Path) -> None:
    recipe = tiny_recipe("semi")
    seen: list[dict[str, Any]] = []
    from tests.helpers.tiny import tiny_model, tiny_streams

    train(
        Training(
            recipe,
            "semi",
            tiny_model(recipe),
            None,
            tiny_streams(digits, recipe, "semi"),
            Runtime(Checkpoints(open_storage(tmp_path)), report=seen.append, device="cpu"),
            class_shares=TEN_CLASSES,
            seed=0,
        ),
        report_seconds=0,
    )
    between = [facts for facts in seen if "student_acc1" not in facts]
    assert [facts["step"] for facts in between] == list(range(1, 9))
    assert all(facts["loss"] > 0 for facts in between)
    quiet = run_tiny(digits, "semi", recipe, Checkpoints(open_storage(tmp_path / "quiet")))
    told = [facts["loss"] for facts in seen if "student_acc1" in facts]
    assert told == [record["loss"] for record in quiet.history]  # looking changes nothing
