"""The nodes of a cluster that may be given work, as the driver tells all processes of its job."""

import json
from collections.abc import Collection

import ray

from semigrid.trainers.cluster.ray_private import free_resources, read_key, write_key

NODE_ID = "ray.io/node-id"
NAMESPACE = b"semigrid"
# Rounding error of Ray's fractions of a resource.
EPSILON = 1e-6


def keep_free(nodes: Collection[str]) -> None:
    """Tells all processes of this driver's job to use no nodes with these IDs from now on.

    They were not checked yet, or lack what trainings need.
    """
    write_key(_key(), json.dumps(list(nodes)).encode(), namespace=NAMESPACE)


def kept_free() -> list[str]:
    """IDs of the nodes that the driver keeps free at this moment."""
    content = read_key(_key(), namespace=NAMESPACE) if ray.is_initialized() else None
    nodes: list[str] = [] if content is None else json.loads(content)
    return nodes


def placement() -> dict[str, str] | None:
    """Ray's label selector for nodes that are not kept free; None if all may be used.

    Nodes that join later match it.
    """
    nodes = kept_free()
    # no space after the commas: Ray would take it for a part of the next ID
    return {NODE_ID: f"!in({','.join(nodes)})"} if nodes else None


def _key() -> bytes:
    return f"nodes-{ray.get_runtime_context().get_job_id()}".encode()


def free_nodes() -> dict[str, dict[str, float]]:
    """The resources that each node has left now, without nodes that are kept free."""
    unused = set(kept_free())
    return {node: free for node, free in free_resources().items() if node not in unused}


def has_room(workers: int, resources: dict[str, float]) -> bool:
    """Whether this many workers with these resources each could be placed now."""
    wanted = {name: amount for name, amount in resources.items() if amount}
    room = 0
    for free in free_nodes().values():
        room += min(int((free.get(n, 0.0) + EPSILON) // amount) for n, amount in wanted.items())
    return room >= workers
