"""A run ends at once and with its reason where another start would not help; all without Ray."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from tests.helpers.command import semigrid
from tests.helpers.experiments import experiment_text
from tests.helpers.finished import FinishedGrid

from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage
from semigrid.grid.commands import run
from semigrid.grid.commands.unexpected import keep_traceback, say_thread_ended
from semigrid.grid.run.supervise import SCRATCH, SUPERVISOR, LostRayError, Supervisor
from semigrid.grid.study.lock import RunLock


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The supervisor's end of the pipe to a driver in this process."""
    before = {number: signal.getsignal(number) for number in run.SIGNALS}
    ours, theirs = os.pipe()
    monkeypatch.setenv(SUPERVISOR, f"{os.getppid()} {theirs}")
    yield ours
    os.close(ours)
    os.close(theirs)
    for number, handler in before.items():
        signal.signal(number, handler)


def drive(folder: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> int:
        raise error

    monkeypatch.setattr(run, "_drive", fail)
    with pytest.raises(typer.Exit):
        run.drive("file.yaml", str(folder))


@pytest.mark.parametrize(
    ("error", "code"),
    [(ZeroDivisionError("a bug"), 1), (InputError("a bad file"), 2), (OSError("a disk"), 1)],
)
def test_an_error_that_would_come_again_is_the_end(
    error: Exception,
    code: int,
    tmp_path: Path,
    told: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "experiment.yaml").touch()
    drive(folder, error, monkeypatch)
    assert os.read(told, 100) == f"ended {code}\n".encode()
    said = capsys.readouterr().err
    assert str(error) in said and "Traceback" not in said
    if isinstance(error, ZeroDivisionError):
        assert f"log: {folder}/logs/run.log" in said
        assert "Traceback" in (folder / "logs/run.log").read_text()


def test_an_error_of_ray_at_its_start_comes_with_rays_logs(
    tmp_path: Path, told: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "scratch/ray/session_2026-01-01_00-00-00_000000_1/logs"
    logs.mkdir(parents=True)
    (logs / "gcs_server.err").write_text("the port is taken")
    monkeypatch.setenv(SCRATCH, str(tmp_path / "scratch"))
    (tmp_path / "experiment.yaml").touch()
    drive(tmp_path, RuntimeError("Ray did not start"), monkeypatch)
    kept = tmp_path / "logs/ray" / logs.parent.name
    assert f"Ray's logs: {kept}" in capsys.readouterr().err.replace("\n", "")
    assert (kept / "gcs_server.err").read_text() == "the port is taken"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "http://127.0.0.1:8265"])
def test_a_cluster_that_is_gone_matters_only_if_there_is_something_to_train(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    grid = FinishedGrid(tmp_path, grid=[{"model": "vit", "labels": ["100%"]}], trackers=[])
    done = semigrid("run", str(grid.file))
    assert done.returncode == 2 and done.stderr.startswith("RAY_ADDRESS=")
    before = sorted(tmp_path.rglob("*"))
    done = semigrid("run", "--dry-run", str(grid.file))
    assert done.returncode == 0 and "nothing was started or written" in done.stdout
    assert sorted(tmp_path.rglob("*")) == before
    grid.finish("digits/vit/100%", 135)
    done = semigrid("run", str(grid.file))
    assert done.returncode == 0, done.stderr
    assert "nothing to train" in done.stderr and "Acc@1" in done.stdout


def test_a_driver_that_lost_ray_dies_with_the_reason(
    tmp_path: Path, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiment.yaml").touch()
    drive(tmp_path, LostRayError("NodeDiedError: gone"), monkeypatch)
    log = tmp_path / "logs" / "run.log"
    assert os.read(told, 1000).decode() == f"lost NodeDiedError: gone; log: {log}\n"
    assert log.exists()


def test_a_closed_terminal_is_one_interrupt_of_a_run(
    tmp_path: Path, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def closed_terminal(supervisor: Supervisor) -> int:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
        counts.append(supervisor.interrupts)
        return 130

    monkeypatch.setattr(Supervisor, "run", closed_terminal)
    file = tmp_path / "small.yaml"
    file.write_text(experiment_text(storage=str(tmp_path / "results")))
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert semigrid("run", str(file)).returncode == 130
    assert counts == [1]


@pytest.mark.parametrize("error", [LostRayError("gone"), KeyboardInterrupt()])
def test_storage_that_is_away_hides_no_error(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMIGRID_STORAGE_PATIENCE", "30")
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "experiment.yaml").touch()
    slept = 0.0
    monkeypatch.setattr("semigrid.grid.study.lock._now", lambda: time.monotonic() + slept)

    def load(*args: object, **options: object) -> None:
        nonlocal slept
        slept = 1000.0
        folder.rename(tmp_path / "away")
        raise error

    monkeypatch.setattr(run, "load_experiment", load)
    with RunLock(open_storage(folder), print, lambda: None, interval=5) as lock:
        monkeypatch.setenv(run.LEASE, lock.token)
        before = time.monotonic()
        if isinstance(error, KeyboardInterrupt):
            assert run._drive("file.yaml", open_storage(folder, 30), None) == 130
        else:
            with pytest.raises(LostRayError):
                run._drive("file.yaml", open_storage(folder, 30), None)
        assert time.monotonic() - before < 20
        (tmp_path / "away").rename(folder)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("table", "semigrid.grid.tables.render.show"),
        ("report", "semigrid.grid.report.page.report"),
        ("table", "semigrid.grid.analysis.result_set.read_result_set"),
    ],
)
def test_a_table_or_report_that_cannot_be_made_costs_no_result(
    name: str, broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = FinishedGrid(tmp_path, grid=[{"model": "vit", "labels": ["100%"]}], trackers=[])
    grid.finish("digits/vit/100%", 135)

    def fail(*args: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(broken, fail)
    done = semigrid("run", str(grid.file))
    assert done.returncode == 1
    assert f"the {name} could not be made: ZeroDivisionError: division by zero" in done.stderr
    assert f"semigrid {name} {grid.storage.uri} makes it again" in done.stderr
    assert "Traceback" not in done.stderr
    log = Path(grid.storage.location("logs/run.log"))
    assert str(log) in done.stderr and "Traceback" in log.read_text()
    if broken.endswith("show"):
        assert "report: " in done.stdout and Path(grid.storage.location("report.html")).exists()
    if broken.endswith("page.report"):
        assert "Acc@1" in done.stdout


@pytest.mark.parametrize("kind", [ValueError, LostRayError])
def test_a_log_keeps_no_secrets(
    kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = "https://user:SECRET@host/a.parquet?X-Amz-Signature=SECRET"
    (tmp_path / "experiment.yaml").touch()
    drive(tmp_path, kind(f"{signed}: refused"), monkeypatch)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for log in (tmp_path / "logs/run.log", Path(keep_traceback(kind(f"{signed}: refused")))):
        assert "SECRET" not in log.read_text() and "https://host/a.parquet" in log.read_text()


def test_an_error_in_a_thread_or_a_command_is_one_line_and_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("threading.excepthook", say_thread_ended)
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    (log,) = tmp_path.iterdir()
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "division by zero" in said and str(log) in said
    assert "Traceback" in log.read_text() and log.stat().st_mode & 0o077 == 0
