"""Starts Ray on this machine, or joins a cluster, with the settings that runs need."""

import logging
import os
import shutil
import socket
import tempfile

import ray
from ray.exceptions import AuthenticationError

from semigrid.data.errors import InputError
from semigrid.data.storage.storage import PATIENCE, storage_patience
from semigrid.grid.cluster.ray_private import connect_to_head, keep_from_runtime_environments
from semigrid.grid.run.supervise import RESTARTED
from semigrid.trainers.ray_worker import START_TIMEOUT

# Longest wait for a cluster to answer at all, in seconds.
ANSWER_SECONDS = 10.0


def start_ray(streaming: bool) -> None:
    """Starts Ray on this machine, or joins the cluster at ``RAY_ADDRESS``, quietly.

    Args:
        streaming: whether Ray Data streams a pool, which needs a larger object store.
    """
    everywhere = {
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_DEDUP_LOGS": "0",
        "PYTHONWARNINGS": "ignore",
        # datasets and weights in buckets are read by the worker processes
        PATIENCE: f"{storage_patience():g}",
        # worker groups start sooner, and Ray Train's messages stay in log files
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_TRAIN_METRICS_ENABLED": "0",
        START_TIMEOUT: os.environ.get(START_TIMEOUT, "300"),
    }
    os.environ.update(
        everywhere,
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_DISABLE_SIGINT_HANDLER="1",
        TUNE_MAX_PENDING_TRIALS_PG="auto",
        TUNE_WARN_THRESHOLD_S="60",
        TUNE_GLOBAL_CHECKPOINT_S="600",
        RAY_AIR_NEW_OUTPUT="0",
        RAY_TMPDIR=os.environ.get("RAY_TMPDIR", tempfile.gettempdir()),
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
        RAY_USAGE_STATS_ENABLED="0",
    )
    # Ray writes the runtime environments of its processes into logs
    keep_from_runtime_environments("AWS_")
    for name in ("ray", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # the death of a process is no error here: its job goes on, and the trial's log has the reason
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    # "local", since no address would join whatever cluster was last started on this machine
    address = os.environ.get("RAY_ADDRESS") or "local"
    if RESTARTED not in os.environ:  # after a restart the head may be lost, and Ray waits for it
        check_address(address)
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": everywhere},
        # the dashboard stays on: without it Ray Train leaks placement groups of stopped trials
        **({"object_store_memory": _object_store_bytes(streaming)} if address == "local" else {}),
    )


def check_address(address: str) -> None:
    """Raises ``InputError`` if no cluster answers there, or it refuses us: Ray would retry long."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there ({error}); give the address that "
            "`ray start --head` printed, or unset RAY_ADDRESS to run on this machine"
        ) from error
    try:
        connect_to_head(address)
    except AuthenticationError as error:
        raise InputError(
            f"RAY_ADDRESS={address}: that cluster wants its token; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN), or put the token in ~/.ray/auth_token"
        ) from error


def _object_store_bytes(streaming: bool) -> int:
    """Half a gibibyte; up to two for a streamed pool, whose views are made far ahead."""
    if not streaming:
        return 2**29
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else memory
    return max(2**29, min(2**31, memory // 4, shared * 9 // 10))
