"""Ray for tasks on images: started on this machine or joined, and how many workers fit."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import ray

from semigrid.data.errors import InputError
from semigrid.data.storage import Storage
from semigrid.grid.cluster.machines import Demand, take_room
from semigrid.grid.run.ray_logs import keep_ray_logs
from semigrid.grid.run.room import joined_machines
from semigrid.grid.run.start import lost_ray, ray_running
from semigrid.grid.run.supervise import LostRayError
from semigrid.grid.run.surroundings import scratch_folder
from semigrid.trainers.cluster.ray_tasks import TaskError, Workers


def fitting(workers: int | None, each: Demand) -> Workers:
    """So many workers, or all that fit. Raises ``InputError`` where they do not fit."""
    machines = joined_machines()
    most_cpus = max(1.0, max(machine.cpus for machine in machines))
    each = Demand(0.0 if each.gpus else min(each.cpus, most_cpus), each.gpus)
    free, room = list(machines), 0
    while take_room(free, each):
        room += 1
    if room < (workers or 1):
        instead = "--gpus-per-worker 0 to work on CPUs" if each.gpus else "fewer --workers"
        raise InputError(
            f"{replace(each, workers=workers or 1)} are needed, and Ray has machines with "
            f"{', '.join(map(str, machines))}; give {instead}"
        )
    return Workers(workers or room, each.cpus, each.gpus)


@contextmanager
def ray_for_tasks(kept: Storage) -> Iterator[None]:
    """Runs Ray inside the block; one that this process has started already is left as it is.

    ``kept`` gets the ends of Ray's logs where it or one of its processes dies. Raises ``TaskError``
    for whatever breaks the tasks off.
    """
    if ray.is_initialized():
        yield
        return
    with scratch_folder() as scratch:
        try:
            with ray_running(streaming=False, folder=scratch):
                yield
        except (TaskError, LostRayError) as error:
            if not isinstance(error, LostRayError) and lost_ray(error) is None:
                raise  # Ray did its work
            logs = keep_ray_logs(scratch, kept)
            raise TaskError(f"{error}; Ray's logs: {logs}" if logs else str(error)) from error
