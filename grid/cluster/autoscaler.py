"""The autoscaler of a Ray cluster: what it may start, and how it is asked for machines."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import ray
import yaml
from ray._common.usage.usage_constants import KUBERAY_ENV
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.exceptions import RayError
from ray.experimental import internal_kv
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from semigrid.grid.cluster.growth import FIXED, UNKNOWN, Ask, Growth, growth_of

# So long (s) the head may take to say what its autoscaler works with.
LOOK_SECONDS = 60.0


def cluster_growth() -> Growth:
    """What the cluster that Ray is connected to may grow to, as its autoscaler was started.

    Ray publishes it nowhere, but its autoscaler is a process on the head that was given a file. On
    Kubernetes it is a container of its own, which is only known to be there.
    """
    context = ray.get_runtime_context()
    port = context.gcs_address.rpartition(":")[2]
    nodes = [node for node in ray.nodes() if node["Alive"]]
    heads = [n["NodeID"] for n in nodes if "node:__internal_head__" in n["Resources"]]
    if context.get_node_id() in heads:
        return look_on_head(port)
    if not heads:
        return FIXED
    there = NodeAffinitySchedulingStrategy(heads[0], soft=False)
    look = ray.remote(num_cpus=0)(look_on_head).options(scheduling_strategy=there)
    try:
        found: Growth = ray.get(look.remote(port), timeout=LOOK_SECONDS)
    except RayError:
        return UNKNOWN
    return found


def look_on_head(port: str) -> Growth:
    """What the autoscaler on this machine may start, of the cluster whose GCS has this port."""
    import psutil  # Ray brings its own

    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if not any("/autoscaler/" in w and w.endswith("/monitor.py") for w in words):
            continue
        options = dict(w.split("=", 1) for w in words if w.startswith("--") and "=" in w)
        if options.get("--gcs-address", "").rpartition(":")[2] == port:
            return _growth_in(options.get("--autoscaling-config"))
    return UNKNOWN if _is_elsewhere() else FIXED


def _growth_in(path: str | None) -> Growth:
    if path is None:
        return FIXED  # it only reports
    try:
        text = Path(os.path.expanduser(path)).read_text(encoding="utf-8")
    except OSError:
        return UNKNOWN
    return growth_of(yaml.safe_load(text))


def _is_elsewhere() -> bool:
    """Whether the cluster has an autoscaler, for none runs beside its GCS.

    KubeRay starts a head without one just where a container of its own is the autoscaler, which
    may not have reported yet.
    """
    if os.environ.get(KUBERAY_ENV) or internal_kv._internal_kv_exists(DEBUG_AUTOSCALING_STATUS):
        return True
    reply = GetClusterStatusReply()
    reply.ParseFromString(internal_kv.internal_kv_get_gcs_client().get_cluster_status())
    return bool(reply.HasField("autoscaling_state"))


class Asks:
    """Asks for machines by placement groups that nothing runs in.

    A group that waits for room is demand that every autoscaler sees; it is let go as soon as there
    is room, and Ray lets it go when this process ends, however it ends. ``request_resources`` would
    hold machines until someone took it back, Ray Train and Ray Data overwrite it, and where one of
    its bundles has no room in the largest cluster, Ray starts nothing for the others.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[Ask, PlacementGroup]] = []

    def let_go(self) -> None:
        """Gives back the room of what has arrived."""
        for ask, group in list(self._waiting):
            if placement_group_table(group).get("state") != "PENDING":
                self._remove(ask, group)

    def update(self, wanted: Sequence[Ask], selector: dict[str, str] | None = None) -> None:
        """Asks for these and nothing else, new ones not from nodes that the selector leaves out."""
        missing = Counter(wanted)
        for ask, group in list(self._waiting):
            if missing[ask] > 0:
                missing[ask] -= 1
            else:
                self._remove(ask, group)
        for ask in missing.elements():
            bundles = [{"CPU": m.cpus, "GPU": m.gpus} for m in ask.bundles]
            bundles = [{k: v for k, v in bundle.items() if v} for bundle in bundles]
            selectors = None if selector is None else [selector] * len(bundles)
            self._waiting.append((ask, placement_group(bundles, bundle_label_selector=selectors)))

    def _remove(self, ask: Ask, group: PlacementGroup) -> None:
        self._waiting.remove((ask, group))
        remove_placement_group(group)
