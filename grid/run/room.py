"""Room for jobs on the machines of a cluster, as nodes come and go."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from semigrid.data.errors import InputError
from semigrid.data.storage import Storage
from semigrid.grid.cluster.autoscaler import Pending, cluster_growth, request_machines
from semigrid.grid.cluster.growth import FIXED, Growth, requests_for, show_requests
from semigrid.grid.cluster.machines import (
    Admission,
    Demand,
    Machine,
    demand_of,
    driver_memory,
    fits,
    for_training,
)
from semigrid.grid.cluster.node_requirements import requirements_of, unmet_requirements
from semigrid.grid.cluster.node_watch import ANSWER_SECONDS, NodeWatch
from semigrid.grid.run.dispatch import RunObserver
from semigrid.grid.run.surroundings import cluster_address
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.scheduler import Scheduler
from semigrid.grid.study.state import Job, StudyState
from semigrid.trainers.cluster.ray_nodes import free_nodes, keep_free

# Time between two looks at the machines of the cluster, in seconds.
LOOK_SECONDS = 1.0
# Longest wait for the first node beside a head that has no CPUs, in seconds.
JOIN_SECONDS = 60.0
# Number of unfit nodes that an autoscaler may bring in a row, while nothing runs.
UNFIT_NODES = 3
# Longest wait for a node that first installs the job's packages, torch among them, in seconds.
INSTALL_SECONDS = 1200.0


def on_cluster() -> bool:
    """Whether the run is on a cluster that was started elsewhere, and not on this machine alone."""
    return cluster_address() is not None


def cluster_machines() -> list[Machine]:
    """The nodes that are alive now."""
    return [_machine(node["Resources"]) for node in _alive_nodes()]


def joined_machines() -> list[Machine]:
    """The nodes that are alive, once one can work: a head without CPUs is there before the others.

    Waits for that at most ``JOIN_SECONDS``.
    """
    until = time.monotonic() + JOIN_SECONDS
    while True:
        machines = cluster_machines()
        if any(m.cpus or m.gpus for m in machines) or time.monotonic() > until:
            return machines
        time.sleep(0.5)


def _machine(resources: Mapping[str, float]) -> Machine:
    return Machine(resources.get("CPU", 0.0), resources.get("GPU", 0.0))


def _alive_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _labels(nodes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {
        node["NodeID"]: f"node {node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
        for node in nodes
    }


def check_room(
    study: StudyState, machines: Sequence[Machine], streaming: bool, growth: Growth = FIXED
) -> None:
    """Raises ``InputError`` for trainings that not even the grown cluster, idle, could hold."""
    plan = study.plan
    problems = []
    for model in dict.fromkeys(s.cell.model for s in plan.searches if study.is_open(s.name)):
        demand = demand_of(plan.experiment.train_of(model), "train")
        if not fits(for_training(machines, streaming, alone=True), [], demand) and not requests_for(
            machines, growth, [], [demand], streaming
        ):
            also = ", and a CPU for Ray Data" if streaming else ""
            problems.append(f"train: one training of {model} needs {demand}{also}")
    if problems:
        present = ", ".join(map(str, machines))
        more = f", and may start {growth}, {growth.most} in all" if growth.limits else ""
        raise InputError(
            *problems,
            f"Ray has machines with {present}{more}; lower workers, cpus_per_worker or "
            "gpus_per_worker, in train or in the model's own train, or use larger machines",
        )


class Room:
    """Chooses the next job that the machines have room for, and asks for more machines.

    On a cluster, nodes that lack something are kept free of work. Raises ``InputError`` for
    trainings without room and, before the first trial, for what nodes lack.
    """

    def __init__(self, scheduler: Scheduler, storage: Storage, observer: RunObserver):
        self._scheduler, plan = scheduler, scheduler.study.plan
        self._experiment, self._observer = plan.experiment, observer
        self._streaming = plan.streams_pool
        self._admission = Admission()
        self._requested: list[Pending] = []
        self._growth = cluster_growth() if on_cluster() else FIXED
        # an autoscaler starts nodes when they are asked for, and no sooner
        machines = joined_machines() if self._growth == FIXED else cluster_machines()
        check_room(scheduler.study, machines, self._streaming, self._growth)
        self._watch: NodeWatch | None = None
        if on_cluster():
            observer.activity = "asking each node what it lacks"
            self._watch = _node_watch(plan, storage, observer, self._growth != FIXED)
            continues = bool(scheduler.study.records)
            self._watch.before_the_first_trial(lambda: _labels(_alive_nodes()), continues)
        self._look_at_nodes()

    def look(self) -> bool:
        """Looks at the machines as they are now, if the last look was a while ago.

        Asks the autoscaler for the machines that ready jobs wait for, and for no others.
        """
        if time.monotonic() - self._looked_at <= LOOK_SECONDS:
            return False
        self._look_at_nodes()
        if self._growth != FIXED:
            requests = requests_for(
                [*self._machines, *self._undecided],
                self._growth,
                self._running(),
                map(self.demand, self._scheduler.ready()),
                self._streaming,
                self._unfit,
            )
            self._requested = request_machines(requests, self._requested)
            self._observer.asked(show_requests(requests))
        return True

    def _look_at_nodes(self) -> None:
        nodes = _alive_nodes()
        machines = {node["NodeID"]: _machine(node["Resources"]) for node in nodes}
        self._undecided, self._unfit = [], []
        if self._watch is not None:
            self._watch.look(_labels(nodes))
            self._undecided = [machines.pop(node_id) for node_id in self._watch.undecided]
            self._unfit = [machines.pop(node_id) for node_id in self._watch.unfit]
        self._machines = list(machines.values())
        self._free = [_machine(resources) for resources in free_nodes().values()]
        self._memories = [node["Resources"].get("memory", 0.0) for node in nodes]
        self._looked_at = time.monotonic()

    def _running(self) -> list[Demand]:
        return [self.demand(job) for job in self._scheduler.running.values()]

    def next_job(self) -> Job | None:
        """The next job that the machines have room for; None to wait.

        Raises ``InputError`` if nothing runs and an autoscaler brings only unfit nodes.
        """
        running = self._running()
        machines = for_training(self._machines, self._streaming, alone=not running)
        ready = ((job, self.demand(job)) for job in self._scheduler.ready())
        # with nothing running, what is in use is about to be freed, once Tune has a trial again
        job = self._admission.choose(ready, machines, running, self._free if running else None)
        if job is not None and self._watch is not None:
            self._watch.rejections.clear()
        if job is None and not running and not self._scheduler.done:
            wanted = next((str(self.demand(job)) for job in self._scheduler.ready()), "")
            self._observer.activity = f"waiting for machines with {wanted}"
            rejections = self._watch.rejections if self._watch is not None else []
            # an autoscaler brings, or keeps, only nodes of no use; each of them is paid for
            if self._growth != FIXED and not self._undecided and len(rejections) >= UNFIT_NODES:
                raise InputError(
                    *dict.fromkeys(rejections),
                    "no node that came has what trainings need, and no other has room; set that "
                    "right, then run the same command again",
                )
        return job

    def demand(self, job: Job) -> Demand:
        return demand_of(self._experiment.train_of(job.search.cell.model), job.kind)

    def request(self, job: Job) -> dict[str, float]:
        """The resources that Tune reserves for the job's own process."""
        demand = self.demand(job)
        if demand.workers > 1 or job.kind == "soft targets":
            # The process only drives the worker group, or tasks of Ray Data. Any share of a CPU
            # would leave the last group of a machine one short, and Tune refuses an empty request.
            return {"memory": driver_memory(self._memories)}
        return {"CPU": demand.cpus, "GPU": demand.gpus}


def _node_watch(plan: Plan, storage: Storage, observer: RunObserver, grows: bool) -> NodeWatch:
    requirements = requirements_of(plan, storage)

    def ask(node_id: str) -> "Future[list[str]]":
        on_node = NodeAffinitySchedulingStrategy(node_id, soft=False)
        task = ray.remote(num_cpus=0, max_retries=0)(unmet_requirements)
        remote = task.options(scheduling_strategy=on_node).remote(requirements)
        answer: Future[list[str]] = remote.future()
        return answer

    # Ray installs packages on each node before anything of this job runs there
    installs = not {"pip", "uv", "conda"}.isdisjoint(ray.get_runtime_context().runtime_env)
    longest = INSTALL_SECONDS if installs else ANSWER_SECONDS
    return NodeWatch(ask, keep_free, observer.noted, longest, grows)
