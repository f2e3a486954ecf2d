"""A RayJob for KubeRay that runs an experiment on Kubernetes. Pure."""

import hashlib
import math
import re
import shlex
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from semigrid.data.errors import InputError
from semigrid.data.storage.address import is_local
from semigrid.grid.experiment.experiment import Experiment
from semigrid.grid.study.plan import Plan
from semigrid.trainers.options import TrainOptions

# Longest name of a RayJob: the operator appends to it, and a label has at most 63 characters.
NAME_LENGTH = 47
# Where pods of the head find the experiment file, and all pods the volume of a claim.
FILE_FOLDER, FILE_NAME = "/etc/semigrid", "experiment.yaml"
CLAIM_PATH = "/mnt/semigrid"
# Memory of a worker pod for each training process in it, in GiB.
MEMORY_GIB = 16


@dataclass(frozen=True)
class RayJobOptions:
    """Settings of the Kubernetes cluster, beside the experiment.

    Args:
        image: image with semigrid installed at the pinned versions, for head and workers.
        namespace: namespace of everything; None for kubectl's own.
        max_pods: most worker pods of each kind of training.
        workers_per_pod: most processes of one training in a pod, the GPUs of a node. A training
            with more of them takes several pods.
        secret: a Secret whose keys become environment variables of every pod (the bucket's
            credentials). Its values are never read here.
        service_account: account of every pod, for a bucket by the cloud's own identity instead.
        claim: a PersistentVolumeClaim (ReadWriteMany), mounted at ``CLAIM_PATH`` in every pod, for
            storage and datasets that are not in a bucket.
    """

    image: str
    namespace: str | None = None
    max_pods: int = 4
    workers_per_pod: int = 8
    secret: str | None = None
    service_account: str | None = None
    claim: str | None = None


@dataclass(frozen=True, order=True)
class WorkerPod:
    """One kind of worker pod; ``pods`` is how many of them one training takes."""

    cpus: int
    gpus: int
    memory_gib: int
    pods: int

    @property
    def group(self) -> str:
        return f"cpu{self.cpus}-gpu{self.gpus}-mem{self.memory_gib}"


def manifest(experiment: Experiment, options: RayJobOptions) -> str:
    """A ConfigMap with the experiment and a RayJob that runs it, for ``kubectl apply -f -``.

    Raises ``InputError`` without an image, for trainings that do not fit into the pods, and for
    storage, datasets or weights that no pod could reach. Kubernetes checks names.
    """
    problems = [] if options.image else ["image: give the image's name, such as shop/semigrid:1"]
    problems += _unreachable(experiment, options)
    pods = worker_pods(experiment, options)
    problems += [
        f"max_pods: {options.max_pods}: a training takes {kind.pods} pods of {kind.group}; allow "
        "as many, or raise workers_per_pod"
        for kind in pods
        if kind.pods > options.max_pods
    ]
    if problems:
        raise InputError(*problems)
    environment = Environment(
        loader=PackageLoader("semigrid.grid", "submit"),
        autoescape=True,  # marks the template's own text, which is not quoted
        finalize=_yaml_value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("rayjob.yaml.j2").render(
        name=job_name(experiment.file.name),
        experiment=experiment.file.name,
        text=experiment.text,
        options=options,
        # pods of trainings over several and of trainings in one may be of the same group
        pods=list({kind.group: kind for kind in pods}.values()),
        entrypoint=shlex.join(["semigrid", "run", f"{FILE_FOLDER}/{FILE_NAME}"]),
        file_folder=FILE_FOLDER,
        claim_path=CLAIM_PATH,
        ray_version=version("ray"),
    )


def job_name(experiment: str) -> str:
    """A DNS label for any experiment's name; two experiments never share one.

    Characters that a label cannot have are replaced, and then a hash of the name is added.
    """
    label = "semigrid-" + re.sub(r"[^a-z0-9]+", "-", experiment.lower()).strip("-")
    if label == f"semigrid-{experiment}" and len(label) <= NAME_LENGTH:
        return label
    digest = hashlib.sha256(experiment.encode()).hexdigest()[:8]
    return f"{label[: NAME_LENGTH - 9].rstrip('-')}-{digest}"


def worker_pods(experiment: Experiment, options: RayJobOptions) -> list[WorkerPod]:
    """The kinds of pods that the grid's trainings need, each once."""
    plan = Plan(experiment)
    models = {search.cell.model for search in plan.searches}
    return sorted({_pod(experiment.train_of(m), options, plan.streams_pool) for m in models})


def _pod(train: TrainOptions, options: RayJobOptions, streams: bool) -> WorkerPod:
    processes = min(train.workers, options.workers_per_pod)
    cpus = processes * train.cpus_per_worker
    if streams:
        cpus += max(1, cpus)  # half of a machine's CPUs are kept for Ray Data
    return WorkerPod(
        cpus=cpus,
        gpus=math.ceil(processes * train.gpus_per_worker),
        memory_gib=processes * MEMORY_GIB,
        pods=math.ceil(train.workers / processes),
    )


def _yaml_value(value: Any) -> Any:
    """How the template writes a value: text quoted, or a block of lines, so that it stays text.

    Readers of YAML disagree about plain text: some take 1e3 for a number, and y for true.
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    style = "|" if "\n" in value else '"'
    text = yaml.safe_dump(value, default_style=style, width=10**6).removesuffix("...\n")
    return Markup(text.removesuffix("\n").replace("\n", "\n  "))


def _unreachable(experiment: Experiment, options: RayJobOptions) -> list[str]:
    """Problems with locations that are neither in a bucket nor in the claim's volume."""
    problems = []
    for key, location in experiment.file.locations.items():
        in_claim = location.startswith(f"{CLAIM_PATH}/") and ".." not in location.split("/")
        if is_local(location) and not (options.claim and in_claim):
            problems.append(
                f"{key}: {location}: no pod of a cluster can reach it; give a bucket's URI such as "
                f"s3://shop/{key.rpartition('.')[2]}, or a path in {CLAIM_PATH} and the claim that "
                "is mounted there"
            )
    return problems
