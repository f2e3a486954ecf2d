"""Names of Ray that are not part of its public API, and the one place in `grid` that uses them.

Ray may change them in any release: check this file and its tests first when Ray is upgraded.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray._common.usage.usage_constants import KUBERAY_ENV
from ray._private import ray_constants
from ray._private.authentication.authentication_token_setup import AuthenticationTokenLoader
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.services import GcsClient
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.experimental import internal_kv
from ray.job_config import JobConfig
from ray.job_submission import JobSubmissionClient
from ray.tune.execution import class_cache

# Seconds until a silent job API counts as away: to connect, and between two parts of an answer.
JOB_API_SECONDS = (5, 30)


class TimedJobClient(JobSubmissionClient):  # type: ignore[misc]  # Ray has no types
    """Ray's client of the job API, which by itself would wait for a silent host without end."""

    def _do_request(self, method: str, endpoint: str, **how: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": JOB_API_SECONDS, **how})


def connect_to_head(address: str) -> None:
    """Connects to a cluster's head once; ``AuthenticationError`` if it refuses our token.

    ``ray.init`` would try again and again, and then end the process.
    """
    GcsClient(address=address)


@contextlib.contextmanager
def loopback_only() -> Iterator[None]:
    """Has a cluster that starts in the block listen on 127.0.0.1, as Ray does on macOS.

    Ray turns a ``_node_ip_address`` of 127.0.0.1 into the machine's own address elsewhere.
    """
    name, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[name] = "0"  # for the processes of the cluster
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[name]


def forget_token() -> None:
    """Makes this process read its token again; Ray reads it once."""
    AuthenticationTokenLoader.instance().reset_cache()


class JobWithoutFolders(JobConfig):  # type: ignore[misc]  # Ray is untyped
    """A job whose processes do not import from the driver's working directory.

    Ray puts it first on their import path, so that a file ``data.py`` or ``torch.py`` of the user's
    would be executed in every process.
    """

    def _serialize(self) -> Any:
        self._py_driver_sys_path: list[str] = []
        return super()._serialize()


def keep_from_runtime_environments(prefix: str) -> None:
    """Stops Tune from copying environment variables with this prefix to its processes.

    Tune puts cloud credentials among others into their runtime environments.
    """
    class_cache.ENV_VARS_TO_PROPAGATE -= {
        name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith(prefix)
    }


def in_kuberay() -> bool:
    """Whether KubeRay started the pod that this runs in; it sets this environment variable."""
    return bool(os.environ.get(KUBERAY_ENV))


def is_head(node: dict[str, Any]) -> bool:
    """Whether an entry of ``ray.nodes()`` is the head: only the head has this resource."""
    return HEAD_NODE_RESOURCE_NAME in node["Resources"]


def autoscaler_options(gcs_port: str) -> dict[str, str] | None:
    """Command-line options of the autoscaler of a cluster, if it is a process of this machine.

    Ray publishes nowhere what its autoscaler may start. It runs as ``…/autoscaler/…/monitor.py``
    on the head, with ``--gcs-address`` and, if it may start machines, ``--autoscaling-config``.
    """
    import psutil  # bundled with Ray

    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if not any("/autoscaler/" in w and w.endswith("/monitor.py") for w in words):
            continue
        options = dict(w.split("=", 1) for w in words if w.startswith("--") and "=" in w)
        if options.get("--gcs-address", "").rpartition(":")[2] == gcs_port:
            return options
    return None


def autoscaler_has_reported() -> bool:
    """Whether an autoscaler, wherever it runs, has reported to the cluster this is connected to.

    The first version of Ray's autoscaler leaves its status in the key-value store, the second one
    in the state that the GCS answers with.
    """
    if internal_kv._internal_kv_exists(DEBUG_AUTOSCALING_STATUS):
        return True
    reply = GetClusterStatusReply()
    reply.ParseFromString(internal_kv.internal_kv_get_gcs_client().get_cluster_status())
    return bool(reply.HasField("autoscaling_state"))
