"""What Optuna, TensorBoard, MLflow and W&B find of a run, as their own libraries say."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from experiments import experiment_text
from in_process import Grid
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from test_scheduler import plan_of

from data.errors import InputError
from data.storage import Storage
from grid.experiment import load_experiment
from grid.trackers.create import are_gone, check_trackers, create_trackers
from grid.trackers.tracker import Run, Trackers

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries looked into


class TrackedGrid(Grid):
    """The grid in this process, telling trackers what a driver tells them."""

    def __init__(self, text: str, folder: Path, said: list[str]):
        super().__init__(plan_of(text), folder)
        records = self.ledger.read_all()
        self.trackers = create_trackers(self.plan, self.ledger.storage, records, said.append)

    def report(self, job: Any, metrics: dict[str, Any]) -> None:
        self.trackers.evaluated(job.search, job.spec, metrics)

    def settled(self, job: Any, record: Any) -> None:
        self.trackers.ended(job.search, record)


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
    grid = TrackedGrid(TEXT, folder, said)
    grid.run()
    grid.trackers.close()
    assert said == []
    return grid


def journal(grid: Grid) -> Path:
    return Path(grid.ledger.storage.root) / "optuna" / "journal.log"


def studies(path: Path) -> dict[str, list[optuna.trial.FrozenTrial]]:
    storage = JournalStorage(JournalFileBackend(str(path)))
    names = optuna.get_all_study_names(storage)
    return {n: optuna.load_study(study_name=n, storage=storage).get_trials() for n in names}


def test_each_cell_is_a_study_with_the_trials_of_its_search(left: TrackedGrid) -> None:
    found = studies(journal(left))
    assert found.keys() == left.scheduler.states.keys()
    outcomes = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    for name, state in left.scheduler.states.items():
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


@pytest.mark.parametrize("damage", ["cut", "deleted", "changed"])
def test_a_lost_journal_is_made_again_from_the_ledger(
    left: TrackedGrid, tmp_path: Path, damage: str
) -> None:
    expected = {n: {t.user_attrs["trial"] for t in ts} for n, ts in studies(journal(left)).items()}
    whole = journal(left).read_bytes()
    if damage == "deleted":
        journal(left).unlink()
    else:
        spoilt = whole[:-20] if damage == "cut" else whole.replace(b'"op_code":4', b'"op":4', 1)
        journal(left).write_bytes(spoilt)
    said: list[str] = []
    records = left.ledger.read_all()
    create_trackers(left.plan, left.ledger.storage, records, said.append).close()
    found = studies(journal(left))
    assert said == []
    assert {n: {t.user_attrs["trial"] for t in ts} for n, ts in found.items()} == expected
    size = journal(left).stat().st_size
    create_trackers(left.plan, left.ledger.storage, records, said.append).close()
    assert journal(left).stat().st_size == size  # nothing is added twice


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
        found = scalars(Path(left.ledger.storage.path("tensorboard", record.cell, record.id)))
        steps = [int(evaluation["step"]) for evaluation in record.history]
        assert [step for step, _ in found["val_student/acc1"]] == steps
        last = found["train/loss"][-1][1]
        assert last == pytest.approx(record.history[-1]["loss"], rel=1e-5)
        if record.test is not None:
            assert found["test/acc1"][0][1] == pytest.approx(record.test["acc1"])
    assert sum(record.test is not None for record in left.records.values()) == 6


def test_an_interrupted_trials_events_are_written_whole_at_its_end(
    left: TrackedGrid, tmp_path: Path
) -> None:
    record = next(r for r in left.records.values() if len(r.history) == 2 and r.test is None)
    search = next(s for s in left.plan.searches if s.name == record.cell)
    storage = Storage(tmp_path)
    first = create_trackers(left.plan, storage, {}, print)
    first.evaluated(search, record.spec, {**record.history[0], "total_steps": 6})
    first.close()  # the driver dies here
    second = create_trackers(left.plan, storage, {}, print)
    second.evaluated(search, record.spec, record.history[1])
    second.ended(search, record)
    second.close()
    found = scalars(tmp_path / "tensorboard" / record.cell / record.id)
    assert [step for step, _ in found["val_ema/ce"]] == [3, 6]
    assert "train/total_steps" not in found


def test_what_was_deleted_is_written_again_from_the_ledger(
    left: TrackedGrid, tmp_path: Path
) -> None:
    copy = Storage(tmp_path / "copy")
    assert are_gone(left.plan, copy)
    create_trackers(left.plan, copy, left.records, print).close()
    assert not are_gone(left.plan, copy)
    for record in left.records.values():
        place = ("tensorboard", record.cell, record.id)
        assert scalars(Path(copy.path(*place))) == scalars(Path(left.ledger.storage.path(*place)))
    assert studies(Path(copy.path("optuna", "journal.log"))).keys() == left.scheduler.states.keys()


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


def fetch(address: str) -> Any:
    return json.loads(urllib.request.urlopen(address, timeout=20).read())


def test_optuna_dashboard_lists_the_studies(left: TrackedGrid) -> None:
    start = "from optuna_dashboard._cli import main; main()"
    with serving("-c", start, str(journal(left)), "--host", "127.0.0.1") as address:
        page = urllib.request.urlopen(f"{address}/dashboard", timeout=20).read()
        assert b"Optuna" in page
        listed = fetch(f"{address}/api/studies")["study_summaries"]
        assert {study["study_name"] for study in listed} == left.scheduler.states.keys()
        trials = fetch(f"{address}/api/studies/{listed[0]['study_id']}?after=0")["trials"]
        assert len(trials) == 4


def test_tensorboard_lists_the_runs(left: TrackedGrid) -> None:
    folder = left.ledger.storage.path("tensorboard")
    options = ("-m", "tensorboard.main", "--logdir", folder, "--load_fast", "false")
    with serving(*options, "--host", "127.0.0.1") as address:
        assert b"TensorBoard" in urllib.request.urlopen(address, timeout=20).read()
        deadline = time.monotonic() + 60
        expected = {f"{record.cell}/{record.id}" for record in left.records.values()}
        while set(fetch(f"{address}/data/runs")) != expected:
            assert time.monotonic() < deadline
            time.sleep(0.3)


def test_mlflow_gets_one_run_a_trial_also_when_it_is_told_again(
    left: TrackedGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    plan = plan_of(TEXT + "trackers: [mlflow]\n")
    records = [r for r in left.records.values() if r.test is not None][:2]
    said: list[str] = []
    for _ in range(2):
        trackers = create_trackers(plan, Storage(tmp_path), {}, said.append)
        for record in records:
            search = next(s for s in plan.searches if s.name == record.cell)
            for evaluation in record.history[:1]:
                trackers.evaluated(search, record.spec, evaluation)
            trackers.ended(search, record)
        trackers.close()
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


def test_wandb_writes_a_run_a_trial(
    left: TrackedGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    plan = plan_of(TEXT + "trackers: [wandb]\n")
    records = [r for r in left.records.values() if r.test is None][:2]
    said: list[str] = []
    trackers = create_trackers(plan, Storage(tmp_path), {}, said.append)
    for record in records:
        search = next(s for s in plan.searches if s.name == record.cell)
        trackers.evaluated(search, record.spec, record.history[0])
        trackers.ended(search, record)
    trackers.close()
    assert said == []
    folders = [path.name for path in (tmp_path / "wandb" / "wandb").glob("offline-run-*")]
    assert {name.rpartition("-")[2] for name in folders} == {record.id for record in records}
    for path in (tmp_path / "wandb" / "wandb").glob("offline-run-*/*.wandb"):
        assert path.stat().st_size > 1000


class Broken:
    """A tracker whose server is away."""

    def evaluated(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        raise ConnectionError("no answer")

    def ended(self, run: Run, record: Any) -> None:
        raise AssertionError("it is left out by now")

    def close(self) -> None:
        raise AssertionError("it is left out by now")


def test_a_tracker_that_fails_is_named_once_and_stops_nothing(left: TrackedGrid) -> None:
    said: list[str] = []
    seen: list[int] = []

    class Good(Broken):
        def evaluated(self, run: Run, step: int, metrics: dict[str, float]) -> None:
            seen.append(step)

        def ended(self, run: Run, record: Any) -> None:
            seen.append(-1)

        def close(self) -> None:
            seen.append(-2)

    def away() -> Broken:
        raise OSError("disk full")

    trackers = Trackers("small", {"away": away, "broken": Broken, "good": Good}, said.append)
    record = next(iter(left.records.values()))
    search = left.plan.searches[0]
    for evaluation in record.history:
        trackers.evaluated(search, record.spec, evaluation)
    trackers.evaluated(search, record.spec, {"step": 4, "images_per_s": 7.0})  # no evaluation
    trackers.ended(search, record)
    trackers.close()
    assert seen == [*(int(e["step"]) for e in record.history), -1, -2]
    assert [line.partition(" failed")[0] for line in said] == ["trackers: away", "trackers: broken"]
    assert "no answer" in said[1]


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
    create_trackers(left.plan, Storage("memory://bucket"), {}, said.append).close()
    assert said == [
        "trackers: optuna and tensorboard need a local folder, not memory:///bucket: left out"
    ]
