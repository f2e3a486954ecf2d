"""What a cluster may grow to, and which machines to request for jobs that wait. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semigrid.grid.cluster.machines import Demand, Machine, for_training, spare_one, take_room

# Most machines requested at a time; more are requested when these have arrived.
MOST_REQUESTS = 64


@dataclass(frozen=True)
class NodeType:
    """Machines of one size, of which an autoscaler may start up to ``most``.

    Spot and on-demand machines of a size are one type.
    """

    name: str
    machine: Machine
    most: int

    def __str__(self) -> str:
        return f"{self.name} ({self.machine})"

    @property
    def size(self) -> tuple[float, float]:
        return self.machine.gpus, self.machine.cpus


@dataclass(frozen=True)
class Growth:
    """What an autoscaler may start: up to ``most`` machines in all, besides the head.

    ``types`` is None where there is an autoscaler, but nobody knows what it may start.
    """

    types: tuple[NodeType, ...] | None
    most: int

    def __str__(self) -> str:
        if self.types is None:
            return "machines of types that its autoscaler does not say"
        return ", ".join(f"up to {min(t.most, self.most)} × {t}" for t in self.types)


FIXED = Growth((), 0)  # no autoscaler
UNKNOWN = Growth(None, MOST_REQUESTS)


@dataclass(frozen=True)
class MachineRequest:
    """Room requested from an autoscaler at once; each of ``bundles`` is on one machine.

    ``kind`` names it for people.
    """

    kind: str
    bundles: tuple[Machine, ...]


def growth_of(config: Mapping[str, Any]) -> Growth:
    """What an autoscaler's configuration lets it start."""
    all_types = config["max_workers"]
    names: dict[Machine, list[str]] = {}
    most: Counter[Machine] = Counter()
    for name, kind in config["available_node_types"].items():
        is_head = name == config.get("head_node_type")
        limit = kind.get("max_workers", 0 if is_head else all_types)
        if limit < 1:
            continue
        if not kind.get("resources"):
            return UNKNOWN
        machine = Machine(kind["resources"].get("CPU", 0), kind["resources"].get("GPU", 0))
        names.setdefault(machine, []).append(name)
        most[machine] += limit
    types = (NodeType(" or ".join(names[m]), m, most[m]) for m in names)
    return Growth(tuple(types), all_types)


def largest_clusters(machines: Sequence[Machine], growth: Growth) -> list[list[Machine]]:
    """The largest clusters that the machines may grow to: with each type alone, and with all.

    Not for ``UNKNOWN`` growth.

    Args:
        machines: those that are there, the head first or last: it counts for no type.
    """
    left, room = _left(machines, growth)
    clusters = [[*machines, *[t.machine] * min(count, room)] for t, count in left.items()]
    mixed = list(machines)
    for kind in sorted(left, key=lambda t: t.size, reverse=True):
        mixed += [kind.machine] * min(left[kind], room + len(machines) - len(mixed))
    return [*clusters, mixed]


def requests_for(
    machines: Sequence[Machine],
    growth: Growth,
    running: Iterable[Demand],
    ready: Iterable[Demand],
    streaming: bool,
    unfit: Sequence[Machine] = (),
) -> list[MachineRequest]:
    """The requests with which ready jobs need not wait for running ones.

    They are for whole machines: a part could come from a machine in use, whose CPUs Ray Data
    needs. Jobs that run, or were lost with their machine, are demand of their own to the
    autoscaler.

    Args:
        ready: in the order in which they are to start.
        unfit: machines that count towards the limits, but are given no work.
    """
    running = sorted(running, key=lambda d: (d.gpus, d.cpus), reverse=True)
    left, room = _left([*machines, *unfit], growth)
    if growth.types is None:  # more of what it has brought already
        sizes = {m for m in machines if m.cpus or m.gpus}
        left = {NodeType("machines", m, MOST_REQUESTS): MOST_REQUESTS for m in sizes}
    room = min(room, MOST_REQUESTS)
    free = _room(machines, streaming)
    for demand in running:
        take_room(free, demand)
    requests: list[MachineRequest] = []
    refused: set[Demand] = set()
    for demand in ready:
        if room <= 0:
            break
        if demand in refused or _placed(free, demand):
            continue
        alone = streaming and not running and not requests
        cheapest = _cheapest(demand, free, left, room, streaming, alone)
        if cheapest is not None:
            kind, count = cheapest
            requests += [MachineRequest(str(kind), (kind.machine,))] * count
            free += _room([kind.machine] * count, streaming)
            _placed(free, demand)
            left[kind] -= count
            room -= count
        elif growth.types is None:
            cpus = demand.cpus + (max(1.0, demand.cpus) if streaming else 0)
            bundles = (Machine(cpus, demand.gpus),) * demand.workers
            requests.append(MachineRequest(f"room for {demand}", bundles))
            room -= 1
        else:
            refused.add(demand)
    return requests


def show_requests(requests: Iterable[MachineRequest]) -> str:
    """For example ``2 × gpu-spot (48 CPUs and 4 GPUs)``."""
    counts = Counter(request.kind for request in requests)
    return ", ".join(f"{count} × {kind}" for kind, count in counts.items())


def _cheapest(
    demand: Demand,
    free: Sequence[Sequence[float]],
    left: Mapping[NodeType, int],
    room: int,
    streaming: bool,
    alone: bool,
) -> tuple[NodeType, int] | None:
    """The type and number of the fewest, then smallest, new machines that make the job fit.

    ``alone`` says that nothing else runs: then one CPU in all is enough for Ray Data.
    """

    def enough(machines: list[Machine]) -> bool:
        return _placed([*map(list, free), *_room(machines, streaming)], demand) or (
            alone and _placed(_room(spare_one(machines), False), demand)
        )

    options = [
        (count, kind)
        for kind, most in left.items()
        for count in range(1, min(most, room, demand.workers) + 1)
        if enough([kind.machine] * count)
    ]
    if not options:
        return None
    count, kind = min(options, key=lambda option: (option[0], option[1].size, option[1].name))
    return kind, count


def _left(machines: Sequence[Machine], growth: Growth) -> tuple[dict[NodeType, int], int]:
    """How many more machines of each type may come, and how many in all."""
    there = Counter(machines)
    left = {t: t.most - there[t.machine] for t in growth.types or ()}
    workers = len(machines) - 1 if growth.types is not None else 0
    return {t: count for t, count in left.items() if count > 0}, max(growth.most - workers, 0)


def _room(machines: Iterable[Machine], streaming: bool) -> list[list[float]]:
    return [[m.cpus, m.gpus] for m in for_training(machines, streaming)]


def _placed(free: list[list[float]], demand: Demand) -> bool:
    """Takes a job's room if there is enough of it; else takes nothing."""
    if demand.workers == 1:
        return take_room(free, demand)
    trial = [list(room) for room in free]
    if not take_room(trial, demand):
        return False
    free[:] = trial
    return True
