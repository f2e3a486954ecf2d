"""The autoscaler of a Ray cluster: what it may start, and requests for machines."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import ray
import yaml
from ray.exceptions import RayError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from semigrid.grid.cluster.growth import FIXED, UNKNOWN, Growth, Request, growth_of
from semigrid.grid.cluster.ray_private import (
    autoscaler_has_reported,
    autoscaler_options,
    in_kuberay,
    is_head,
)
from semigrid.trainers.cluster.ray_nodes import placement

# Longest wait for the head to say how its autoscaler was started, in seconds.
LOOK_SECONDS = 60.0


def cluster_growth() -> Growth:
    """What the cluster that Ray is connected to may grow to, as its autoscaler was started.

    The autoscaler is a process on the head that was given a file. On Kubernetes it is a container
    of its own, and only its presence is known.
    """
    context = ray.get_runtime_context()
    port = context.gcs_address.rpartition(":")[2]
    heads = [node["NodeID"] for node in ray.nodes() if node["Alive"] and is_head(node)]
    if context.get_node_id() in heads:
        return growth_on_head(port)
    if not heads:
        return FIXED
    on_head = NodeAffinitySchedulingStrategy(heads[0], soft=False)
    task = ray.remote(num_cpus=0)(growth_on_head).options(scheduling_strategy=on_head)
    try:
        growth: Growth = ray.get(task.remote(port), timeout=LOOK_SECONDS)
    except RayError:
        return UNKNOWN
    return growth


def growth_on_head(port: str) -> Growth:
    """What the autoscaler on this machine may start for the cluster whose GCS has this port."""
    options = autoscaler_options(port)
    if options is None:
        # KubeRay starts a head without an autoscaler only where another container is one; it may
        # not have reported yet.
        return UNKNOWN if in_kuberay() or autoscaler_has_reported() else FIXED
    path = options.get("--autoscaling-config")
    if path is None:
        return FIXED  # it reports, and starts nothing
    try:
        config = Path(path).expanduser().read_text(encoding="utf-8")
    except OSError:
        return UNKNOWN
    return growth_of(yaml.safe_load(config))


# A request, and the placement group that stands for it.
Pending = tuple[Request, PlacementGroup]


def request_machines(wanted: Sequence[Request], pending: Sequence[Pending]) -> list[Pending]:
    """Requests machines, and no longer those that are not wanted or have arrived; what is pending.

    A request is a placement group that nothing runs in: demand that every autoscaler sees. It is
    removed as soon as there is room for it, and Ray removes it when this process ends.
    ``request_resources`` would not do: it holds machines until somebody takes it back, Ray Train
    and Ray Data overwrite it, and where one of its bundles exceeds the largest cluster, Ray starts
    nothing for the others.
    """
    missing, kept = Counter(wanted), []
    for request, group in pending:
        if missing[request] and placement_group_table(group).get("state") == "PENDING":
            missing[request] -= 1
            kept.append((request, group))
        else:
            remove_placement_group(group)
    for request in missing.elements():
        rooms = [{"CPU": m.cpus, "GPU": m.gpus} for m in request]
        bundles = [{name: n for name, n in room.items() if n} for room in rooms]
        selector = placement()
        selectors = None if selector is None else [selector] * len(bundles)
        kept.append((request, placement_group(bundles, bundle_label_selector=selectors)))
    return kept
