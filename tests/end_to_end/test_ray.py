"""What only Ray can show: the stream, worker groups, and the grid as its users run it.

One small cluster serves all of them, but for a run that starts a Ray of its own.
"""

import copy
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from tests.helpers.experiments import SMALL, changed, experiment_text, plan_of
from tests.helpers.in_process import Grid
from tests.helpers.runs import finish, numbers, records, semigrid
from tests.helpers.scheduling import scheduler_of

from semigrid.data.batches import MemoryBatches
from semigrid.data.builder.write import StoredImage, write_dataset
from semigrid.data.order import Share, StreamOrder
from semigrid.data.schema import Dataset
from semigrid.data.splits import seeded_order
from semigrid.data.storage import open_storage
from semigrid.data.views.render import Batch
from semigrid.grid.study.ledger import Record
from semigrid.trainers.cluster.ray_nodes import NODE_ID, has_room, keep_free, kept_free
from semigrid.trainers.evaluation.predictions import decode_predictions
from semigrid.trainers.layout import predictions_file
from semigrid.trainers.trial.data import pool_units, view_settings
from semigrid.trainers.trial.fence import begin_attempt
from semigrid.trainers.trial.job import TrialJob, TrialResult

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings


def this_node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def streams(digits: Dataset, share: Share, rows: int = 700) -> tuple[Any, MemoryBatches]:
    """The Ray and the in-memory stream over the same order; the last row group is cut."""
    from tests.helpers.tiny import tiny_recipe

    from semigrid.data.stream import RayBatches

    settings = view_settings(
        tiny_recipe("semi", color_jitter=0.4, erase_prob=0.5), ((0.5,) * 3, (0.5,) * 3)
    )
    units = pool_units(digits, rows)
    order = StreamOrder([unit.rows for unit in units], seed=5)
    views = ("weak", "strong")
    return (
        RayBatches(digits.storage, units, order, share, settings, views, seed=5),
        MemoryBatches(digits.read("pool"), order, share, settings, views, seed=5),
    )


def assert_same(found: Batch, expected: Batch) -> None:
    assert found.ids == expected.ids
    assert torch.equal(found.erase_seeds, expected.erase_seeds)
    assert torch.equal(found.labels, expected.labels)
    for view in ("weak", "strong"):
        assert torch.equal(found.views[view], expected.views[view])


@pytest.mark.parametrize(("rank", "world_size", "start"), [(0, 1, 0), (1, 2, 0), (0, 1, 17)])
def test_the_ray_stream_equals_the_in_memory_one(
    cluster: None, digits: Dataset, rank: int, world_size: int, start: int
) -> None:
    # 700 rows at 96 a step: batches straddle row groups, and 20 steps more than two passes
    by_ray, in_memory = streams(digits, Share(96, rank, world_size))
    if start:
        by_ray.nodes = lambda: {NODE_ID: "!in(another)"}
    batches = list(by_ray(start, 20))
    assert len(batches) == 20 - start
    for step, batch in enumerate(batches, start):
        assert_same(batch, in_memory[step])


def test_a_stream_that_met_an_unfit_node_goes_on_where_it_stood(
    cluster: None, digits: Dataset, tmp_path: Path
) -> None:
    by_ray, in_memory = streams(digits, Share(96))
    copy = tmp_path / "digits"
    for file in [shard.file for shard in digits.manifest.shards]:
        open_storage(copy).write(file, digits.storage.read(file))
    by_ray.storage = open_storage(copy)
    shards = sorted(copy.glob("pool*"))
    asked: list[int] = []

    def nodes() -> dict[str, str] | None:
        """After the first failure the node that lacks the dataset is known."""
        asked.append(1)
        if len(asked) == 3:
            for shard in shards:
                shard.with_suffix(".gone").rename(shard)
        return {NODE_ID: "!in(another)"} if len(asked) > 2 else None

    by_ray.nodes = nodes
    found = iter(by_ray(3, 6))
    for shard in shards:
        shard.rename(shard.with_suffix(".gone"))
    for step, batch in enumerate(found, 3):
        assert_same(batch, in_memory[step])
    assert step == 5 and len(asked) == 4
    by_ray.storage = open_storage(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        list(by_ray(3, 6))


@pytest.fixture
def spoiled(tmp_path: Path) -> Dataset:
    """A pool of three row groups of ten images with five broken ones, four of them in a row."""
    image = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(image, "png")
    rows = [StoredImage(f"{i:02d}", image.getvalue(), None, "pool", str(i)) for i in range(30)]
    rows += [StoredImage(s, image.getvalue(), 0, s, s) for s in ("train", "val", "test")]
    order = seeded_order([row.image_id for row in rows[:30]], 0)
    for place in (0, 13, 14, 15, 16):
        rows[order[place]] = replace(rows[order[place]], image=b"no image")
    where = str(tmp_path / "set")
    return write_dataset(
        where, rows, name="", classes=["a"], license="", source="", rows_per_group=10
    )


def test_broken_rows_are_replaced_and_listed_as_in_memory(cluster: None, spoiled: Dataset) -> None:
    by_ray, in_memory = streams(spoiled, Share(6), rows=30)
    broken = 0
    for step, batch in enumerate(by_ray(2, 10), 2):
        assert_same(batch, in_memory[step])
        assert batch.broken == in_memory[step].broken
        broken += len(batch.broken)
    assert broken >= 5


def test_ranks_stream_side_by_side_also_where_a_task_has_no_row_for_them(
    cluster: None, spoiled: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semigrid.data import stream

    monkeypatch.setattr(stream, "TASK_BYTES", 1)  # a task is ten rows, and a rank's share thirty
    ranks = [streams(spoiled, Share(60, rank, 2), rows=30) for rank in range(2)]
    batches = zip(*(by_ray(0, 3) for by_ray, _ in ranks), strict=True)
    for step, found in enumerate(batches):
        for batch, (_, in_memory) in zip(found, ranks, strict=True):
            assert_same(batch, in_memory[step])


def test_a_resume_reads_nothing_that_came_before_it(cluster: None, tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(image, "png")
    rows = [StoredImage(f"{i:02d}", image.getvalue(), None, "pool", str(i)) for i in range(30)]
    rows += [StoredImage(s, image.getvalue(), 0, s, s) for s in ("train", "val", "test")]
    size = {"rows_per_group": 10, "groups_per_shard": 1}
    where = str(tmp_path / "set")
    dataset = write_dataset(where, rows, name="", classes=["a"], license="", source="", **size)
    by_ray, in_memory = streams(dataset, Share(5), rows=30)
    expected = [in_memory[step] for step in range(2, 6)]
    read_first = by_ray.units[by_ray.order.span_at(0).unit].file
    (tmp_path / "set" / read_first).unlink()  # steps 0 and 1 are its rows
    for batch, as_before in zip(by_ray(2, 6), expected, strict=True):
        assert_same(batch, as_before)
    with pytest.raises(FileNotFoundError):
        next(by_ray(0, 6))


def test_a_long_run_is_several_executions_and_the_same_batches(
    cluster: None, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semigrid.data import stream

    monkeypatch.setattr(stream, "MAX_TASKS", 2)
    monkeypatch.setattr(stream, "TASK_BYTES", 300_000)  # three spans of 64 digits
    by_ray, in_memory = streams(digits, Share(96))
    for step, batch in enumerate(by_ray(1, 14), 1):  # 1,248 rows of 64 a span
        assert_same(batch, in_memory[step])


def test_predictions_are_the_evaluations_and_go_on_where_they_were_stopped(
    cluster: None, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semigrid.grid.commands import predict as command
    from semigrid.grid.predict import inference

    # digits are few: cut them into several tasks, of several blocks each
    monkeypatch.setattr(inference, "TASK_IMAGES", 128)
    monkeypatch.setattr(inference, "BLOCK_BYTES", 64 * 3 * 16**2)
    text = experiment_text(grid=[{"model": "vit", "labels": ["100%"]}], search={"trials": 1})
    text += f"storage: {tmp_path}\n"
    file = tmp_path / "small.yaml"
    file.write_text(text)
    in_process(text, tmp_path / "small")

    def predict(*sources: str, output: str, **changes: Any) -> dict[str, Any]:
        where = tmp_path / output
        options: dict[str, Any] = {"threshold": 0.1, "workers": 2, "as_json": True, **changes}
        command.predict(str(file), "digits/vit/100%", list(sources), str(where), **options)
        found: dict[str, Any] = json.loads((where / "predictions.json").read_text())
        return found

    summary = predict("builtin://digits", output="whole")
    assert summary["counts"]["images"] == 1797 and summary["calibration"]["images"] == 151
    table = pd.read_parquet(tmp_path / "whole/parts").set_index("image_id")
    measured = decode_predictions(
        (tmp_path / "small" / predictions_file(summary["trial"])).read_bytes()
    )
    found = np.stack(table.loc[measured.ids, "probabilities"].to_list())
    assert np.array_equal(found, measured.probabilities)

    # interrupted when two of four parts were there: the same command makes the others
    parts = tmp_path / "whole/parts"
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in parts.iterdir()}
    known = {key: summary[key] for key in ("request", "calibration")}
    (tmp_path / "whole/started.json").write_text(json.dumps(known))
    for name in ("parts/test-000000.parquet", "parts/pool-000000.parquet", "predictions.json"):
        (tmp_path / "whole" / name).unlink()
    assert predict("builtin://digits", output="whole") == summary
    assert {path.name: path.read_bytes() for path in parts.iterdir()} == {
        name: content for name, (content, _) in before.items()
    }
    kept = [p.name for p in parts.iterdir() if p.stat().st_mtime_ns == before[p.name][1]]
    assert sorted(kept) == ["train-000000.parquet", "val-000000.parquet"]

    # files, one of which is no image; the same images have the same probabilities
    (tmp_path / "photos").mkdir()
    test = digits.read("test")
    for image_id, image in zip(test.ids, test.images, strict=True):
        (tmp_path / "photos" / f"{image_id}.png").write_bytes(image)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    summary = predict(str(tmp_path / "photos"), output="files", threshold=None, accuracy="5%")
    counts = summary["counts"]
    assert (counts["images"], counts["predicted"], counts["errors"]) == (201, 200, 1)
    assert summary["first_error"] == {"image_id": "broken.jpg", "error": "not an image"}
    table = pd.read_parquet(tmp_path / "files/parts").set_index("image_id")
    assert table.loc["broken.jpg"].drop("error").isna().all()
    found = np.stack(table.loc[[f"{i}.png" for i in measured.ids], "probabilities"].to_list())
    assert found == pytest.approx(measured.probabilities, abs=1e-7)


def in_process(text: str, folder: Path) -> Grid:
    """The experiment, run here and without Ray."""
    return Grid(plan_of(text), folder).run()


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str, str]:
    """The small experiment, run whole: file, storage, what it printed on stdout and stderr."""
    folder = tmp_path_factory.mktemp("run")
    file = folder / "small.yaml"
    file.write_text(experiment_text(search={"trials": 2}))
    where = ("--storage", str(folder / "results"))
    out, err = finish(semigrid("run", str(file), *where, own_ray=True))
    return file, folder / "results", out, err


def test_the_grid_runs_from_file_to_table(finished_run: tuple[Path, Path, str, str]) -> None:
    file, storage, out, err = finished_run
    assert sum(line.startswith(" semi-vit") for line in out.splitlines()) == 2 and "—" in out
    assert "digits: " in out  # the answer, below the table
    assert f"report: {storage}/small/report.html" in out
    assert (storage / "small/report.html").read_text().startswith("<!doctype html>")
    assert "4 of 4 cells finished" in err
    # Ray's own chatter goes to its log files
    assert not any(word in err.lower() for word in ("raylet", "warning", "pid=", "traceback"))
    found = records(storage / "small")
    assert len(found) == 8 and {r.status for r in found.values()} == {"finished"}
    assert sum(r.test is not None for r in found.values()) == 4
    # winners keep their weights and predictions, losers and checkpoints are gone
    assert len(list((storage / "small/weights").iterdir())) == 4
    assert len(list((storage / "small/predictions").iterdir())) == 4
    assert list((storage / "small/checkpoints").iterdir()) == []
    assert all(r.device_seconds["cpu"] > r.seconds > 0 for r in found.values())
    assert not (storage / "small/live.json").exists()


def test_the_same_command_again_trains_nothing_and_starts_no_ray(
    finished_run: tuple[Path, Path, str, str],
) -> None:
    file, storage, out, _ = finished_run
    again, err = finish(semigrid("run", str(file), "--storage", str(storage)))
    assert again == out and "nothing to train" in err
    # a finished folder may be named instead of the file
    assert finish(semigrid("run", str(storage / "small")))[0] == out
    status = json.loads(finish(semigrid("status", str(storage / "small"), "--json"))[0])
    assert {cell["state"] for cell in status["cells"].values()} == {"finished"}


def test_a_new_fraction_trains_only_the_new_cells(
    cluster: None, finished_run: tuple[Path, Path, str, str], tmp_path: Path
) -> None:
    _, storage, _, _ = finished_run
    before = numbers(storage / "small")
    file = tmp_path / "more.yaml"
    content = yaml.safe_load(changed("grid.0.labels", ["25%", "50%", "100%"]))
    file.write_text(yaml.safe_dump({**content, "search": {"trials": 2}}))
    _, err = finish(semigrid("run", str(file), "--storage", str(storage)))
    after = numbers(storage / "small")
    assert before.items() <= after.items()
    assert {r[1] for i, r in after.items() if i not in before} == {"digits/vit/25%"}
    assert "trained 2 trials, evaluated 1 on test" in err


def test_killed_and_run_again_gives_the_same_numbers(cluster: None, tmp_path: Path) -> None:
    models = copy.deepcopy(SMALL["models"])
    models["vit"]["recipe"]["steps"] = 400
    text = experiment_text(
        name="long",
        models=models,
        grid=[{"model": "vit", "labels": ["50%"]}],
        search={"trials": 3, "wave": 3},
        train={"checkpoint_steps": 20},
    )
    file = tmp_path / "long.yaml"
    file.write_text(text)
    whole = in_process(text, tmp_path / "whole")
    folder = tmp_path / "killed" / "long"
    # killed with its own Ray, once a trial is finished and another one has a checkpoint
    process = semigrid("run", str(file), "--storage", str(tmp_path / "killed"), own_ray=True)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        before = records(folder)
        going = {i for i, record in before.items() if record.status == "started"}
        saved = {path.parent.name for path in folder.glob("checkpoints/*/latest.pt")}
        if len(going) < len(before) and going & saved:
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finished = {i for i, record in records(folder).items() if record.status == "finished"}
    assert finished
    # taken over and ended on the cluster
    _, err = finish(semigrid("run", str(file), "--storage", str(tmp_path / "killed")))
    assert "taking its lock over" in err and str(process.pid) in err
    assert not (folder / "lock.json").exists()
    assert numbers(folder) == whole.numbers()
    after = records(folder)
    assert all(len(after[trial_id].starts) == 1 for trial_id in finished)
    resumed = [step for record in after.values() for step in record.resumed_at]
    assert resumed and all(0 < step < 400 for step in resumed)


def test_a_training_that_does_not_fit_the_machine_is_refused(cluster: None, tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(experiment_text(train={"cpus_per_worker": 4096}, storage=str(tmp_path)))
    _, err = finish(semigrid("run", str(file)), code=2)
    assert "4096 CPUs" in err and "Traceback" not in err


def test_an_address_where_no_cluster_answers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    file = tmp_path / "small.yaml"
    file.write_text(experiment_text())
    _, err = finish(semigrid("run", str(file), "--storage", str(tmp_path)), code=2)
    assert "RAY_ADDRESS=127.0.0.1:1: no Ray cluster answers there" in err
    assert "Traceback" not in err and "died" not in err


def test_an_interrupt_says_how_to_go_on(cluster: None, tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(changed("models.vit.recipe.steps", 5000))
    process = semigrid("run", str(file), "--storage", str(tmp_path))
    deadline = time.monotonic() + 200
    while not records(tmp_path / "small") and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = finish(process, code=130)
    assert "interrupted" in err and "To resume: semigrid run" in err
    assert "Traceback" not in err


def test_two_workers_give_the_numbers_of_one(cluster: None, tmp_path: Path) -> None:
    # 32-bit sums in another order are all that differs, and 20 steps do not blow that up
    text = changed("grid", [{"model": "semi-vit", "labels": ["50%"]}]).replace(
        "trials: 3", "trials: 1"
    )
    file = tmp_path / "two.yaml"
    file.write_text(text)
    one = in_process(text, tmp_path / "one").records
    finish(semigrid("run", str(file), "--storage", str(tmp_path / "two"), "--workers", "2"))
    two = records(tmp_path / "two/small")
    assert one.keys() == two.keys()
    for trial_id, record in one.items():
        other = two[trial_id]
        assert len(record.history) == 2
        for mine, theirs in zip(record.history, other.history, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-4)
        assert (record.test is None) == (other.test is None)
        if record.test is not None:
            assert record.test == pytest.approx(other.test, abs=1e-4)


def test_a_pool_streamed_from_a_relative_path_gives_the_numbers_of_one_in_memory(
    cluster: None, finished_run: tuple[Path, Path, str, str], tmp_path: Path, digits: Dataset
) -> None:
    # Ray's workers run in working directories of their own
    _, in_memory, _, _ = finished_run
    shutil.copytree(digits.storage.uri, tmp_path / "my-digits")
    text = experiment_text(
        datasets={"digits": "my-digits"},
        grid=[{"model": "semi-vit", "labels": ["50%"]}],
        search={"trials": 1},
        train={"stream": "ray"},
    )
    (tmp_path / "small.yaml").write_text(text)
    finish(semigrid("run", "small.yaml", cwd=tmp_path))
    expected, streamed = numbers(in_memory / "small"), numbers(tmp_path / "results" / "small")
    assert {record[1] for record in streamed.values()} == {
        "digits/vit/50%", "digits/semi-vit/50%/100%"
    }  # fmt: skip
    for trial_id, (*training, _, best_step, weights, history) in streamed.items():
        # of more trials another may win, and only winners are measured on test
        *same, _, best, kind, course = expected[trial_id]
        assert (training, best_step, weights, history) == (same, best, kind, course)


def test_a_trial_that_fails_is_named_with_its_log_and_tried_again(
    cluster: None, tmp_path: Path
) -> None:
    file = tmp_path / "small.yaml"
    grid = [{"model": model, "labels": ["50%"]} for model in ("vit", "semi-vit")]
    file.write_text(experiment_text(search={"trials": 1}, grid=grid))
    # the winner's weights cannot be written where a file stands in the way
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "weights").write_text("in the way")
    out, err = finish(semigrid("run", str(file), "--storage", str(tmp_path)), code=1)
    assert "failed" in err and "blocked" in err and ".log" in err and "—" in out
    failed = next(r for r in records(tmp_path / "small").values() if r.status == "failed")
    assert failed.log is not None and "Traceback" in Path(failed.log).read_text()
    (tmp_path / "small" / "weights").unlink()
    finish(semigrid("run", str(file), "--storage", str(tmp_path)))
    assert {r.status for r in records(tmp_path / "small").values()} == {"finished"}


def test_a_collapsing_training_is_stopped_named_and_no_result(
    cluster: None, tmp_path: Path
) -> None:
    # λ_u absurd, τ = 0
    content = copy.deepcopy(SMALL)
    absurd = {"unlabeled_loss_weight": 1000, "confidence_threshold": 0, "collapse_evaluations": 3}
    absurd |= {"steps": 40, "warmup_steps": 2, "evaluations": 8, "base_lr": 3}
    content["models"]["semi-vit"]["recipe"] |= absurd
    content["models"]["vit"]["train"] = {"workers": 1}  # it is only where the other starts
    content["grid"] = [{"model": "semi-vit", "labels": ["100%"]}]
    content |= {"search": {"trials": 1}, "train": {"workers": 2}}
    file = tmp_path / "collapse.yaml"
    file.write_text(yaml.safe_dump(content))
    out, err = finish(semigrid("run", str(file), "--storage", str(tmp_path)), code=1)
    assert "every trial diverged or collapsed" in err and "the teacher has collapsed" in err
    assert "1 (1 collapsed)" in out and "—" in out
    found = {r.cell: r for r in records(tmp_path / "small").values()}
    collapsed = found["digits/semi-vit/100%/100%"]
    assert (collapsed.status, collapsed.test) == ("collapsed", None)
    assert "the teacher has collapsed" in collapsed.error
    assert collapsed.history[-1]["pseudo_entropy"] < 0.23  # its course is kept
    # it is an end, not an accident: the next run does not train it again
    _, err = finish(semigrid("run", str(file), "--storage", str(tmp_path)), code=1)
    assert "nothing to train" in err


def test_what_a_process_of_a_build_meets_is_said_as_it_is(cluster: None, tmp_path: Path) -> None:
    from semigrid.data.builder.chunks import Chunk
    from semigrid.data.builder.clean import CleanSettings
    from semigrid.data.builder.ingest_ray import in_processes

    (tmp_path / "file").write_text("no folder")
    chunk = Chunk(0, 0, (), str(tmp_path / "file" / "set"), 0, 1, CleanSettings())
    with pytest.raises(NotADirectoryError, match="file") as error:
        list(in_processes(2)([chunk]))
    assert type(error.value) is NotADirectoryError, "dressed up by Ray"


def test_two_processes_build_the_dataset_of_one(cluster: None, tmp_path: Path) -> None:
    from tests.helpers.shop import SETTINGS, shop

    from semigrid.data.builder.ingest import build_dataset
    from semigrid.data.builder.ingest_ray import in_processes
    from semigrid.data.sources.files import folder_items

    items = folder_items(str(shop(tmp_path / "shop")))
    alone, _ = build_dataset(str(tmp_path / "one"), items, SETTINGS)
    seen: list[int] = []
    together, _ = build_dataset(
        str(tmp_path / "two"),
        items,
        SETTINGS,
        workers=in_processes(2),
        progress=lambda done, total: seen.append(done),
    )
    assert together.manifest == alone.manifest
    assert seen[0] == 0 and seen[-1] == 60 and seen == sorted(seen)


LOST_INTERRUPT = """
import sys, threading, time
from rich.console import Console
from semigrid.grid.commands.context import load, open_study
from semigrid.grid.study.scheduler import Scheduler
from semigrid.grid.status.live import LiveView
from semigrid.grid.run.tune import run_plan

study = open_study(load(sys.argv[1], sys.argv[2]))
stop = threading.Event()
def ask():
    while not study.ledger.read_all():
        time.sleep(0.1)
    stop.set()
threading.Thread(target=ask, daemon=True).start()
try:
    scheduler, view = Scheduler(study.state, study.rules), LiveView(Console(stderr=True))
    run_plan(scheduler, study.ledger, view, stop)
except KeyboardInterrupt:
    sys.exit(77)
"""


def test_an_interrupt_that_a_callback_swallowed_still_stops_the_run(
    cluster: None, tmp_path: Path
) -> None:
    # a KeyboardInterrupt can be raised where someone's code drops it; the event cannot
    file = tmp_path / "small.yaml"
    file.write_text(changed("models.vit.recipe.steps", 5000))
    command = [sys.executable, "-c", LOST_INTERRUPT, str(file), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 77, done.stderr[-2000:]
    assert all(r.status != "failed" for r in records(tmp_path / "small").values())


def small_pair(folder: Path, **changes: Any) -> Path:
    """An experiment of one cell whose trainings take two workers."""
    content = copy.deepcopy(SMALL)
    content["models"]["vit"]["recipe"] |= {"steps": 300, "evaluations": 4, **changes}
    content["models"]["vit"]["train"] = {"workers": 2}
    content["grid"] = [{"model": "vit", "labels": ["100%"]}]
    content["train"] = {"checkpoint_steps": 20}
    content["search"] = {"trials": 1}
    file = folder / "pair.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def free_cpus(seconds: float) -> float:
    """What is free when all is, or after so long."""
    import ray

    deadline = time.monotonic() + seconds
    while (free := ray.available_resources().get("CPU", 0.0)) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    return float(free)


def test_a_stopped_trial_gives_its_cpus_back(cluster: None, tmp_path: Path) -> None:
    import ray

    # two CPUs have room for one group at a time: one that was not released ends it all
    file = small_pair(tmp_path, steps=40, warmup_steps=2, base_lr=1.0)
    content = yaml.safe_load(file.read_text())
    hopeless = {"finetune": {"base_lr": [1e-6, 2e-6]}}  # all but the first trial, the recipe
    content["search"] = {"trials": 2, "wave": 2, "early_stopping": True, "space": hopeless}
    file.write_text(yaml.safe_dump(content))
    finish(semigrid("run", str(file), "--storage", str(tmp_path)))
    found = [r.status for r in records(tmp_path / "small").values()]
    assert sorted(found) == ["finished", "stopped"]
    assert free_cpus(10) == 2
    groups = ray.util.placement_group_table().values()
    assert groups and {group["state"] for group in groups} == {"REMOVED"}


def group_job(folder: Path, max_failures: int) -> TrialJob:
    """A training on two workers."""
    from semigrid.grid.run.dispatch import trial_job

    plan = plan_of(small_pair(folder).read_text())
    job = next(scheduler_of(plan).ready())
    message = trial_job(plan, job, open_storage(folder / "small"))
    options = message.options.model_copy(update={"max_failures": max_failures})
    return message.model_copy(update={"options": options, "scratch": str(folder / "train")})


def do_with_group(folder: Path, job: TrialJob) -> tuple[Record, TrialResult]:
    """The record and the result after a group did the job, or could not."""
    from semigrid.grid.run.work import do_job
    from semigrid.trainers.ray_worker import run_group

    result = do_job(job, lambda _: None, run_group)
    (record,) = records(folder / "small").values()
    return record, result


def test_an_exception_of_a_workers_code_is_the_records_error(cluster: None, tmp_path: Path) -> None:
    job = group_job(tmp_path, max_failures=0)
    place = replace(job.place, dataset_uri=str(tmp_path / "nowhere"))
    record, _ = do_with_group(tmp_path, job.model_copy(update={"place": place}))
    assert record.status == "failed"
    assert record.error is not None and record.error.startswith("InputError")
    assert "nowhere" in record.error


def test_a_node_that_is_kept_free_is_given_no_work(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from semigrid.grid.run.tune import JobPlacement
    from semigrid.trainers import ray_worker

    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")
    monkeypatch.setattr(ray_worker, "ROOM_SECONDS", 1.0)
    assert kept_free() == [] and has_room(2, {"CPU": 1.0})
    request = JobPlacement([{"CPU": 1.0}])
    keep_free(["gone", this_node()])
    try:
        heard = ray.get(ray.remote(num_cpus=0)(kept_free).remote())
        assert heard == ["gone", this_node()], "another process does not know it"
        assert not has_room(1, {"CPU": 1.0})
        group = request.to_placement_group()
        assert not group.wait(3)
        ray.util.remove_placement_group(group)
        # a worker group goes back to be scheduled anew: no failure of its training
        job = group_job(tmp_path, max_failures=1)
        token = begin_attempt(open_storage(tmp_path / "small"), job.spec.id)
        place = replace(job.place, attempt=(job.spec.id, token))
        record, result = do_with_group(tmp_path, job.model_copy(update={"place": place}))
        assert record.status == "started"
        assert result.failure is not None and result.failure.kind == "no_room"
        assert "no room for 2 ×" in result.failure.message
        keep_free(["gone"])
        group = request.to_placement_group()
        assert group.wait(10)
        ray.util.remove_placement_group(group)
    finally:
        keep_free([])


def test_a_group_without_room_gives_up_and_says_what_was_missing(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray.util import placement_group, remove_placement_group

    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")
    held = placement_group([{"CPU": 1}])
    ray.get(held.ready())
    try:
        record, _ = do_with_group(tmp_path, group_job(tmp_path, max_failures=1))
    finally:
        remove_placement_group(held)
    assert record.status == "failed" and record.error is not None
    assert "could not start, 2 times in a row" in record.error
    assert "2 × {'CPU': 1.0}" in record.error and "'CPU': 1.0} free" in record.error
