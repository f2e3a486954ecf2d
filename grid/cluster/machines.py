"""Machines, what a job demands of them, and whether it fits. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from semigrid.trainers.options import TrainOptions

# Memory of the two processes that drive a worker group, in bytes (`make bench --only scale`).
DRIVER_BYTES = 2**30


@dataclass(frozen=True, order=True)
class Demand:
    """What a job holds while it runs: these CPUs and GPUs for each of its ``workers``.

    A worker takes all it needs from one machine; the workers may be on several.
    """

    cpus: float
    gpus: float
    workers: int = 1

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPUs" if self.gpus else ""
        return f"{self.workers} × {self.cpus:g} CPUs{gpus}"


@dataclass(frozen=True)
class Machine:
    """The CPUs and GPUs of a node."""

    cpus: float
    gpus: float = 0

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


def demand_of(train: TrainOptions, kind: str) -> Demand:
    """A training holds its whole worker group, an evaluation on test a single worker."""
    workers = train.workers if kind == "train" else 1
    return Demand(train.cpus_per_worker, train.gpus_per_worker, workers)


def driver_memory(memories: Sequence[float]) -> int:
    """Bytes to request for a worker group's driver, so that Ray spreads drivers over the nodes.

    On small nodes it is an eighth of the largest, since a group must fit wherever its workers do.

    Args:
        memories: bytes that each node offers to Ray.
    """
    return max(1, min(DRIVER_BYTES, int(max(memories, default=0) / 8)))


def for_training(machines: Iterable[Machine], streaming: bool) -> list[Machine]:
    """The part of each machine that trainings may use: Ray Data gets half of the CPUs."""
    if not streaming:
        return list(machines)
    return [Machine(m.cpus - max(1.0, m.cpus // 2), m.gpus) for m in machines]


def spare_one(machines: Sequence[Machine]) -> list[Machine]:
    """The machines with one CPU less on the largest."""
    by_size = sorted(machines, key=lambda m: m.cpus, reverse=True)
    return [Machine(by_size[0].cpus - 1, by_size[0].gpus), *by_size[1:]]


def take_room(free: list[list[float]], demand: Demand) -> bool:
    """Takes a job's room, each worker on the first machine that has it.

    Returns False, with part of the room taken, if the job does not fit.

    Args:
        free: CPUs and GPUs left on each machine; changed in place.
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
    """Whether all these jobs fit at once when the largest are placed first.

    Ray places jobs one by one and may leave gaps: a job that fits here may have to wait there.
    """
    free = [[machine.cpus, machine.gpus] for machine in machines]
    demands = sorted([*running, wanted], key=lambda d: (d.gpus, d.cpus), reverse=True)
    return all(take_room(free, demand) for demand in demands)
