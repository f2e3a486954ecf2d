"""Which nodes of a cluster may be given work, as the driver tells all processes of its job."""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

NODE_ID = "ray.io/node-id"
NAMESPACE = b"semigrid"
# what a float's error may make of whole CPUs
EPSILON = 1e-6


@dataclass(frozen=True)
class KnownNodes:
    """IDs of nodes that are ``kept_free``: they were not asked yet, or lack what trainings need.

    Without a word of the driver, as on one machine, there are none.
    """

    kept_free: Collection[str] = ()

    def placement(self) -> dict[str, str] | None:
        """Ray's label selector for what may run wherever it is not kept free, also on nodes that
        join; None if nothing is kept free."""
        # no space after the commas: Ray would take it for a part of the next ID
        return {NODE_ID: f"!in({','.join(self.kept_free)})"} if self.kept_free else None


def tell_nodes(nodes: KnownNodes) -> None:
    """Told by the driver, to all processes of its job that ask for ``known_nodes`` from now on."""
    _internal_kv_put(_key(), json.dumps(asdict(nodes)).encode(), True, namespace=NAMESPACE)


def known_nodes() -> KnownNodes:
    """What the driver told last."""
    if not ray.is_initialized():
        return KnownNodes()
    content = _internal_kv_get(_key(), namespace=NAMESPACE)
    return KnownNodes() if content is None else KnownNodes(**json.loads(content))


def placement() -> dict[str, str] | None:
    """The label selector of this moment."""
    return known_nodes().placement()


def _key() -> bytes:
    return f"nodes-{ray.get_runtime_context().get_job_id()}".encode()


def free_nodes() -> dict[str, dict[str, Any]]:
    """What each node has left now, but for those that are kept free."""
    kept_free = set(known_nodes().kept_free)
    return {n: r for n, r in available_resources_per_node().items() if n not in kept_free}


def has_room(workers: int, resources: dict[str, float]) -> bool:
    """Whether so many workers with these resources each could be placed now."""
    wanted = {name: amount for name, amount in resources.items() if amount}
    room = 0
    for free in free_nodes().values():
        room += min(int((free.get(n, 0.0) + EPSILON) // amount) for n, amount in wanted.items())
    return room >= workers
