"""Machines, what a job demands of them, whether it fits, and which job starts next. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from semigrid.grid.study.state import Job
from semigrid.trainers.options import TrainOptions

# Memory of the two processes that drive a worker group, in bytes (`make bench --only scale`).
DRIVER_BYTES = 2**30
# Number of jobs that may overtake one that does not fit, before machines are cleared for it.
PATIENCE = 8


@dataclass(frozen=True)
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
    """The CPUs and GPUs of a node; ``kind`` is the name that an autoscaler has for such nodes."""

    cpus: float
    gpus: float = 0
    kind: str = field(default="", compare=False)

    def __str__(self) -> str:
        size = f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"
        return f"{self.kind} ({size})" if self.kind else size


def demand_of(train: TrainOptions, kind: str) -> Demand:
    """An evaluation on test holds a single worker, all other jobs a whole worker group."""
    workers = 1 if kind == "evaluate" else train.workers
    return Demand(train.cpus_per_worker, train.gpus_per_worker, workers)


def driver_memory(memories: Sequence[float]) -> int:
    """Bytes to request for a worker group's driver, so that Ray spreads drivers over the nodes.

    On small nodes it is an eighth of the largest, since a group must fit wherever its workers do.

    Args:
        memories: bytes that each node offers to Ray.
    """
    return max(1, min(DRIVER_BYTES, int(max(memories, default=0) / 8)))


def for_training(
    machines: Sequence[Machine], streaming: bool, alone: bool = False
) -> list[Machine]:
    """The part of each machine that trainings may use: Ray Data gets half of the CPUs.

    A training that runs ``alone`` leaves it a single one, on the largest machine.
    """
    if not streaming or not machines:
        return list(machines)
    if alone:
        largest, *others = sorted(machines, key=lambda m: m.cpus, reverse=True)
        return [Machine(largest.cpus - 1, largest.gpus), *others]
    return [Machine(m.cpus - max(1.0, m.cpus // 2), m.gpus) for m in machines]


def take_room(free: list[Machine], demand: Demand) -> bool:
    """Takes a job's room, each worker on the first machine that has it; nothing if it lacks room.

    Args:
        free: what is left of each machine; changed in place.
    """
    left = list(free)
    for _ in range(demand.workers):
        for place, room in enumerate(left):
            if room.cpus >= demand.cpus and room.gpus >= demand.gpus:
                left[place] = Machine(room.cpus - demand.cpus, room.gpus - demand.gpus)
                break
        else:
            return False
    free[:] = left
    return True


def largest_first(demands: Iterable[Demand]) -> list[Demand]:
    return sorted(demands, key=lambda d: (d.gpus, d.cpus), reverse=True)


def fits(machines: Sequence[Machine], running: Iterable[Demand], wanted: Demand) -> bool:
    """Whether all these jobs fit at once when the largest are placed first.

    Ray places jobs one by one and may leave gaps: a job that fits here may have to wait there.
    """
    free = list(machines)
    return all(take_room(free, demand) for demand in largest_first([*running, wanted]))


class Admission:
    """Chooses the next job by priority; jobs may overtake one that does not fit, up to a limit."""

    def __init__(self) -> None:
        self._overtaken: dict[tuple[str, str], int] = {}

    def choose(
        self,
        ready: Iterable[tuple[Job, Demand]],
        machines: Sequence[Machine],
        running: Sequence[Demand],
        free: Sequence[Machine] | None = None,
    ) -> Job | None:
        """The first job that fits beside those running, or None to wait.

        Args:
            ready: jobs with their demands, in the order of their priority.
            free: what is left of each machine as Ray has placed the jobs. Running jobs stay where
                they are, so a worker group must fit there too.
        """

        def has_room(demand: Demand) -> bool:
            has_place = free is None or demand.workers == 1 or fits(free, [], demand)
            return has_place and fits(machines, running, demand)

        refused: set[Demand] = set()
        first: Job | None = None
        for job, demand in ready:
            if demand not in refused and has_room(demand):
                if first is not None:
                    self._overtaken[first.key] = self._overtaken.get(first.key, 0) + 1
                self._overtaken.pop(job.key, None)
                return job
            refused.add(demand)
            if first is None:
                first = job
                # waiting makes sense only for a job that the machines can hold at all
                if self._overtaken.get(job.key, 0) >= PATIENCE and fits(machines, [], demand):
                    return None
        return None
