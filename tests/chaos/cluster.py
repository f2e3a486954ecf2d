"""A Ray cluster of two nodes on this machine, its processes, and ways to kill them."""

import tempfile
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster
from tests.helpers.processes import descendants, kill

HEAD_CPUS, SECOND_CPUS = 1, 2
# What Ray calls the processes of its actors, by what they are here.
TITLES = {
    "trial": "ray::ImplicitFunc",
    "worker": "ray::RayTrainWorker",
    "controller": "ray::TrainController",
}


class TwoNodes:
    """A head, which keeps living, and a second node, which may be killed and is then replaced.

    Only processes that descend from this cluster's raylets are ever looked at.
    """

    def __init__(self) -> None:
        # short: the paths of sockets are limited
        self._folder = tempfile.TemporaryDirectory(prefix="sg-", dir="/tmp")
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": HEAD_CPUS,
                "include_dashboard": True,
                "dashboard_port": 0,
                "object_store_memory": 200 * 2**20,
                "temp_dir": self._folder.name,
            },
        )
        self._second: Any = None
        self.add_second()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add_second(self) -> None:
        self._second = self._cluster.add_node(
            num_cpus=SECOND_CPUS, object_store_memory=150 * 2**20, temp_dir=self._folder.name
        )

    def kill_second(self) -> None:
        """At once and without a goodbye: the raylet first, then whatever it had started."""
        workers = list(descendants(_raylet(self._second)))
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = None
        for pid in workers:
            kill(pid)

    def find(self, kind: str) -> list[int]:
        """Processes of one of ``TITLES`` on either node."""
        nodes = [self._cluster.head_node, self._second]
        return [pid for n in nodes if n is not None for pid in actors_of(_raylet(n), kind)]

    def close(self) -> None:
        self._cluster.shutdown()
        self._folder.cleanup()


def actors_of(pid: int, kind: str) -> list[int]:
    """Those processes of one of ``TITLES`` that descend from the process."""
    return [each for each in descendants(pid) if title(each).startswith(TITLES[kind])]


def title(pid: int) -> str:
    """A process's command line, or what it calls itself; empty once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _raylet(node: Any) -> int:
    (raylet,) = node.all_processes["raylet"]
    return int(raylet.process.pid)
