"""Whether a failed start of Ray may help another time; Ray itself is not started."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.exceptions import AuthenticationError, ObjectStoreFullError, RayTaskError, RpcError

from semigrid.data.errors import InputError
from semigrid.grid.run import start
from semigrid.grid.run.supervise import RESTARTED, SUPERVISOR, LostRayError

NO_CLUSTER = ConnectionError("Could not find any running Ray instance. Please specify")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The supervisor's end of the pipe to a driver in this process, whose environment is kept."""
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    environment = dict(os.environ)
    monkeypatch.setenv(SUPERVISOR, f"{os.getppid()} {theirs}")
    yield ours
    os.close(ours)
    os.close(theirs)
    os.environ.clear()
    os.environ.update(environment)


def fails(error: Exception, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    for name in ("connect_to_head", "ray.init"):
        calls = fail if name in names else lambda *args, **options: None
        if name == "ray.init":
            monkeypatch.setattr(ray, "init", calls)
        else:
            monkeypatch.setattr(start, name, calls)


@pytest.mark.parametrize("address", [None, "10.0.0.1:6379"])
def test_a_start_that_fails_under_load_is_tried_again(
    address: str | None, tmp_path: Path, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if address is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", address)
    fails(TimeoutError("The node timed out during startup."), monkeypatch, "ray.init")
    with (
        pytest.raises(LostRayError, match="timed out during startup"),
        start.ray_running(False, str(tmp_path)),
    ):
        pass
    assert os.read(told, 100) == b"began\n"


@pytest.mark.parametrize("where", ["connect_to_head", "ray.init"])
@pytest.mark.parametrize(
    ("address", "error", "expected"),
    [
        ("10.0.0.1:6379", AuthenticationError("no token"), InputError),
        ("10.0.0.1:6379", RuntimeError("Version mismatch: The cluster was"), InputError),
        ("nonsense", ValueError("Invalid gcs_address: nonsense"), InputError),
        ("10.0.0.1:6379", RpcError("Timed out while waiting"), LostRayError),
        ("10.0.0.1:6379", ConnectionError("Failed to connect to Ray cluster"), LostRayError),
    ],
)
def test_a_cluster_that_refuses_us_differs_from_one_that_is_away(
    address: str,
    error: Exception,
    expected: type[Exception],
    where: str,
    tmp_path: Path,
    told: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    fails(error, monkeypatch, where)
    with (
        pytest.raises(expected, match=f"RAY_ADDRESS={address}"),
        start.ray_running(False, str(tmp_path)),
    ):
        pass


def test_no_cluster_on_this_machine_is_no_accident(
    tmp_path: Path, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    fails(NO_CLUSTER, monkeypatch, "ray.init")
    with pytest.raises(InputError, match="any running"), start.ray_running(False, str(tmp_path)):
        pass
    monkeypatch.setenv(RESTARTED, "1")  # but there was one before: its head may come back
    with pytest.raises(LostRayError), start.ray_running(False, str(tmp_path)):
        pass


def test_errors_of_ray_count_as_lost_but_those_of_the_work_do_not() -> None:
    assert start.lost_ray(ObjectStoreFullError("full")) is not None
    assert start.lost_ray(RayTaskError("f", "traceback", ZeroDivisionError("a bug"))) is None
    assert start.lost_ray(AuthenticationError("no token")) is None
    assert start.lost_ray(OSError("a disk")) is None
