"""Room for jobs on the machines of a cluster, as nodes come and go."""

import time
from collections.abc import Collection, Mapping, Sequence

from semigrid.data.errors import InputError
from semigrid.grid.cluster.admission import Admission
from semigrid.grid.cluster.autoscaler import MachineRequests
from semigrid.grid.cluster.growth import (
    FIXED,
    Growth,
    largest_clusters,
    requests_for,
    show_requests,
)
from semigrid.grid.cluster.machines import (
    Demand,
    Machine,
    demand_of,
    driver_memory,
    fits,
    for_training,
    spare_one,
)
from semigrid.grid.cluster.node_check import NodeCheck, alive_nodes
from semigrid.grid.run.observer import RunObserver
from semigrid.grid.study.scheduler import Scheduler
from semigrid.grid.study.state import Job, StudyState
from semigrid.trainers.cluster.ray_nodes import free_nodes, placement

# Time between two looks at the machines of the cluster, in seconds.
LOOK_SECONDS = 1.0
# Number of unfit nodes that an autoscaler may bring in a row, while nothing runs.
UNFIT_NODES = 3


def cluster_machines() -> list[Machine]:
    """The nodes that are alive now."""
    return [_machine(node["Resources"]) for node in alive_nodes()]


def _machine(resources: Mapping[str, float]) -> Machine:
    return Machine(resources.get("CPU", 0.0), resources.get("GPU", 0.0))


def check_room(
    study: StudyState, machines: Sequence[Machine], streaming: bool, growth: Growth = FIXED
) -> None:
    """Raises ``InputError`` for trainings that not even the grown cluster, idle, could hold."""
    if growth.types is None:
        return
    plan = study.plan
    clusters = largest_clusters(machines, growth)
    problems = []
    open_searches = (s for s in plan.searches if study.is_open(s.name))
    for model in {search.cell.model: None for search in open_searches}:
        demand = demand_of(plan.experiment.train_of(model), "train")
        if not any(_holds(cluster, demand, streaming) for cluster in clusters):
            also = ", and a CPU for Ray Data" if streaming else ""
            problems.append(f"train: one training of {model} needs {demand}{also}")
    if problems:
        present = ", ".join(map(str, machines))
        more = f", and may start {growth}, {growth.most} in all" if growth.types else ""
        raise InputError(
            *problems,
            f"Ray has machines with {present}{more}; lower workers, cpus_per_worker or "
            "gpus_per_worker, in train or in the model's own train, or use larger machines",
        )


def _holds(machines: Sequence[Machine], demand: Demand, streaming: bool) -> bool:
    """Whether the machines hold one training, while nothing else runs."""
    if fits(for_training(machines, streaming), [], demand):
        return True
    # one training at a time, with a CPU to spare for Ray Data
    return streaming and fits(spare_one(machines), [], demand)


class Room:
    """Chooses the next job that the machines have room for, and asks for more machines.

    Args:
        check: keeps nodes free of work that lack something; None on a single machine.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        observer: RunObserver,
        growth: Growth = FIXED,
        check: NodeCheck | None = None,
    ):
        self._scheduler, plan = scheduler, scheduler.study.plan
        self._experiment = plan.experiment
        self._observer, self._growth, self._check = observer, growth, check
        self._streaming = plan.streams_pool
        options = [plan.experiment.train_of(search.cell.model) for search in plan.searches]
        self._has_groups = any(each.workers > 1 for each in options)
        self._admission, self._requests = Admission(), MachineRequests()
        self._look_at_nodes()
        self._looked_at = time.monotonic()

    def look(self, running: Collection[Job]) -> bool:
        """Looks at the machines as they are now, if the last look was a while ago."""
        if time.monotonic() - self._looked_at <= LOOK_SECONDS:
            return False
        self._look_at_nodes()
        self._looked_at = time.monotonic()
        if self._growth != FIXED:
            self._request_machines(running)
        return True

    def _look_at_nodes(self) -> None:
        nodes = alive_nodes()
        undecided, unfit = [], []
        if self._check is not None:
            self._check.look(nodes)
            undecided, unfit = self._check.watch.undecided, self._check.watch.unfit
        machines = {node["NodeID"]: _machine(node["Resources"]) for node in nodes}
        self._undecided = [machines.pop(node_id) for node_id in undecided]
        self._unfit = [machines.pop(node_id) for node_id in unfit]
        self._machines = list(machines.values())
        self._free = [_machine(resources) for resources in free_nodes().values()]
        self._memories = [node["Resources"].get("memory", 0.0) for node in nodes]

    def _request_machines(self, running: Collection[Job]) -> None:
        """Asks the autoscaler for the machines that ready jobs wait for, and for no others."""
        self._requests.release_arrived()
        requests = requests_for(
            [*self._machines, *self._undecided],
            self._growth,
            map(self.demand, running),
            map(self.demand, self._scheduler.ready()),
            self._streaming,
            self._unfit,
        )
        self._requests.update(requests, placement())
        self._observer.asked(show_requests(requests))

    def next_job(self, running: Collection[Job]) -> Job | None:
        """The next job that the machines have room for; None to wait.

        Raises ``InputError`` if nothing runs and an autoscaler brings only unfit nodes.
        """
        machines = for_training(self._machines, self._streaming)
        if self._streaming and not running and self._machines:
            machines = spare_one(self._machines)
        ready = ((job, self.demand(job)) for job in self._scheduler.ready())
        demands = [self.demand(job) for job in running]
        # with nothing running, what is in use is about to be freed, once Tune has a trial again
        free = self._free if self._has_groups and demands else None
        job = self._admission.choose(ready, machines, demands, free)
        if job is not None and self._check is not None:
            self._check.watch.progressed()
        if job is None and not running and not self._scheduler.done:
            wanted = next((str(self.demand(job)) for job in self._scheduler.ready()), "")
            self._observer.activity = f"waiting for machines with {wanted}"
            self._check_hope()
        return job

    def _check_hope(self) -> None:
        """Raises ``InputError`` where an autoscaler brings, or keeps, only nodes of no use.

        Each of them is paid for.
        """
        if self._check is None or self._growth == FIXED or self._undecided:
            return
        rejections = self._check.watch.rejections
        if len(rejections) >= UNFIT_NODES:
            raise InputError(
                *dict.fromkeys(rejections),
                "no node that came has what trainings need, and no other has room; set that right, "
                "then run the same command again",
            )

    def demand(self, job: Job) -> Demand:
        return demand_of(self._experiment.train_of(job.search.cell.model), job.kind)

    def request(self, job: Job) -> dict[str, float]:
        """The resources that Tune reserves for the job's own process."""
        demand = self.demand(job)
        if demand.workers > 1:
            # The process only drives the worker group. Any share of a CPU would leave the last
            # group of a machine one short, and Tune refuses an empty request.
            return {"memory": driver_memory(self._memories)}
        return {"CPU": demand.cpus, "GPU": demand.gpus}
