"""Grids that end early, as their users meet it: killed, interrupted, failed, collapsed, stopped."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tests.helpers.experiments import SMALL, changed, experiment_text, pair_text, plan_of
from tests.helpers.in_process import Grid
from tests.helpers.runs import finish, numbers, records, semigrid

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings


def spent_by_running(folder: Path) -> dict[str, dict[str, float]]:
    """Device-seconds of each running trial that has reported them, from the run's snapshot."""
    try:
        running = json.loads((folder / "live.json").read_text())["running"]
    except OSError:  # not there yet
        return {}
    return {trial["trial"]: trial["device_seconds"] for trial in running if trial["device_seconds"]}


def test_killed_and_run_again_gives_the_same_numbers(cluster: None, tmp_path: Path) -> None:
    models = copy.deepcopy(SMALL["models"])
    models["vit"]["recipe"]["steps"] = 400
    text = experiment_text(
        name="long",
        models=models,
        grid=[{"model": "vit", "labels": ["50%"]}],
        search={"trials": 3, "wave": 3},
        train={"checkpoint_seconds": 0.1, "loader_workers": 1},
    )
    file = tmp_path / "long.yaml"
    file.write_text(text)
    whole = Grid(plan_of(text), tmp_path / "whole").run()
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


def test_a_run_tells_what_it_spends_and_an_interrupt_how_to_go_on(
    cluster: None, tmp_path: Path
) -> None:
    models = copy.deepcopy(SMALL["models"])
    models["vit"]["recipe"].update(steps=5000, evaluations=100)
    file, spent = tmp_path / "small.yaml", {}
    file.write_text(experiment_text(models=models))
    process = semigrid("run", str(file), "--storage", str(tmp_path))
    deadline = time.monotonic() + 200
    while not spent and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
        spent = spent_by_running(tmp_path / "small")
    process.send_signal(signal.SIGINT)
    _, err = finish(process, code=130)
    assert spent and all(seconds["cpu"] > 0 for seconds in spent.values())
    assert "interrupted" in err and "To resume: semigrid run" in err
    assert "Traceback" not in err


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


LOST_INTERRUPT = """
import sys, threading, time
from rich.console import Console
from semigrid.grid.commands.context import load, open_study
from semigrid.grid.study.scheduler import Scheduler
from semigrid.grid.status.live import LiveView
from semigrid.grid.run.tune import run_plan
from semigrid.grid.trackers.tracker import Trackers

study = open_study(load(sys.argv[1], sys.argv[2]))
stop = threading.Event()
def ask():
    while not study.ledger.read_all():
        time.sleep(0.1)
    stop.set()
threading.Thread(target=ask, daemon=True).start()
try:
    scheduler = Scheduler(study.state, study.rules)
    with LiveView(Console(stderr=True), study.state, study.ledger.storage) as view:
        run_plan(scheduler, study.ledger, view, stop, Trackers({}, {}, print))
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
    file = tmp_path / "pair.yaml"
    content = yaml.safe_load(pair_text(steps=40, warmup_steps=2, base_lr=1.0))
    hopeless = {"finetune": {"base_lr": [1e-6, 2e-6]}}  # all but the first trial, the recipe
    content["search"] = {"trials": 2, "wave": 2, "early_stopping": True, "space": hopeless}
    file.write_text(yaml.safe_dump(content))
    finish(semigrid("run", str(file), "--storage", str(tmp_path)))
    found = [r.status for r in records(tmp_path / "small").values()]
    assert sorted(found) == ["finished", "stopped"]
    assert free_cpus(10) == 2
    groups = ray.util.placement_group_table().values()
    assert groups and {group["state"] for group in groups} == {"REMOVED"}
