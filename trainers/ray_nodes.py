"""The nodes of a cluster that may be given work, as the driver tells all processes of its job."""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass

import ray

from semigrid.trainers.ray_private import free_resources, read_key, write_key

NODE_ID = "ray.io/node-id"
NAMESPACE = b"semigrid"
# Rounding error of Ray's fractions of a resource.
EPSILON = 1e-6


@dataclass(frozen=True)
class KnownNodes:
    """IDs of the nodes that are ``kept_free``: not checked yet, or lacking what trainings need."""

    kept_free: Collection[str] = ()

    def placement(self) -> dict[str, str] | None:
        """Ray's label selector for all other nodes, those that join included; None for any node."""
        # no space after the commas: Ray would take it for a part of the next ID
        return {NODE_ID: f"!in({','.join(self.kept_free)})"} if self.kept_free else None


def tell_nodes(nodes: KnownNodes) -> None:
    """Tells all processes of this driver's job which nodes are kept free from now on."""
    write_key(_key(), json.dumps(asdict(nodes)).encode(), NAMESPACE)


def known_nodes() -> KnownNodes:
    """What the driver told last; no node is kept free if it told nothing."""
    if not ray.is_initialized():
        return KnownNodes()
    content = read_key(_key(), NAMESPACE)
    return KnownNodes() if content is None else KnownNodes(**json.loads(content))


def placement() -> dict[str, str] | None:
    """The label selector of this moment; see ``KnownNodes.placement``."""
    return known_nodes().placement()


def _key() -> bytes:
    return f"nodes-{ray.get_runtime_context().get_job_id()}".encode()


def free_nodes() -> dict[str, dict[str, float]]:
    """The resources that each node has left now, without nodes that are kept free."""
    kept_free = set(known_nodes().kept_free)
    return {node: free for node, free in free_resources().items() if node not in kept_free}


def has_room(workers: int, resources: dict[str, float]) -> bool:
    """Whether this many workers with these resources each could be placed now."""
    wanted = {name: amount for name, amount in resources.items() if amount}
    room = 0
    for free in free_nodes().values():
        room += min(int((free.get(n, 0.0) + EPSILON) // amount) for n, amount in wanted.items())
    return room >= workers
