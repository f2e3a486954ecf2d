"""Fixtures that all tests share: a quiet machine and the digits."""

import signal
from collections.abc import Iterator

import hypothesis
import pytest
import torch

from semigrid.data.catalog import open_dataset
from semigrid.data.schema import Dataset
from semigrid.data.storage import address

# a bucket in memory, which no process shares with another: of use in tests only
address.SCHEMES = (*address.SCHEMES, "memory")

# without a deadline: how long an example takes depends on what else the machine does
hypothesis.settings.register_profile("quick", max_examples=30, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=1000, deadline=None)
hypothesis.settings.load_profile("quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "take many more examples, as `make thorough` does"
    parser.addoption("--thorough", action="store_true", help=help)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--thorough"):
        hypothesis.settings.load_profile("thorough")


@pytest.fixture(scope="session")
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether minutes may be spent on more examples of the same."""
    return bool(request.config.getoption("--thorough"))


@pytest.fixture(scope="session", autouse=True)
def quiet_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A dataset cache for this session only, and programs with one thread for each operation."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SEMIGRID_CACHE", str(tmp_path_factory.mktemp("cache")))
        environment.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Sums repeat, whatever a training in this process has set before."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Signals as they were: a driver in this process ignores them at its end, and programs inherit
    that.
    """
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def cluster(quiet_machine: None) -> Iterator[None]:
    """One small Ray cluster for this process; the command line joins it, unless told otherwise."""
    import ray

    ray.init(
        num_cpus=2, log_to_driver=False, logging_level="ERROR", object_store_memory=200 * 2**20
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        yield
    ray.shutdown()


@pytest.fixture(scope="session")
def digits(quiet_machine: None) -> Dataset:
    return open_dataset("builtin://digits")
