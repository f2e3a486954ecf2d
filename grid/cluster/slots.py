"""Which jobs fit on the machines there are, beside those that run. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from semigrid.grid.study.scheduler import Job
from semigrid.trainers.options import TrainOptions

# A job that does not fit lets so many that fit go before it; then machines are cleared for it.
PATIENCE = 8
# What the two processes that drive a worker group take on their node (`make bench --only scale`).
DRIVER_BYTES = 2**30


@dataclass(frozen=True, order=True)
class Demand:
    """What a job holds while it runs: ``workers`` times these, each on one machine."""

    cpus: float
    gpus: float
    workers: int = 1

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPUs" if self.gpus else ""
        return f"{self.workers} × {self.cpus:g} CPUs{gpus}"


@dataclass(frozen=True)
class Machine:
    """What a node of the cluster has."""

    cpus: float
    gpus: float = 0


def demand_of(train: TrainOptions, kind: str) -> Demand:
    """A training holds its whole group, a measurement what one worker would."""
    workers = train.workers if kind == "train" else 1
    return Demand(train.cpus_per_worker, train.gpus_per_worker, workers)


def driver_memory(memories: Sequence[float]) -> int:
    """Bytes that a worker group's driver asks for; else Ray would put all of them on one node.

    On small nodes it is an eighth of the largest, as a group must fit wherever its workers do.

    Args:
        memories: of each node the bytes that Ray has to give.
    """
    return max(1, min(DRIVER_BYTES, int(max(memories, default=0) / 8)))


def for_training(machines: Iterable[Machine], streaming: bool) -> list[Machine]:
    """What is left for trainings where Ray Data's tasks need CPUs too: half of them."""
    if not streaming:
        return list(machines)
    return [Machine(m.cpus - max(1.0, m.cpus // 2), m.gpus) for m in machines]


def spare_one(machines: Sequence[Machine]) -> list[Machine]:
    """The machines with one CPU less on the largest."""
    by_size = sorted(machines, key=lambda m: m.cpus, reverse=True)
    return [Machine(by_size[0].cpus - 1, by_size[0].gpus), *by_size[1:]]


def place(free: list[list[float]], demand: Demand) -> bool:
    """Takes a job's room, each worker where it first fits; False, and part is taken, if it cannot.

    Args:
        free: of each machine the CPUs and the GPUs that are left.
    """
    for _ in range(demand.workers):
        for room in free:
            if room[0] >= demand.cpus and room[1] >= demand.gpus:
                room[0] -= demand.cpus
                room[1] -= demand.gpus
                break
        else:
            return False
    return True


def fits(machines: Sequence[Machine], running: Iterable[Demand], wanted: Demand) -> bool:
    """Whether all of these have room at once, the largest placed first, each where it first fits.

    Ray places them one by one and may leave gaps: what fits here may have to wait there.
    """
    free = [[machine.cpus, machine.gpus] for machine in machines]
    demands = sorted([*running, wanted], key=lambda d: (d.gpus, d.cpus), reverse=True)
    return all(place(free, demand) for demand in demands)


class Admission:
    """Chooses the next job: by priority, and past one that does not fit, but not for ever."""

    def __init__(self) -> None:
        self._passed: dict[tuple[str, str], int] = {}

    def choose(
        self,
        ready: Iterable[tuple[Job, Demand]],
        machines: Sequence[Machine],
        running: Sequence[Demand],
        free: Sequence[Machine] | None = None,
    ) -> Job | None:
        """A job that fits beside those running; None if there is none, or one's turn is overdue.

        Args:
            free: what the machines have left, as Ray has filled them: what runs is not moved, so
                a worker group must also fit there.
        """
        refused: set[Demand] = set()
        first: Job | None = None
        for job, demand in ready:
            if demand not in refused and self._fits(machines, running, free, demand):
                if first is not None:
                    self._passed[first.key] = self._passed.get(first.key, 0) + 1
                self._passed.pop(job.key, None)
                return job
            refused.add(demand)
            if first is None:
                first = job
                # waiting for it makes sense only if the machines could ever hold it
                if self._passed.get(job.key, 0) >= PATIENCE and fits(machines, [], demand):
                    return None
        return None

    def _fits(
        self,
        machines: Sequence[Machine],
        running: Sequence[Demand],
        free: Sequence[Machine] | None,
        demand: Demand,
    ) -> bool:
        if free is not None and demand.workers > 1 and not fits(free, [], demand):
            return False
        return fits(machines, running, demand)
