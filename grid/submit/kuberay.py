"""A RayJob for KubeRay that runs an experiment on Kubernetes. Pure.

The fields are those of ``ray.io/v1`` in KubeRay 1.6; of those, ``authOptions`` needs KubeRay 1.5.1.
"""

import hashlib
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from semigrid.data.errors import InputError
from semigrid.grid.experiment import Experiment
from semigrid.trainers.methods import METHODS
from semigrid.trainers.options import TrainOptions, uses_ray_stream

# The operator appends to a RayJob's name, and the sum must be a label (63 characters).
NAME_LENGTH = 47
FILE_FOLDER = "/etc/semigrid"
FILE_NAME = "experiment.yaml"
# The API server takes no larger ConfigMap; the rest of it needs room too.
CONFIG_MAP_BYTES = 1_000_000
# So long (s) after its end a cluster stays for a look at its logs.
KEEP_SECONDS = 300
GPU = "nvidia.com/gpu"

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
)
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_MOUNT = re.compile(r"/[^\x00-\x1f\x7f:]+")


@dataclass(frozen=True)
class RayJobOptions:
    """What a cluster is told beside the experiment.

    Args:
        image: has semigrid installed at the pinned versions; the same for head and workers.
        namespace: where all of it goes; None for kubectl's own.
        max_pods: worker pods at most, of each kind of training.
        workers_per_pod: processes of one training in a pod at most: a node's GPUs. A training with
            more of them takes several pods.
        head_cpus, head_memory_gib: of the head, where the driver runs and nothing trains.
        memory_gib: of a worker pod for each training process in it.
        secret: a Secret whose keys become environment variables of every pod (the bucket's
            credentials). Its values are never read here.
        service_account: of every pod, for a bucket by the cloud's own identity instead. It must
            exist.
        claim, claim_path: a PersistentVolumeClaim (ReadWriteMany) for storage and datasets that
            are no bucket, and where every pod has it.
        node_selector: labels of the nodes for worker pods.
        retries: so many times a job that failed is started again, on a new cluster. It goes on
            from the ledger.
        ray_version: of the image.
    """

    image: str
    namespace: str | None = None
    max_pods: int = 4
    workers_per_pod: int = 8
    head_cpus: int = 4
    head_memory_gib: int = 16
    memory_gib: int = 16
    secret: str | None = None
    service_account: str | None = None
    claim: str | None = None
    claim_path: str = "/mnt/semigrid"
    node_selector: Mapping[str, str] = field(default_factory=dict)
    retries: int = 5
    ray_version: str = "2.60.0"


@dataclass(frozen=True, order=True)
class WorkerPod:
    """One kind of worker pod; where a pool is streamed, half of the CPUs are for Ray Data."""

    cpus: int
    gpus: int
    memory_gib: int
    pods: int  # that one training takes

    @property
    def group(self) -> str:
        return f"cpu{self.cpus}-gpu{self.gpus}-mem{self.memory_gib}"


def manifest(experiment: Experiment, options: RayJobOptions) -> str:
    """A ConfigMap with the experiment and a RayJob that runs it, for ``kubectl apply -f -``.

    Nothing but the arguments goes into it. Raises ``InputError`` for options that Kubernetes would
    refuse, and for storage, datasets or weights that no pod could reach.
    """
    problems = _option_problems(options) or _pod_problems(experiment, options)
    problems += _unreachable(experiment, options) + _size_problems(experiment)
    if problems:
        raise InputError(*problems)
    name = job_name(experiment.file.name)
    documents = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _metadata(name, experiment, options),
            "data": {FILE_NAME: experiment.text},
        },
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": _metadata(name, experiment, options),
            "spec": _job(name, worker_pods(experiment, options), options),
        },
    ]
    return str(yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=10**6))


def job_name(experiment: str) -> str:
    """A DNS label for any experiment's name; two experiments never share one.

    What does not fit into a label is replaced, and a hash of the name added then.
    """
    label = "semigrid-" + re.sub(r"[^a-z0-9]+", "-", experiment.lower()).strip("-")
    if label == f"semigrid-{experiment}" and len(label) <= NAME_LENGTH:
        return label
    digest = hashlib.sha256(experiment.encode()).hexdigest()[:8]
    return f"{label[: NAME_LENGTH - 9].rstrip('-')}-{digest}"


def worker_pods(experiment: Experiment, options: RayJobOptions) -> list[WorkerPod]:
    """The kinds of pods that the grid's trainings need, each once."""
    file = experiment.file
    used = {entry.model for entry in file.grid}
    used |= {parent for model in used if (parent := file.models[model].from_) is not None}
    streams = any(METHODS[file.models[model].method].needs_pool for model in used) and any(
        uses_ray_stream(file.train.stream, dataset) for dataset in experiment.datasets.values()
    )
    return sorted({_pod(experiment.train_of(model), options, streams) for model in used})


def _pod(train: TrainOptions, options: RayJobOptions, streams: bool) -> WorkerPod:
    processes = min(train.workers, options.workers_per_pod)
    cpus = processes * train.cpus_per_worker
    if streams:
        cpus += max(1, cpus)  # half of a machine's CPUs are kept for Ray Data
    return WorkerPod(
        cpus=cpus,
        gpus=math.ceil(processes * train.gpus_per_worker),
        memory_gib=processes * options.memory_gib,
        pods=math.ceil(train.workers / processes),
    )


def _option_problems(options: RayJobOptions) -> list[str]:
    label = "lower-case letters, digits and -, 63 at most"
    subdomain = "lower-case letters, digits, - and ., 253 at most"
    texts = [
        ("image", options.image, _IMAGE, "an image's name, such as shop/semigrid:1"),
        ("namespace", options.namespace, _LABEL, label),
        ("secret", options.secret, _SUBDOMAIN, subdomain),
        ("service_account", options.service_account, _SUBDOMAIN, subdomain),
        ("claim", options.claim, _SUBDOMAIN, subdomain),
        ("claim_path", options.claim_path, _MOUNT, "an absolute path other than /, without :"),
    ]
    problems = [
        f"{name}: {value!r}: must be {wanted}"
        for name, value, pattern, wanted in texts
        if value is not None and not pattern.fullmatch(value)
    ]
    for name in ("max_pods", "workers_per_pod", "head_cpus", "head_memory_gib", "memory_gib"):
        if getattr(options, name) < 1:
            problems.append(f"{name}: {getattr(options, name)}: must be 1 or more")
    if options.retries < 0:
        problems.append(f"retries: {options.retries}: must be 0 or more")
    return problems


def _pod_problems(experiment: Experiment, options: RayJobOptions) -> list[str]:
    return [
        f"max_pods: {options.max_pods}: a training takes {kind.pods} pods of {kind.group}; allow "
        "as many, or raise workers_per_pod"
        for kind in worker_pods(experiment, options)
        if kind.pods > options.max_pods
    ]


def _size_problems(experiment: Experiment) -> list[str]:
    size = len(experiment.text.encode())
    if size <= CONFIG_MAP_BYTES:
        return []
    return [f"{experiment.source}: {size:,} bytes; a ConfigMap holds {CONFIG_MAP_BYTES:,}"]


def _unreachable(experiment: Experiment, options: RayJobOptions) -> list[str]:
    return [
        f"{key}: {place}: no pod of a cluster can reach it; give a bucket's URI such as "
        f"s3://shop/{key.rpartition('.')[2]}, or a path in {options.claim_path} and the claim "
        "that is mounted there"
        for key, place in experiment.file.locations.items()
        if not _reachable(place, options)
    ]


def _reachable(place: str, options: RayJobOptions) -> bool:
    scheme, separator, path = place.partition("://")
    if separator and scheme not in ("file", "local", "memory"):
        return True
    path = path if separator else place
    inside = path.startswith(f"{options.claim_path.rstrip('/')}/") and ".." not in path.split("/")
    return inside and options.claim is not None


def _metadata(name: str, experiment: Experiment, options: RayJobOptions) -> dict[str, Any]:
    return {
        "name": name,
        **({"namespace": options.namespace} if options.namespace else {}),
        "labels": {"app.kubernetes.io/name": "semigrid"},
        "annotations": {"semigrid/experiment": experiment.file.name},
    }


def _job(name: str, pods: list[WorkerPod], options: RayJobOptions) -> dict[str, Any]:
    return {
        "entrypoint": shlex.join(["semigrid", "run", f"{FILE_FOLDER}/{FILE_NAME}"]),
        "backoffLimit": options.retries,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": KEEP_SECONDS,
        "rayClusterSpec": {
            "rayVersion": options.ray_version,
            # the operator makes a token of each cluster's own, and gives it to its pods
            "authOptions": {"mode": "token"},
            "enableInTreeAutoscaling": True,
            "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": KEEP_SECONDS},
            "headGroupSpec": _head(name, options),
            "workerGroupSpecs": [_workers(kind, options) for kind in _widest(pods)],
        },
    }


def _widest(pods: list[WorkerPod]) -> list[WorkerPod]:
    """One of each group: trainings over several pods and trainings in one may share a group."""
    return list({kind.group: kind for kind in sorted(pods, key=lambda kind: kind.pods)}.values())


def _head(name: str, options: RayJobOptions) -> dict[str, Any]:
    container = {
        **_container("ray-head", options.head_cpus, 0, options.head_memory_gib, options),
        "ports": [
            {"name": "gcs-server", "containerPort": 6379},
            {"name": "dashboard", "containerPort": 8265},
        ],
    }
    container["volumeMounts"] = [
        {"name": "experiment", "mountPath": FILE_FOLDER, "readOnly": True},
        *container.get("volumeMounts", []),
    ]
    pod = _pod_spec(container, options)
    pod["volumes"] = [
        {"name": "experiment", "configMap": {"name": name}},
        *pod.get("volumes", []),
    ]
    return {
        "serviceType": "ClusterIP",  # reached from inside of the cluster only
        "enableIngress": False,
        "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},  # nothing trains beside the driver
        "template": {"spec": pod},
    }


def _workers(kind: WorkerPod, options: RayJobOptions) -> dict[str, Any]:
    container = _container("ray-worker", kind.cpus, kind.gpus, kind.memory_gib, options)
    pod = _pod_spec(container, options)
    if options.node_selector:
        pod["nodeSelector"] = dict(options.node_selector)
    if kind.gpus:  # nodes with GPUs are commonly closed to all that does not ask for one
        pod["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    return {
        "groupName": kind.group,
        "replicas": 0,  # the run asks for them
        "minReplicas": 0,
        "maxReplicas": options.max_pods,
        "rayStartParams": {},
        "template": {"spec": pod},
    }


def _container(
    name: str, cpus: int, gpus: int, memory_gib: int, options: RayJobOptions
) -> dict[str, Any]:
    room = {"cpu": str(cpus), "memory": f"{memory_gib}Gi", **({GPU: str(gpus)} if gpus else {})}
    container: dict[str, Any] = {
        "name": name,
        "image": options.image,
        "resources": {"requests": room, "limits": dict(room)},
    }
    if options.secret:
        container["envFrom"] = [{"secretRef": {"name": options.secret}}]
    if options.claim:
        container["volumeMounts"] = [{"name": "storage", "mountPath": options.claim_path}]
    return container


def _pod_spec(container: dict[str, Any], options: RayJobOptions) -> dict[str, Any]:
    # a pod that came back would be another node of Ray's under the old one's name
    pod: dict[str, Any] = {"containers": [container], "restartPolicy": "Never"}
    if options.service_account:
        pod["serviceAccountName"] = options.service_account
    if options.claim:
        pod["volumes"] = [
            {"name": "storage", "persistentVolumeClaim": {"claimName": options.claim}}
        ]
    return pod


class _Dumper(yaml.SafeDumper):
    """Quotes every text: other readers of YAML than PyYAML take 1e3 for a number and y for true."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_mapping(
        self, tag: str, mapping: Any, flow_style: bool | None = None
    ) -> yaml.MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style)
        for key, _ in node.value:
            if re.fullmatch(r"[A-Za-z]{3,}[A-Za-z0-9./-]*", key.value):
                key.style = None
        return node


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, "|" if "\n" in value else '"')


_Dumper.add_representer(str, _text)
