"""What a cluster may grow to, and which machines its ready jobs are worth. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semigrid.grid.cluster.slots import Demand, Machine, for_training, place, spare_one

# So many are asked for at a time; the next when these have come.
MOST_ASKS = 64


@dataclass(frozen=True)
class NodeType:
    """Machines of one size that an autoscaler may start, so many at a time; spot and on-demand
    ones of a size count as one type."""

    name: str
    machine: Machine
    most: int

    def __str__(self) -> str:
        return f"{self.name} ({self.machine.cpus:g} CPUs and {self.machine.gpus:g} GPUs)"


@dataclass(frozen=True)
class Growth:
    """What an autoscaler may start: ``most`` machines in all, besides the head.

    ``types`` is None where there is an autoscaler that does not say what it may start.
    """

    types: tuple[NodeType, ...] | None
    most: int

    def __str__(self) -> str:
        if self.types is None:
            return "machines of types that its autoscaler does not say"
        return ", ".join(f"up to {min(t.most, self.most)} × {t}" for t in self.types)


FIXED = Growth((), 0)  # no autoscaler
UNKNOWN = Growth(None, MOST_ASKS)


@dataclass(frozen=True)
class Ask:
    """Room that an autoscaler is asked for at once, each of ``bundles`` on one machine.

    ``kind`` says for people what is asked for.
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


def grown(machines: Sequence[Machine], growth: Growth) -> list[list[Machine]]:
    """The largest clusters that the machines may grow to: by each type alone, and by all.

    Nothing is known of what an ``UNKNOWN`` growth leads to.

    Args:
        machines: those that are there, the head first or last: it counts for no type.
    """
    left, room = _left(machines, growth)
    clusters = [[*machines, *[t.machine] * min(count, room)] for t, count in left.items()]
    mixed = list(machines)
    for kind in sorted(left, key=_size, reverse=True):
        mixed += [kind.machine] * min(left[kind], room + len(machines) - len(mixed))
    return [*clusters, mixed]


def asks_for(
    machines: Sequence[Machine],
    growth: Growth,
    running: Iterable[Demand],
    ready: Iterable[Demand],
    streaming: bool,
    unfit: Sequence[Machine] = (),
) -> list[Ask]:
    """What to ask the autoscaler for, so that ready jobs need not wait for running ones.

    Whole machines are asked for, since a part might be found on a machine that is in use, whose
    CPUs Ray Data needs. What already runs, or is lost with its machine, asks for itself.

    Args:
        ready: in the order in which they are to start.
        unfit: machines that count for the limits, but are given no work.
    """
    running = sorted(running, key=lambda d: (d.gpus, d.cpus), reverse=True)
    left, room = _left([*machines, *unfit], growth)
    if growth.types is None:  # the likes of what it has brought already
        shapes = {m for m in machines if m.cpus or m.gpus}
        left = {NodeType("machines", m, MOST_ASKS): MOST_ASKS for m in shapes}
    room = min(room, MOST_ASKS)
    free = _room(machines, streaming)
    for demand in running:
        place(free, demand)
    asks: list[Ask] = []
    refused: set[Demand] = set()
    for demand in ready:
        if room <= 0:
            break
        if demand in refused or _placed(free, demand):
            continue
        alone = streaming and not running and not asks
        found = _cheapest(demand, free, left, room, streaming, alone)
        if found is not None:
            kind, count = found
            asks += [Ask(str(kind), (kind.machine,))] * count
            free += _room([kind.machine] * count, streaming)
            _placed(free, demand)
            left[kind] -= count
            room -= count
        elif growth.types is None:
            cpus = demand.cpus + (max(1.0, demand.cpus) if streaming else 0)
            asks.append(Ask(f"room for {demand}", (Machine(cpus, demand.gpus),) * demand.workers))
            room -= 1
        else:
            refused.add(demand)
    return asks


def show_asks(asks: Iterable[Ask]) -> str:
    """Such as ``2 × gpu-spot (48 CPUs and 4 GPUs)``."""
    counts = Counter(ask.kind for ask in asks)
    return ", ".join(f"{count} × {kind}" for kind, count in counts.items())


def _cheapest(
    demand: Demand,
    free: Sequence[Sequence[float]],
    left: Mapping[NodeType, int],
    room: int,
    streaming: bool,
    alone: bool,
) -> tuple[NodeType, int] | None:
    """The type of which the fewest machines are enough, of those the smallest, and how many."""
    found = []
    for kind, count in left.items():
        for more in range(1, min(count, room, demand.workers) + 1):
            new = [kind.machine] * more
            if _placed([*map(list, free), *_room(new, streaming)], demand) or (
                # one training at a time, with a CPU to spare for Ray Data
                alone and _placed(_room(spare_one(new), False), demand)
            ):
                found.append((more, _size(kind), kind.name, kind))
                break
    if not found:
        return None
    more, _, _, kind = min(found, key=lambda each: each[:3])
    return kind, more


def _left(machines: Sequence[Machine], growth: Growth) -> tuple[dict[NodeType, int], int]:
    """How many more of each type may come, and how many in all."""
    there = Counter(machines)
    left = {t: t.most - there[t.machine] for t in growth.types or ()}
    workers = len(machines) - 1 if growth.types is not None else 0
    return {t: count for t, count in left.items() if count > 0}, max(growth.most - workers, 0)


def _room(machines: Iterable[Machine], streaming: bool) -> list[list[float]]:
    return [[m.cpus, m.gpus] for m in for_training(machines, streaming)]


def _placed(free: list[list[float]], demand: Demand) -> bool:
    """Takes a job's room if there is enough of it, else nothing."""
    if demand.workers == 1:
        return place(free, demand)
    trial = [list(room) for room in free]
    if not place(trial, demand):
        return False
    free[:] = trial
    return True


def _size(kind: NodeType) -> tuple[float, float]:
    return kind.machine.gpus, kind.machine.cpus
