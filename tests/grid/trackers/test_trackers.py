"""What Optuna, TensorBoard, MLflow and W&B find of a run, as their own libraries say."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from tests.helpers.experiments import experiment_text, plan_of
from tests.helpers.in_process import Grid
from tests.helpers.scheduling import study_of

from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.state import Job, StudyState
from semigrid.grid.trackers import tensorboard
from semigrid.grid.trackers.create import check_trackers, create_trackers
from semigrid.grid.trackers.tracker import Trackers

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries looked into


class TrackedGrid(Grid):
    """The grid in this process, telling trackers what a driver tells them."""

    def __init__(self, text: str, folder: Path, said: list[str]):
        super().__init__(plan_of(text), folder)
        self.ledger.storage.write("experiment.yaml", text.encode())
        self.trackers = track(self, said)

    def report(self, job: Any, metrics: dict[str, Any]) -> None:
        self.trackers.evaluated(job, metrics)

    def ended(self, job: Any, record: Any) -> None:
        self.trackers.ended(job, record)

    def run_tracked(self) -> "TrackedGrid":
        self.run()
        self.trackers.close()
        return self


def track(grid: Grid, said: list[str]) -> Trackers:
    """What a driver makes at its start, in a grid's folder."""
    return create_trackers(grid.study, grid.ledger.storage, said.append)


def without_past(grid: Grid) -> StudyState:
    """The grid's study, as if nothing had ended before."""
    return replace(grid.study, records={})


def nothing_done(text: str) -> StudyState:
    return study_of(plan_of(text))


def job_of(grid: Grid, record: Record) -> Job:
    search = next(s for s in grid.plan.searches if s.name == record.cell)
    return Job("train", record.spec, search)


TEXT = experiment_text(
    search={"trials": 4, "wave": 2, "early_stopping": True},
    grid=[{"model": "vit", "labels": ["50%", "100%"]}, {"model": "semi-vit", "labels": ["50%"]}],
    seeds=2,
)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> TrackedGrid:
    """What a small run left; its trackers are closed."""
    said: list[str] = []
    folder = tmp_path_factory.mktemp("tracked") / "small"
    grid = TrackedGrid(TEXT, folder, said).run_tracked()
    assert said == []
    return grid


@pytest.fixture
def copied(left: TrackedGrid, tmp_path: Path) -> Path:
    """The folder of what the run left, to be changed."""
    return Path(shutil.copytree(left.ledger.storage.uri, tmp_path / "small"))


def journal(grid: Grid) -> Path:
    return Path(grid.ledger.storage.uri) / "optuna" / "journal.log"


def studies(path: Path) -> dict[str, list[optuna.trial.FrozenTrial]]:
    storage = JournalStorage(JournalFileBackend(str(path)))
    names = optuna.get_all_study_names(storage)
    return {n: optuna.load_study(study_name=n, storage=storage).get_trials() for n in names}


def shown(path: Path) -> dict[str, dict[str, tuple[Any, ...]]]:
    """What a journal shows of each trial of each study."""
    return {
        name: {
            t.user_attrs["trial"]: (t.state, t.value, t.params, t.intermediate_values)
            for t in trials
        }
        for name, trials in studies(path).items()
    }


def test_each_cell_is_a_study_with_the_trials_of_its_search(left: TrackedGrid) -> None:
    found = studies(journal(left))
    assert found.keys() == left.study.searches.keys()
    outcomes = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    for name, state in left.study.searches.items():
        by_id = {trial.user_attrs["trial"]: trial for trial in found[name]}
        assert by_id.keys() == {trial.spec.id for trial in state.trials}  # and no other seed
        for trial in state.trials:
            seen, record = by_id[trial.spec.id], left.records[trial.spec.id]
            assert seen.state is outcomes[record.status]
            assert seen.params["base_lr"] == trial.spec.recipe.base_lr
            assert list(seen.intermediate_values) == [int(e["step"]) for e in record.history]
            if record.status == "finished":
                assert seen.value == record.val["acc1"]
            assert seen.datetime_complete is not None and seen.datetime_start is not None
            assert seen.datetime_complete >= seen.datetime_start
    assert any(t.state is TrialState.PRUNED for trials in found.values() for t in trials)


@pytest.mark.parametrize("damage", ["cut", "deleted", "changed", "a value"])
def test_a_lost_journal_is_made_again_from_the_ledger(copied: Path, damage: str) -> None:
    grid, said = Grid(plan_of(TEXT), copied), []
    expected, whole = shown(journal(grid)), journal(grid).read_bytes()
    if damage == "deleted":
        journal(grid).unlink()
    elif damage == "cut":
        journal(grid).write_bytes(whole[:-20])
    else:
        old, new = (
            (b'"op_code":4', b'"op":4') if damage == "changed" else (b'"value":', b'"value":1')
        )
        assert old in whole
        journal(grid).write_bytes(whole.replace(old, new))
    track(grid, said).close()
    assert said == []
    assert shown(journal(grid)) == expected
    again = journal(grid).read_bytes()
    track(grid, said).close()
    assert journal(grid).read_bytes() == again  # it is complete: nothing is written


def test_any_byte_of_a_journal_may_be_another(copied: Path) -> None:
    grid, said, draw = Grid(plan_of(TEXT), copied), [], random.Random(0)
    expected, whole = shown(journal(grid)), journal(grid).read_bytes()
    for _ in range(25):
        at = draw.randrange(len(whole))
        journal(grid).write_bytes(whole[:at] + bytes([draw.randrange(256)]) + whole[at + 1 :])
        track(grid, said).close()
        assert said == []
        assert expected.items() <= shown(journal(grid)).items()


def test_a_renamed_model_has_its_studies_and_nothing_trains(copied: Path) -> None:
    said: list[str] = []
    journal(Grid(plan_of(TEXT), copied)).unlink()
    content = yaml.safe_load(TEXT)
    content["models"] = {"vit-b": content["models"]["vit"]} | content["models"]
    content["models"]["semi-vit"]["from"] = "vit-b"
    del content["models"]["vit"]
    content["grid"][0]["model"] = "vit-b"
    grid = TrackedGrid(yaml.safe_dump(content), copied, said).run_tracked()
    assert grid.scheduler.trained == [] and said == []
    assert {name: len(found) for name, found in shown(journal(grid)).items()} == {
        "digits/vit-b/50%": 4,
        "digits/vit-b/100%": 4,
        "digits/semi-vit/50%/100%": 4,
    }


def test_a_study_says_what_the_search_says_when_the_file_changes_its_mind(copied: Path) -> None:
    said: list[str] = []
    content = yaml.safe_load(TEXT)
    content["search"]["early_stopping"] = False
    further = TrackedGrid(yaml.safe_dump(content), copied, said).run_tracked()
    assert further.scheduler.trained  # what was stopped trained on
    states = {state for trials in shown(journal(further)).values() for state, *_ in trials.values()}
    assert states == {TrialState.COMPLETE}
    for record in further.records.values():
        found = scalars(Path(further.ledger.storage.uri, "tensorboard", record.cell, record.id))
        steps = [int(evaluation["step"]) for evaluation in record.history]
        assert [step for step, _ in found["val_student/acc1"]] == steps
    # asked for early stopping again, the search counts them as stopped, and so does its study
    back = TrackedGrid(TEXT, copied, said).run_tracked()
    assert back.scheduler.trained == [] and said == []
    for name, state in back.study.searches.items():
        found = shown(journal(back))[name]
        for trial in state.trials:
            stopped = back.study.outcome(trial) == "stopped"
            assert (found[trial.spec.id][0] is TrialState.PRUNED) == stopped


def test_a_trial_that_failed_is_shown_so_until_it_is_trained(
    left: TrackedGrid, tmp_path: Path
) -> None:
    record = next(r for r in left.records.values() if len(r.history) == 2 and r.spec.seed == 0)
    broken = {"status": "failed", "history": [], "speed": [], "val": {}, "test": None}
    failed = record.model_copy(update=broken | {"error": "OSError: disk full"})
    said: list[str] = []
    trackers = create_trackers(without_past(left), open_storage(tmp_path), said.append)
    trackers.evaluated(job_of(left, record), record.history[0])
    trackers.ended(job_of(left, record), failed)
    trackers.close()
    assert shown(tmp_path / "optuna" / "journal.log")[record.cell][record.id][0] is TrialState.FAIL
    events = tmp_path / "tensorboard" / record.cell / record.id
    assert [step for step, _ in scalars(events)["val_ema/ce"]] == [3]  # how far it came
    trackers = create_trackers(without_past(left), open_storage(tmp_path), said.append)
    trackers.evaluated(job_of(left, record), record.history[1])
    trackers.ended(job_of(left, record), record)
    trackers.close()
    found = shown(tmp_path / "optuna" / "journal.log")[record.cell]
    assert found[record.id][:2] == (TrialState.COMPLETE, record.val["acc1"])
    assert [step for step, _ in scalars(events)["val_ema/ce"]] == [3, 6]
    assert said == []


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_every_trial_has_its_evaluations_and_its_test_in_tensorboard(left: TrackedGrid) -> None:
    for record in left.records.values():
        found = scalars(Path(left.ledger.storage.location("tensorboard", record.cell, record.id)))
        steps = [int(evaluation["step"]) for evaluation in record.history]
        assert [step for step, _ in found["val_student/acc1"]] == steps
        assert [step for step, _ in found["train/images_per_s"]] == steps
        last = found["train/loss"][-1][1]
        assert last == pytest.approx(record.history[-1]["loss"], rel=1e-5)
        if record.test is not None:
            assert found["test/acc1"][0][1] == pytest.approx(record.test["acc1"])
    assert sum(record.test is not None for record in left.records.values()) == 6


def test_no_name_leads_out_of_the_folder_of_tensorboard() -> None:
    for cell, trial in (("../../etc", "id"), ("/etc/x", ".."), ("a", "../b"), ("", "\0")):
        parts = Path(tensorboard.place(cell, trial)).parts
        assert parts[0] == "tensorboard" and ".." not in parts
        assert not any(set(part) & {"/", "\0"} for part in parts)
    assert tensorboard.place("shop/vit/50%/100%", "a1") == "tensorboard/shop/vit/50%/100%/a1"


def test_an_interrupted_trials_events_are_written_whole_at_its_end(
    left: TrackedGrid, tmp_path: Path
) -> None:
    record = next(r for r in left.records.values() if len(r.history) == 2 and r.test is None)
    job, storage = job_of(left, record), open_storage(tmp_path)
    first = create_trackers(without_past(left), storage, print)
    tunes = {"total_steps": 6, "config/request/CPU": 1.0, "device_seconds/cpu": 3.0, "pid": 7}
    first.evaluated(job, {**record.history[0], **tunes})
    first.close()  # the driver dies here
    live = scalars(tmp_path / "tensorboard" / record.cell / record.id)
    assert live["train/loss"] == [(3, pytest.approx(record.history[0]["loss"]))]
    assert not any("request" in tag or "device" in tag or "pid" in tag for tag in live)
    second = create_trackers(without_past(left), storage, print)
    second.evaluated(job, record.history[1])
    second.ended(job, record)
    second.close()
    found = scalars(tmp_path / "tensorboard" / record.cell / record.id)
    assert [step for step, _ in found["val_ema/ce"]] == [3, 6]
    known = {name for evaluation in (*record.history, *record.speed) for name in evaluation}
    assert {tag.removeprefix("train/") for tag in found if tag.startswith("train/")} <= known


def test_events_that_are_lost_or_were_never_written_are_made_from_the_ledger(
    copied: Path,
) -> None:
    grid, said = Grid(plan_of(TEXT), copied), []
    events = copied / "tensorboard"
    record = next(r for r in grid.records.values() if r.test is not None)
    expected = scalars(events / record.cell / record.id)
    shutil.rmtree(events)
    track(grid, said).close()
    assert scalars(events / record.cell / record.id) == expected
    written = {path: path.stat().st_mtime_ns for path in events.rglob("*")}
    track(grid, said).close()
    assert {path: path.stat().st_mtime_ns for path in events.rglob("*")} == written
    assert said == []


def test_a_folder_that_is_away_is_waited_for_and_not_made(
    left: TrackedGrid, tmp_path: Path
) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    storage, said = open_storage(home, patience=60), []
    open_storage(home).write("experiment.yaml", b"")
    trackers = create_trackers(without_past(left), storage, said.append)
    record = next(r for r in left.records.values() if r.test is None)
    while not (home / "optuna" / "journal.log").exists():
        time.sleep(0.01)
    home.rename(away)
    trackers.evaluated(job_of(left, record), record.history[0])
    trackers.ended(job_of(left, record), record)
    time.sleep(0.5)
    assert not home.exists()
    away.rename(home)
    trackers.close()
    assert said == []
    assert scalars(home / "tensorboard" / record.cell / record.id)["val_ema/ce"]
    assert shown(home / "optuna" / "journal.log")[record.cell].keys() == {record.id}


@contextmanager
def serving(*command: str) -> Iterator[str]:
    """A server's address while it runs, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, *command, "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).read()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


def fetch(address: Any) -> Any:
    return json.loads(urllib.request.urlopen(address, timeout=20).read())


def test_optuna_dashboard_lists_the_studies(left: TrackedGrid) -> None:
    start = "from optuna_dashboard._cli import main; main()"
    with serving("-c", start, str(journal(left)), "--host", "127.0.0.1") as address:
        page = urllib.request.urlopen(f"{address}/dashboard", timeout=20).read()
        assert b"Optuna" in page
        listed = fetch(f"{address}/api/studies")["study_summaries"]
        assert {study["study_name"] for study in listed} == left.study.searches.keys()
        trials = fetch(f"{address}/api/studies/{listed[0]['study_id']}?after=0")["trials"]
        assert len(trials) == 4


def test_tensorboard_lists_the_runs(left: TrackedGrid) -> None:
    folder = left.ledger.storage.location("tensorboard")
    options = ("-m", "tensorboard.main", "--logdir", folder, "--load_fast", "false")
    with serving(*options, "--host", "127.0.0.1") as address:
        assert b"TensorBoard" in urllib.request.urlopen(address, timeout=20).read()
        deadline = time.monotonic() + 60
        expected = {f"{record.cell}/{record.id}" for record in left.records.values()}
        while set(fetch(f"{address}/data/runs")) != expected:
            assert time.monotonic() < deadline
            time.sleep(0.3)
        asked = {"experimentName": "", "allowedStatuses": ["STATUS_SUCCESS"], "colParams": []}
        asked |= {"startIndex": 0, "sliceSize": 100}
        request = urllib.request.Request(
            f"{address}/data/plugin/hparams/session_groups",
            json.dumps(asked).encode(),
            {"Content-Type": "application/json"},
        )
        groups = fetch(request)["sessionGroups"]  # what its table of hyper-parameters shows
        rates = {g["sessions"][0]["name"]: g["hparams"]["base_lr"] for g in groups}
        assert rates == {
            f"{r.cell}/{r.id}": pytest.approx(r.spec.recipe.base_lr) for r in left.records.values()
        }
        scores = {g["sessions"][0]["name"]: g["metricValues"] for g in groups}
        for record in left.records.values():
            named = {m["name"]["tag"]: m["value"] for m in scores[f"{record.cell}/{record.id}"]}
            if record.status == "finished":
                assert named["best/acc1"] == pytest.approx(record.val["acc1"])


def test_mlflow_gets_one_run_a_trial_also_when_it_is_told_again(
    left: TrackedGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    study = nothing_done(TEXT + "trackers: [mlflow]\n")
    records = [r for r in left.records.values() if r.test is not None][:2]
    said: list[str] = []
    for _ in range(2):
        trackers = create_trackers(study, open_storage(tmp_path), said.append)
        for record in records:
            trackers.evaluated(job_of(left, record), record.history[0])
            trackers.ended(job_of(left, record), record)
        trackers.close()
    records.append(next(r for r in left.records.values() if r not in records and r.test))
    for _ in range(2):  # the last one ended while nobody followed
        past = {record.id: record for record in records}
        create_trackers(replace(study, records=past), open_storage(tmp_path), said.append).close()
    assert said == []
    client = MlflowClient()
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.tags["semigrid.trial"] for run in runs} == {r.id for r in records}
    assert len(runs) == len(records)
    for run in runs:
        record = left.records[run.data.tags["semigrid.trial"]]
        assert run.info.status == "FINISHED"
        assert run.data.metrics["test_acc1"] == record.test["acc1"]
        history = client.get_metric_history(run.info.run_id, "ema_acc1")
        assert [point.step for point in history] == [int(e["step"]) for e in record.history]
        assert float(run.data.params["base_lr"]) == record.spec.recipe.base_lr
        for name in ("method", "labels", "validation", "pool", "metric"):
            assert run.data.params[name] == getattr(record.spec, name)
    again = create_trackers(study, open_storage(tmp_path), said.append)
    again.evaluated(job_of(left, records[0]), records[0].history[0])  # it is trained once more
    again.close()
    states = {
        run.data.tags["semigrid.trial"]: run.info.status
        for run in client.search_runs([experiment.experiment_id])
    }
    assert states.pop(records[0].id) == "RUNNING" and set(states.values()) == {"FINISHED"}


def test_wandb_writes_a_run_a_trial(
    left: TrackedGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    study = nothing_done(TEXT + "trackers: [wandb]\n")
    records = [r for r in left.records.values() if r.test is None][:2]
    said: list[str] = []
    trackers = create_trackers(study, open_storage(tmp_path), said.append)
    trackers.evaluated(job_of(left, records[0]), records[0].history[0])
    trackers.ended(job_of(left, records[0]), records[0])
    trackers.close()
    # the second ended while nobody followed; the first is not written once more
    past = {record.id: record for record in records}
    create_trackers(replace(study, records=past), open_storage(tmp_path), said.append).close()
    assert said == []
    folders = [path.name for path in (tmp_path / "wandb" / "wandb").glob("offline-run-*")]
    assert len(folders) == 2
    assert {name.rpartition("-")[2] for name in folders} == {record.id for record in records}
    for path in (tmp_path / "wandb" / "wandb").glob("offline-run-*/*.wandb"):
        deadline = time.monotonic() + 30  # a process of wandb's writes it
        while path.stat().st_size <= 1000:
            assert time.monotonic() < deadline
            time.sleep(0.1)


class Seen:
    """A tracker that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def catch_up(self, records: Any) -> None:
        self.told.append("past")

    def evaluated(self, job: Job, step: int, metrics: dict[str, float]) -> None:
        self.told.append(step)

    def ended(self, job: Job, record: Any) -> None:
        self.told.append(record.status)

    def close(self) -> None:
        self.told.append("close")


class Broken(Seen):
    """One whose server is away."""

    def evaluated(self, job: Job, step: int, metrics: dict[str, float]) -> None:
        raise ConnectionError("no answer")

    def ended(self, job: Job, record: Any) -> None:
        raise AssertionError("it is left out by now")


class BreaksAtItsEnd(Seen):
    def close(self) -> None:
        raise ConnectionError("no answer to the last request")


def test_a_tracker_that_fails_is_named_once_and_stops_nothing(left: TrackedGrid) -> None:
    said: list[str] = []
    good = Seen()

    def away() -> Seen:
        raise OSError("disk full")

    make = {"away": away, "broken": Broken, "late": BreaksAtItsEnd, "good": lambda: good}
    trackers = Trackers(make, {}, said.append)
    record = next(iter(left.records.values()))
    job = job_of(left, record)
    for evaluation in record.history:
        trackers.evaluated(job, evaluation)
    trackers.evaluated(job, {"step": 4, "images_per_s": 7.0})  # no evaluation
    trackers.ended(job, record)
    trackers.ended(job, None)  # its record is gone
    trackers.close(seconds=5)
    steps = [int(e["step"]) for e in record.history]
    assert good.told == ["past", *steps, record.status, "close"]
    said.sort()
    names = [line.partition(" failed")[0] for line in said]
    assert names == ["trackers: away", "trackers: broken", "trackers: late"]
    assert "no answer" in said[1]


def test_a_tracker_that_does_not_answer_holds_up_no_other(left: TrackedGrid) -> None:
    said: list[str] = []
    good, answer = Seen(), threading.Event()

    def silent() -> Seen:
        answer.wait(60)
        return Seen()

    trackers = Trackers({"silent": silent, "good": lambda: good}, {}, said.append)
    record = next(iter(left.records.values()))
    trackers.ended(job_of(left, record), record)
    trackers.close(seconds=0.5)
    assert good.told == ["past", record.status, "close"]
    assert len(said) == 1 and said[0].startswith("trackers: silent: not everything was written")
    answer.set()


def test_wandb_without_a_key_is_refused_and_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # where `wandb login` keeps keys
    code = (
        "import sys; from semigrid.grid.experiment.load import load_experiment\n"
        "from semigrid.grid.trackers.create import check_trackers\n"
        "check_trackers(load_experiment('file.yaml', text=sys.stdin.read()))"
    )
    text = TEXT + "trackers: [wandb]\n"
    asked = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(asked, input=text, text=True, capture_output=True)
    assert done.returncode == 1 and "no API key is known; set WANDB_API_KEY" in done.stderr
    monkeypatch.setenv("WANDB_MODE", "offline")
    done = subprocess.run(asked, input=text, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


SERVICE = """
import os, sys
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.trackers.create import check_trackers
check_trackers(load_experiment("file.yaml", text=sys.stdin.read()))
print(os.environ.get("WANDB_SERVICE"))
"""


def test_the_check_of_wandb_leaves_no_service_that_drivers_would_share(tmp_path: Path) -> None:
    # a driver that is killed would leave its runs in use there, refused to the next
    key = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}  # nobody is there
    known = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-c", SERVICE],
        input=TEXT + "trackers: [wandb]\n",
        env={**known, **key, "HOME": str(tmp_path), "NETRC": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "None"


def test_a_tracker_that_is_not_installed_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    experiment = load_experiment("file.yaml", text=TEXT + "trackers: [wandb]\n")
    with pytest.raises(InputError, match=r"pip install 'semigrid\[wandb\]'"):
        check_trackers(experiment)
    check_trackers(load_experiment("file.yaml", text=TEXT))


def test_a_bucket_keeps_no_event_files_and_says_so(left: TrackedGrid) -> None:
    said: list[str] = []
    create_trackers(left.study, open_storage("memory://bucket"), said.append).close()
    assert said == [
        "trackers: optuna and tensorboard need a local folder, not memory:///bucket: left out"
    ]
