"""What a cluster may grow to, and which machines to request for jobs that wait. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from semigrid.grid.cluster.machines import (
    Demand,
    Machine,
    fits,
    for_training,
    largest_first,
    take_room,
)

# Number of requested machines from which no more are requested until some have arrived.
MANY_REQUESTS = 64

# Room requested from an autoscaler at once; each machine here is a part, or all, of a real one.
Request = tuple[Machine, ...]


@dataclass(frozen=True)
class Growth:
    """What an autoscaler may start: up to ``most`` machines in all, besides the head.

    Attributes:
        limits: how many machines of each size; spot and on-demand machines of a size count
            together. None where there is an autoscaler, but nobody knows what it may start.
    """

    limits: Mapping[Machine, int] | None
    most: int

    def __str__(self) -> str:
        limits = (self.limits or {}).items()
        return ", ".join(f"up to {min(n, self.most)} × {machine}" for machine, n in limits)


FIXED = Growth({}, 0)  # no autoscaler
UNKNOWN = Growth(None, MANY_REQUESTS)


def growth_of(config: Mapping[str, Any]) -> Growth:
    """What an autoscaler's configuration lets it start."""
    all_types = config["max_workers"]
    names: dict[Machine, list[str]] = {}
    limits: Counter[Machine] = Counter()
    for name, kind in config["available_node_types"].items():
        is_head = name == config.get("head_node_type")
        limit = kind.get("max_workers", 0 if is_head else all_types)
        if limit < 1:
            continue
        if not kind.get("resources"):
            return UNKNOWN
        machine = Machine(kind["resources"].get("CPU", 0), kind["resources"].get("GPU", 0))
        names.setdefault(machine, []).append(name)
        limits[machine] += limit
    return Growth({replace(m, kind=" or ".join(names[m])): limits[m] for m in names}, all_types)


def requests_for(
    machines: Sequence[Machine],
    growth: Growth,
    running: Iterable[Demand],
    ready: Iterable[Demand],
    streaming: bool,
    unfit: Sequence[Machine] = (),
) -> list[Request]:
    """The requests with which ready jobs need not wait for running ones.

    They are for whole machines: a part could come from a machine in use, whose CPUs Ray Data
    needs. Jobs that run, or were lost with their machine, are demand of their own to the
    autoscaler.

    Args:
        machines: those that are there, with the head, which counts for no limit.
        ready: in the order in which they are to start.
        unfit: machines that count towards the limits, but are given no work.
    """
    there = Counter([*machines, *unfit])
    if growth.limits is None:  # more of what it has brought already
        room = growth.most
        left = {machine: room for machine in machines if machine.cpus or machine.gpus}
    else:
        room = growth.most - (there.total() - 1)
        left = {machine: most - there[machine] for machine, most in growth.limits.items()}
    free = for_training(machines, streaming)
    alone = True
    for demand in largest_first(running):
        alone = False
        for _ in range(demand.workers):  # one that began alone has more than its part
            take_room(free, replace(demand, workers=1))
    requests: list[Request] = []
    refused: set[Demand] = set()
    for demand in ready:
        if room <= 0 or len(requests) >= MANY_REQUESTS:
            break
        if demand in refused:
            continue
        # one more than its workers where Ray Data needs a machine of its own
        for new in _additions(left, min(room, demand.workers + streaming)):
            if take_room(together := [*free, *for_training(new, streaming)], demand):
                free = together
            elif not (alone and fits(for_training([*machines, *new], streaming, True), [], demand)):
                continue
            requests += [(machine,) for machine in new]
            room -= len(new)
            for machine in new:
                left[machine] -= 1
            break
        else:
            if growth.limits is not None:
                refused.add(demand)
                continue
            cpus = demand.cpus + (max(1.0, demand.cpus) if streaming else 0)
            requests.append((Machine(cpus, demand.gpus),) * demand.workers)
            room -= 1
        alone = False
    return requests


def show_requests(requests: Iterable[Request]) -> str:
    """For example ``2 × gpu-spot (48 CPUs and 4 GPUs)``."""
    counts = Counter(chain.from_iterable(requests))
    return ", ".join(f"{count} × {machine}" for machine, count in counts.items())


def _additions(left: Mapping[Machine, int], most: int) -> Iterator[list[Machine]]:
    """No machine, then ever more new ones: of each size, the smallest first, and of the largest."""
    yield []
    sizes = sorted(left, key=lambda m: (m.gpus, m.cpus))
    largest = [machine for machine in reversed(sizes) for _ in range(left[machine])]
    for count in range(1, most + 1):
        yield from ([machine] * count for machine in sizes if count <= left[machine])
        yield largest[:count]
