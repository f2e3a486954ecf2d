"""Fixtures that all tests share: a quiet machine and the digits."""

from collections.abc import Iterator

import pytest
import torch

from semigrid.data.catalog import open_dataset
from semigrid.data.schema import Dataset


@pytest.fixture(scope="session", autouse=True)
def quiet_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A dataset cache of the session's own, and one thread an operation: sums in one order."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SEMIGRID_CACHE", str(tmp_path_factory.mktemp("cache")))
        environment.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield


@pytest.fixture(scope="session")
def digits(quiet_machine: None) -> Dataset:
    return open_dataset("builtin://digits")
