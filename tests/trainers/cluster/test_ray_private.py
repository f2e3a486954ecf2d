"""Ray's private names do what trainers use them for: the checklist of a Ray upgrade.

The errors of a group that does not start are raised in ``test_ray_worker.py``.
"""

import os
import signal
import time
from typing import Any

import pytest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own warnings
]


def test_what_each_node_has_left() -> None:
    import ray
    from ray.util import placement_group, remove_placement_group

    from semigrid.trainers.cluster.ray_private import free_resources

    this = ray.get_runtime_context().get_node_id()
    assert free_resources()[this]["CPU"] == 2
    group = placement_group([{"CPU": 1}])
    ray.get(group.ready())
    deadline = time.monotonic() + 10
    while free_resources()[this].get("CPU") != 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    remove_placement_group(group)


def test_a_key_is_read_by_another_process_and_written_anew() -> None:
    import ray

    from semigrid.trainers.cluster.ray_private import read_key, write_key

    assert read_key(b"key", namespace=b"tests") is None
    for value in (b"first", b"second"):
        write_key(b"key", value, namespace=b"tests")
        heard = ray.remote(num_cpus=0)(read_key).remote(b"key", namespace=b"tests")
        assert ray.get(heard) == value
    assert read_key(b"key", namespace=b"others") is None


def test_the_placement_groups_of_a_dead_actor_are_orphans() -> None:
    import ray
    from ray.util import placement_group, remove_placement_group

    from semigrid.trainers.cluster.ray_private import orphaned_placement_groups

    @ray.remote(num_cpus=0)
    class Creator:
        def create(self) -> tuple[int, Any]:
            return os.getpid(), placement_group([{"CPU": 1}])

    creator, mine = Creator.remote(), placement_group([{"CPU": 1}])
    pid, theirs = ray.get(creator.create.remote())
    ray.get([mine.ready(), theirs.ready()])
    assert orphaned_placement_groups() == []
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while [group.id for group in orphaned_placement_groups()] != [theirs.id]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for group in (mine, theirs):
        remove_placement_group(group)
    assert orphaned_placement_groups() == []


def test_a_lost_worker_is_known_by_its_error_and_what_it_met() -> None:
    from ray.exceptions import RayActorError

    from semigrid.trainers.cluster.ray_private import UNREACHABLE_ERRORS, death_of

    failed, timed_out = UNREACHABLE_ERRORS
    death = RayActorError(error_msg="killed")
    assert death_of(failed("rank 1", death)) is death
    assert death_of(timed_out("rank 1")).args == timed_out("rank 1").args


def test_torchs_backend_is_the_one_that_ray_train_starts() -> None:
    from ray.train.torch import TorchConfig

    from semigrid.trainers.cluster.ray_private import TorchBackend

    assert TorchConfig().backend_cls is TorchBackend
