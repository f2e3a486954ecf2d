"""A run seen from elsewhere: snapshots, what is drawn from them, and following until the end."""

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType
from tests.helpers.command import semigrid
from tests.helpers.experiments import experiment_text, plan_of
from tests.helpers.finished import FinishedGrid
from tests.helpers.scheduling import scheduler_of, start_next
from tests.helpers.scores import alike

from semigrid.data.storage import Storage, open_storage
from semigrid.grid.report.page import report
from semigrid.grid.status import show, snapshot
from semigrid.grid.status.cost import Cost, Estimate
from semigrid.grid.status.live import LiveView
from semigrid.grid.status.snapshot import RunningTrial, Snapshot
from semigrid.grid.status.watch import follow
from semigrid.grid.study.layout import SNAPSHOT
from semigrid.grid.study.ledger import start_record
from semigrid.grid.study.lock import Holder, RunLock, holder_of
from semigrid.grid.study.scheduler import Scheduler
from semigrid.grid.tables.cells import cells_table, pool_notes
from semigrid.trainers.execution.progress import Meter


def printed(part: RenderableType, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(part)
    return console.export_text()


def quiet() -> Console:
    return Console(file=io.StringIO(), width=100)


def running(**facts: Any) -> RunningTrial:
    known = {"cell": "digits/vit/50%", "kind": "train", "trial": "0" * 20, "seed": 0}
    return RunningTrial(**{**known, "started_at": 100.0, **facts})


def leave(storage: Storage, found: Snapshot) -> None:
    storage.write(SNAPSHOT, found.model_dump_json().encode())


def dead_holder(folder: Path) -> Holder:
    """A process that held a lock on this machine, and is gone."""
    storage = open_storage(folder / "locked")
    storage.write("any", b"")
    with RunLock(storage, print, lambda: None):
        holder = holder_of(storage)
    assert holder is not None
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return holder.model_copy(update={"pid": gone.pid})


@pytest.fixture
def scheduler() -> Scheduler:
    return scheduler_of(plan_of(experiment_text(prices={"cpu": 0.04})))


def test_a_running_trial_says_how_far_it_is_and_how_long_it_takes() -> None:
    # 100 steps in 50 seconds, and 8 seconds since: 150 steps are 75 seconds away, less those 8
    facts = {"step": 100, "total_steps": 250, "loss": 0.12345, "images_per_s": 1234.5}
    shown = printed(show.running_table([running(heard_at=150.0, acc1=87.54, **facts)], now=158.0))
    head, more, *rows = shown.splitlines()
    assert head.split() == ["balanced"] and "Acc@1" in more
    row = rows[0].split()
    assert row == [
        "digits/vit/50%,",
        "seed",
        "0",
        "100/250",
        "0.123",
        "87.5",
        "1,234",
        "1:07",
        "0:08",
        "ago",
    ]


def test_the_accuracy_of_a_running_trial_is_the_one_that_chooses(tmp_path: Path) -> None:
    scores = {"student_acc1": 90.0, "ema_acc1": 70.0}
    scores |= {"student_acc1_natural": 50.0, "ema_acc1_natural": 60.0}
    for metric, expected in (("balanced", 90.0), ("natural", 60.0)):
        scheduler = scheduler_of(plan_of(experiment_text(search={"trials": 1, "metric": metric})))
        view, job = (
            LiveView(quiet(), scheduler.study, open_storage(tmp_path)),
            start_next(scheduler),
        )
        assert job is not None
        view.started(job)
        view.progress(job, scores)
        view.progress(job, {"step": 3})  # a report between evaluations keeps it
        found = Snapshot.model_validate_json(view.snapshot().model_dump_json())
        assert found.running[0].acc1 == expected
        head, more, row, *_ = printed(show.running_table(found.running, now=0.0)).splitlines()
        assert head.split()[-1] == metric and "Acc@1" in more and f"{expected}" in row


def test_controls_are_counted_by_themselves(tmp_path: Path) -> None:
    grid = FinishedGrid(tmp_path, controls=["compute"])
    for cell in ("vit/25%", "vit/50%", "semi-vit/25%/100%/compute"):
        grid.finish(f"digits/{cell}", 100)
    said = "2 of 8 cells and 1 of 3 controls finished"
    cells = snapshot.cells_progress(grid.scheduler().study)
    assert show.counts(cells) == said
    assert cells["digits/semi-vit/25%/100%/compute"].control == "compute"
    shown = semigrid("status", str(grid.file)).stdout
    assert f"\n{said}\ntrials: 3 finished\n" in shown
    assert f"{said} · made " in report(grid.results())
    assert f"small: {said}\n" in semigrid("plan", str(grid.file)).stdout
    facts = json.loads(semigrid("plan", str(grid.file), "--json").stdout)
    assert (facts["cells_finished"], facts["controls_finished"]) == (2, 1)
    only = {name: cell for name, cell in cells.items() if cell.control}
    assert show.counts(only) == "1 of 3 controls finished"


def test_a_trial_that_has_not_spoken_yet_and_a_measurement() -> None:
    rows = printed(show.running_table([running(), running(kind="evaluate", seed=1)], 200.0))
    assert re.search("seed 0 +starting", rows) and "digits/vit/50%, on test" in rows
    assert "ago" not in rows


def test_what_was_spent_and_is_left_with_prices_and_bases() -> None:
    cost = Cost(
        spent={"cpu": 7200.0},
        estimates=[
            Estimate("vit", 3, {"cpu": 3600.0}, "from 4 finished trials"),
            Estimate("resnet", 2, None, "no trial has finished yet"),
        ],
        prices={"cpu": 0.5},
    )
    table, spent = map(printed, show.cost_parts(cost))
    assert spent == "spent so far: 2.0 h of CPU cores, price 1.00\n"
    assert re.search(r"vit +3 +1.0 h CPU cores +0.50 +from 4 finished trials", table)
    assert re.search(r"resnet +2 +— +— +no trial has finished yet", table)
    assert re.search(r"in all +5 +1.0 h CPU cores +0.50 +without resnet", table)


def test_many_cells_fit_a_terminal_with_what_matters_first(scheduler: Scheduler) -> None:
    cells = {
        f"digits/vit/{n}%": snapshot.CellProgress(state=state, trials_done=1, trials=3)
        for n, state in enumerate(["finished"] * 30 + ["failed", "searching"])
    }
    shown = printed(show.cells_table(cells, rows=8))
    assert "digits/vit/30%" in shown and "digits/vit/31%" in shown
    assert "… and 25 finished" in shown
    assert printed(show.cells_table(cells)).count("digits/vit") == 32


def test_a_live_view_leaves_snapshots_and_takes_them_away(
    scheduler: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "WRITE_SECONDS", 0.05)
    storage = open_storage(tmp_path)
    job = start_next(scheduler)
    assert job is not None
    with RunLock(storage, print, lambda: None):
        view = LiveView(quiet(), scheduler.study, storage)
    with view:
        view.started(job)
        facts = {"step": 3, "total_steps": 6, "loss": 2.0, "device_seconds": {"cpu": 9.0}}
        view.progress(job, facts)
        found = until(lambda: read_running(storage, 3))
        assert found.cells["digits/vit/50%"].state == "searching"
        (trial,) = found.running
        assert trial.cell == job.search.name
        assert (trial.step, trial.total_steps, trial.loss) == (3, 6, 2.0)
        assert found.cost.spent == {"cpu": 9.0} and found.cost.prices == {"cpu": 0.04}
        assert 0 < found.share_done < 0.5
        assert found.holder is not None and found.holder.pid == os.getpid()
        assert not found.is_dead
    assert not (tmp_path / SNAPSHOT).exists()


def test_a_worker_groups_progress_comes_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "WRITE_SECONDS", 0.05)
    scheduler = scheduler_of(plan_of(experiment_text(train={"workers": 2})))
    storage = open_storage(tmp_path)
    view = LiveView(quiet(), scheduler.study, storage)
    job = start_next(scheduler)
    assert job is not None
    left_by_an_earlier_run = Meter(storage.folder("checkpoints", job.spec.id), {"cpu": 2})
    left_by_an_earlier_run.note({"step": 5, "total_steps": 6})
    with view:
        view.started(job)
        time.sleep(0.3)
        assert view.snapshot().running[0].step is None  # that was another attempt
        Meter(storage.folder("checkpoints", job.spec.id), {"cpu": 2}).note(
            {"step": 1, "total_steps": 6, "images_per_s": 7.0}
        )
        assert until(lambda: read_running(storage, 1)).running[0].images_per_s == 7.0


def test_a_view_that_cannot_write_stops_nothing(
    scheduler: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "WRITE_SECONDS", 0.02)
    (tmp_path / "file").write_text("in the way")
    view = LiveView(quiet(), scheduler.study, open_storage(tmp_path / "file"))
    with view:
        time.sleep(0.2)
        assert view._writer.is_alive()


def test_what_the_cluster_is_asked_for_is_shown_until_it_is_there(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    console = quiet()
    view = LiveView(console, scheduler.study, open_storage(tmp_path))
    view.activity = "waiting for machines with 1 × 8 CPUs"
    for machines in ("2 × g5", "1 × g5", ""):
        view.asked(machines)
        shown = printed(show.live(view.snapshot(), 0.0))
        assert "waiting for machines with 1 × 8 CPUs" in shown
        assert ("asked the cluster for" in shown) == bool(machines) and machines in shown
    view.asked("1 × g5")  # a node was lost
    assert isinstance(console.file, io.StringIO)  # a job's log has a line each time it begins
    said = console.file.getvalue().splitlines()
    assert said == ["asked the cluster for 2 × g5", "asked the cluster for 1 × g5"]


def test_an_event_is_a_line_however_narrow_the_log(scheduler: Scheduler, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=40)
    view = LiveView(console, scheduler.study, open_storage(tmp_path))
    job = start_next(scheduler)
    assert job is not None
    view.started(job)
    view.died(job)
    assert isinstance(console.file, io.StringIO)
    (line,) = console.file.getvalue().splitlines()
    assert line.endswith("a process died; its trial continues from its last checkpoint")


def read_running(storage: Storage, step: int) -> Snapshot | None:
    found = snapshot.read(storage)
    return found if found and [t.step for t in found.running] == [step] else None


def until(look: Any) -> Any:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        time.sleep(0.02)
    raise AssertionError("waited in vain")


# Following.


def test_nothing_to_follow(tmp_path: Path) -> None:
    console = quiet()
    assert follow(open_storage(tmp_path), console)
    assert "no run is at work here now" in console.file.getvalue()


def test_following_ends_with_the_run(scheduler: Scheduler, tmp_path: Path) -> None:
    storage, console = open_storage(tmp_path), quiet()
    leave(storage, snapshot.take(scheduler.study))
    ending = threading.Timer(0.2, lambda: storage.delete(SNAPSHOT))
    ending.start()
    assert follow(storage, console, seconds=0.05)
    ending.join()
    assert console.file.getvalue() == "0 of 4 cells finished\nthe run ended\n"


def test_a_terminal_shows_cells_trials_and_cost(scheduler: Scheduler, tmp_path: Path) -> None:
    found = snapshot.take(scheduler.study)
    found.running = [running(heard_at=150.0, step=1, total_steps=2)]
    found.written_at -= 2
    found.started_at, found.seconds_left = found.written_at - 58, 90.0
    shown = printed(show.watch(found, rows=40))
    for part in ("0 of 4 cells finished, 1:00, about 1:30 left", "digits/semi-vit/50%/100%",
                 "waiting", "1/2", "last sign of life 2 s ago"):  # fmt: skip
        assert part in shown


def test_a_run_that_died_is_told_from_one_that_is_silent(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    storage, console = open_storage(tmp_path), quiet()
    found = snapshot.take(scheduler.study)
    found.holder, found.written_at = dead_holder(tmp_path), time.time() - 3725
    leave(storage, found)
    assert not follow(storage, console, seconds=0.01)
    assert "is dead, last heard from 1:02:05 ago" in show.heard(found).plain
    # on another machine nobody can look for its process: it is silent
    found.holder.machine = "elsewhere"
    assert not found.is_dead
    assert "nothing heard from the run for 1:02:05" in show.heard(found).plain


def test_silence_is_counted_by_the_watchers_clock(scheduler: Scheduler) -> None:
    first, latest = snapshot.take(scheduler.study), snapshot.take(scheduler.study)
    first.written_at -= 3700
    latest.written_at -= 3600  # the clock of the run's machine
    assert latest.after(None).age > 3599
    assert latest.after(first).age < 1
    assert latest.after(latest) is latest
    assert "last sign of life 0 s ago" in show.heard(latest).plain


def test_a_running_trial_that_reported_no_cost_keeps_the_ledgers(scheduler: Scheduler) -> None:
    job = start_next(scheduler)
    record = start_record(job.spec, job.search.name)
    record.status, record.device_seconds = "finished", {"cpu": 7.0}
    record.val = alike({"acc1": 1.0, "ce": 1.0})
    scheduler.complete(job, record)
    cost = snapshot.take(scheduler.study, [running(trial=job.spec.id)]).cost
    assert cost.spent == {"cpu": 7.0}
    told = running(trial=job.spec.id, device_seconds={"cpu": 9.0})
    assert snapshot.take(scheduler.study, [told]).cost.spent == {"cpu": 9.0}


# The commands.


def test_status_as_json_has_cells_cost_and_the_run(scheduler: Scheduler, tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text(experiment_text(storage=str(tmp_path / "s"), prices={"cpu": 0.04}))
    facts = json.loads(semigrid("status", str(file), "--json").stdout)
    assert facts["run"] is None
    estimates = {each["model"]: each["device_seconds"] for each in facts["cost"]["models"]}
    assert estimates == {"vit": None, "semi-vit": None}
    found = snapshot.take(scheduler.study)
    found.running = [running(step=1, total_steps=6)]
    leave(open_storage(tmp_path / "s" / "small"), found)
    facts = json.loads(semigrid("status", str(file), "--json").stdout)
    assert facts["run"]["running"][0]["step"] == 1 and facts["run"]["dead"] is False
    assert facts["run"]["silent_seconds"] < 60
    assert facts["cells"]["digits/vit/50%"] == {
        "state": "searching", "trials_done": 0, "trials": 3, "failure": None, "pool_unused": False,
        "control": None,
    }  # fmt: skip
    assert re.search("seed 0 +1/6", semigrid("status", str(file)).stdout)


def test_watching_what_died_exits_with_1_and_what_never_ran_with_0(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    file = tmp_path / "good.yaml"
    file.write_text(experiment_text(storage=str(tmp_path / "s")))
    done = semigrid("status", str(file), "--watch")
    assert done.returncode == 0 and "no run is at work here now" in done.stdout
    found = snapshot.take(scheduler.study)
    found.holder = dead_holder(tmp_path)
    leave(open_storage(tmp_path / "s" / "small"), found)
    done = semigrid("status", str(file), "--watch")
    assert done.returncode == 1 and "is dead" in done.stdout
    assert semigrid("status", str(file), "--watch", "--json").returncode == 2


def test_a_dry_run_checks_all_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text(experiment_text())
    arguments = ("run", str(file), "--storage", str(tmp_path / "s"), "--dry-run")
    done = semigrid(*arguments)
    assert done.returncode == 0, done.stderr
    assert "12 trainings remain" in done.stdout and "from FLOPs" in done.stdout
    assert "nothing was started or written" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["good.yaml"]
    done = semigrid("run", str(file), "--storage", str(file / "below"), "--dry-run")
    assert done.returncode == 2 and "cannot be written" in done.stderr
    # what only building the model shows
    file.write_text(experiment_text().replace("num_heads: 2", "num_heads: 3"))
    assert semigrid(*arguments).returncode == 2


def test_only_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text(experiment_text(storage=str(tmp_path / "s")))
    only = ("--only", "digits/semi-vit/50%/*")
    facts = json.loads(semigrid("plan", str(file), *only, "--json").stdout)
    assert facts["trainings_remaining"] == 6  # the parent's too
    whats = {cell["cell"]: cell["what"] for cell in facts["change"]["cells"]}
    assert whats["digits/vit/100%"] == "not asked" and whats["digits/vit/50%"] == "new"
    lines = semigrid("table", str(file), *only, "--format", "csv").stdout.splitlines()
    assert len(lines) == 2
    for command in ("plan", "run", "status", "table"):
        done = semigrid(command, str(file), "--only", "digits/vti/*")
        assert done.returncode == 2 and "there are digits/vit/50%" in done.stderr
        assert done.stdout == "" and not (tmp_path / "s" / "small" / "experiment.yaml").exists()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("running.0.total_steps", 10**400),
        ("running.0.kind", "dance"),
        ("cells", {"a": {"state": "?", "trials": 1, "trials_done": 1}}),
        ("cost.spent", {"cpu": float("inf")}),
        ("cost.prices", {"cpu": float("nan")}),
        ("written_at", float("-inf")),
        ("holder.pid", 2**70),
        ("holder.started_at", 1e30),
        ("holder.interval", 1e18),
    ],
)
def test_a_snapshot_that_no_run_writes_is_named_and_not_shown(
    scheduler: Scheduler, tmp_path: Path, path: str, value: Any
) -> None:
    start_next(scheduler)
    whole = snapshot.take(scheduler.study, [running()])
    whole.holder = dead_holder(tmp_path)
    content = json.loads(whole.model_dump_json())
    at: Any = content
    *folders, last = path.split(".")
    for part in folders:
        at = at[int(part)] if isinstance(at, list) else at[part]
    at[last] = value
    storage, said = open_storage(tmp_path), list[str]()
    storage.write(SNAPSHOT, json.dumps(content).encode())
    assert snapshot.read(storage, said.append) is None
    assert said[0].startswith(f"{tmp_path / SNAPSHOT}: not the state of a run") and path in said[0]
    storage.write(SNAPSHOT, whole.model_dump_json().encode())
    assert snapshot.read(storage, pytest.fail) is not None


def test_a_lock_that_no_run_writes_is_no_holder(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    content = json.loads(dead_holder(tmp_path).model_dump_json())
    for change in ({"pid": -1}, {"heartbeat": 1e40}, {"interval": 1e18}, {"started_at": None}):
        storage.write("lock.json", json.dumps(content | change).encode())
        assert holder_of(storage) is None
    (tmp_path / "lock.json").unlink()
    os.mkfifo(tmp_path / "lock.json")
    assert holder_of(storage) is None


def test_a_pool_that_was_never_used_is_a_result_and_is_said(tmp_path: Path) -> None:
    grid = FinishedGrid(tmp_path, grid=[{"model": "semi-vit", "labels": ["50%", "100%"]}])
    for fraction, mask_rate in (("50%", 0.002), ("100%", 0.4)):
        grid.finish(f"digits/vit/{fraction}", 100)
        grid.finish(f"digits/semi-vit/{fraction}/100%", 120)
        record = grid.ledger.read(grid.winners[f"digits/semi-vit/{fraction}/100%", 0].id)
        assert record is not None
        scores = {f"{net}_{name}": 50.0 for net in ("student", "ema") for name in ("acc1", "acc5")}
        scores |= {f"{net}_ce": 1.0 for net in ("student", "ema")}
        natural = {f"{name}_natural": value for name, value in scores.items()}
        record.history = [{"step": 6, "mask_rate": mask_rate} | scores | natural]
        grid.ledger.write(record)
    shown = snapshot.cells_progress(grid.scheduler().study)
    assert {name: (each.state, each.pool_unused) for name, each in shown.items()} == {
        "digits/semi-vit/50%/100%": ("finished", True),
        "digits/semi-vit/100%/100%": ("finished", False),
    }
    status = semigrid("status", str(grid.file)).stdout
    assert status.count("finished, pool unused") == 1
    (note,) = (n for n in cells_table(grid.results()).notes if n.startswith("pool unused"))
    assert note == (
        "pool unused: digits/semi-vit/50%/100%: under 1% of the pool's images reached the "
        "confidence threshold, so the labelled images alone made these scores; lower "
        "confidence_threshold"
    )


def test_why_a_pool_was_not_used_is_in_the_words_of_its_method(tmp_path: Path) -> None:
    grid = FinishedGrid(tmp_path, grid=[{"model": "semi-vit", "labels": ["50%", "100%"]}])
    half, full = (row for row in grid.results().rows if row.cell.model == "semi-vit")
    rows = [
        replace(half, pool_unused=["too far away"] * 2, test=[{}] * 3),
        replace(full, pool_unused=["of one class", "too far away"], test=[{}] * 2),
    ]
    names = half.cell.name, full.cell.name
    assert pool_notes(rows) == [
        f"pool unused: {names[0]} (2 of 3 seeds), {names[1]} (1 of 2 seeds): too far away",
        f"pool unused: {names[1]} (1 of 2 seeds): of one class",
    ]
