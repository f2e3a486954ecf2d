"""Starts Ray on this machine, or joins a cluster, with the settings that runs need."""

import contextlib
import logging
import os
import shutil
import signal
from collections.abc import Iterator

import ray
from ray.exceptions import AuthenticationError, RayError, RayTaskError, RuntimeEnvSetupError

from semigrid.data.errors import InputError
from semigrid.data.storage.storage import PATIENCE, storage_patience
from semigrid.grid.cluster.ray_private import (
    JobWithoutFolders,
    connect_to_head,
    forget_token,
    keep_from_runtime_environments,
    loopback_only,
)
from semigrid.grid.run.supervise import RESTARTED, LostRayError, say_began
from semigrid.grid.run.surroundings import cluster_address, ray_inside
from semigrid.trainers.ray_worker import START_TIMEOUT

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Messages of Ray about a cluster that another try would not find either.
NO_CLUSTER = ("Version mismatch", "Could not find any running Ray", "Found multiple active Ray")
# Errors of Ray that every process which drives it would meet again.
LASTING = (AuthenticationError, RayTaskError, RuntimeEnvSetupError)


@contextlib.contextmanager
def ray_running(streaming: bool, folder: str) -> Iterator[None]:
    """Runs Ray on this machine, or joins the cluster at ``RAY_ADDRESS``, during the block.

    Args:
        streaming: whether Ray Data streams a pool, which needs a larger object store.
        folder: for Ray's own files, if it starts here; from ``scratch_folder``.
    """
    with contextlib.ExitStack() as made:
        made.callback(ray.shutdown)
        if cluster_address() is None:
            made.enter_context(ray_inside(folder))
            made.enter_context(loopback_only())
        forget_token()
        _start(streaming)
        yield


def _start(streaming: bool) -> None:
    everywhere = {
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_DEDUP_LOGS": "0",
        "PYTHONWARNINGS": "ignore",
        # what lies in the working directory is never imported, nor by what a process starts
        "PYTHONSAFEPATH": "1",
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
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
        RAY_USAGE_STATS_ENABLED="0",
    )
    # Ray imports MLflow where it is installed, which then keeps an id of this user for its maker
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Ray writes the runtime environments of its processes into logs
    keep_from_runtime_environments("AWS_")
    for name in ("ray", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # the death of a process is no error here: its job goes on, and the trial's log has the reason
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    address = cluster_address()
    if address is not None and RESTARTED not in os.environ:  # else Ray waits for a lost head
        _check_head(address)
    say_began()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        # "local", since no address would join whatever cluster was last started on this machine
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": everywhere},
            job_config=JobWithoutFolders(),
            # the dashboard stays on: without it Ray Train leaks placement groups of stopped trials
            **({"object_store_memory": _object_store_bytes(streaming)} if address is None else {}),
        )
    except Exception as error:
        # no OSError, which would be taken for trouble of the run's storage
        raise _not_started(address, error) from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)  # Ray's core treats them as a crash of its own


def lost_ray(error: BaseException) -> LostRayError | None:
    """What tells that Ray was lost, if an error or one of those that led to it is Ray's own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RayError) and not isinstance(cause, LASTING):
            words = str(cause).strip().splitlines() or [""]
            return LostRayError(f"{type(cause).__name__}: {words[0]}")
        cause = cause.__cause__ or cause.__context__
    return None


def _check_head(address: str) -> None:
    """Raises as ``_not_started`` tells if the cluster there refuses us: Ray would retry long."""
    if address == "auto":
        return
    try:
        connect_to_head(address)
    except Exception as error:
        raise _not_started(address, error) from error


def _not_started(address: str | None, error: Exception) -> InputError | LostRayError:
    """What tells why Ray was not started or joined: an ``InputError`` if it never will be."""
    why = (str(error).strip() or type(error).__name__).splitlines()[0]
    if address is None:
        return LostRayError(f"Ray did not start on this machine: {type(error).__name__}: {why}")
    if isinstance(error, AuthenticationError):
        return InputError(
            f"RAY_ADDRESS={address}: that cluster wants its token; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN), or put the token in ~/.ray/auth_token"
        )
    message = f"RAY_ADDRESS={address}: this cluster cannot be joined: {why}"
    lost = RESTARTED in os.environ  # it was there: its head may come back
    if isinstance(error, ValueError) or (why.startswith(NO_CLUSTER) and not lost):
        return InputError(message)
    return LostRayError(message)


def _object_store_bytes(streaming: bool) -> int:
    """Half a gibibyte; up to two for a streamed pool, whose views are made far ahead."""
    if not streaming:
        return 2**29
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else memory
    return max(2**29, min(2**31, memory // 4, shared * 9 // 10))
