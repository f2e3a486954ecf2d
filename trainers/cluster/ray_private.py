"""Names of Ray that are not part of its public API, and the one place in `trainers` that uses them.

Ray may change them in any release: check this file and its tests first when Ray is upgraded.
"""

from collections.abc import Callable
from typing import Any

import ray
from ray import ActorID, JobID, PlacementGroupID
from ray._private.state import available_resources_per_node, state
from ray.core.generated import gcs_pb2
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.util.placement_group import PlacementGroup

# The base of a backend that does something of its own before torch's process group is set up.
TorchBackend = _TorchBackend
# A controller's errors when its worker group does not start.
START_ERRORS = (WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError)
# A worker's errors when it cannot be reached any more, besides ``RayActorError``.
UNREACHABLE_ERRORS = (WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError)
# What each living node has left, by node ID. Ray's public function has the cluster's sum.
free_resources: Callable[[], dict[str, dict[str, float]]] = available_resources_per_node
# The cluster's key-value store, for every process of it. What was never written is None.
write_key, read_key = _internal_kv_put, _internal_kv_get


def death_of(error: BaseException) -> BaseException:
    """What a failed health check of a worker met, or the error itself."""
    return error.health_check_failure if isinstance(error, WorkerHealthCheckFailedError) else error


def orphaned_placement_groups() -> list[PlacementGroup]:
    """This job's placement groups whose creator was an actor that is dead.

    The public tables do not say who created a group.
    """
    job: str = ray.get_runtime_context().get_job_id()
    no_actor = ActorID.nil().binary()
    orphans = []
    tables: list[Any] = state._connect_and_get_accessor().get_placement_group_table()
    for content in tables:
        group = gcs_pb2.PlacementGroupTableData.FromString(content)
        removed = group.state == gcs_pb2.PlacementGroupTableData.REMOVED
        # one without an actor was created by the driver
        orphan = group.creator_actor_dead and group.creator_actor_id != no_actor
        ours = JobID(group.creator_job_id).hex() == job
        if ours and orphan and not removed and not group.is_detached:
            orphans.append(PlacementGroup(PlacementGroupID(group.placement_group_id)))
    return orphans
