"""Which ready job starts next on machines that others share. Pure."""

from collections.abc import Iterable, Sequence

from semigrid.grid.cluster.machines import Demand, Machine, fits
from semigrid.grid.study.state import Job

# Number of jobs that may overtake one that does not fit, before machines are cleared for it.
PATIENCE = 8


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
        refused: set[Demand] = set()
        first: Job | None = None
        for job, demand in ready:
            if demand not in refused and self._fits(machines, running, free, demand):
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
