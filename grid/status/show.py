"""How a run looks on a terminal: the same tables for its live view and for ``status``."""

import time
from collections import Counter

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from semigrid.grid.status.cost import show_bill
from semigrid.grid.status.snapshot import SILENT_SECONDS, CellLine, Cost, RunningTrial, Snapshot

# the order in which a shortened table keeps cells: what someone would look for first
_FIRST = ("failed", "searching", "seeds", "measuring", "blocked", "waiting", "finished")
_STYLES = {"finished": "green", "failed": "red", "blocked": "red", "waiting": "dim"}


def show_seconds(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def counts(cells: dict[str, CellLine]) -> str:
    """``3 of 12 cells finished, 1 failed``."""
    count = Counter(line.state for line in cells.values())
    shown = [f"{count['finished']} of {len(cells)} cells finished"]
    shown += [f"{count[state]} {state}" for state in ("failed", "blocked") if count[state]]
    return ", ".join(shown)


def headline(snapshot: Snapshot, now: float) -> str:
    """Cells, the time since the start, and about how long it will take."""
    parts = [counts(snapshot.cells)]
    if snapshot.started_at is not None:
        parts.append(show_seconds(now - snapshot.started_at))
    if snapshot.seconds_left is not None:
        parts.append(f"about {show_seconds(snapshot.seconds_left)} left")
    return ", ".join(parts)


def live(snapshot: Snapshot, now: float) -> RenderableType:
    """A run's own view: one bar, and what is running."""
    title = headline(snapshot, now)
    bar = Table.grid()
    bar.add_row(ProgressBar(total=1, completed=snapshot.share_done, width=40))
    asked = [Text(f"asked the cluster for {snapshot.asked}")] if snapshot.asked else []
    if not snapshot.running:
        return Group(Text(f"{title}: {snapshot.activity}", style="bold"), bar, *asked)
    return Group(Text(title, style="bold"), bar, *asked, running_table(snapshot.running, now))


def watch(snapshot: Snapshot, now: float, silent: float, rows: int) -> RenderableType:
    """A run as seen from elsewhere: also its cells, its cost, and when it last spoke.

    Args:
        silent: seconds since the driver's last sign of life.
        rows: how many lines the terminal has.
    """
    parts: list[RenderableType] = [live(snapshot, now)]
    room = max(4, rows - len(snapshot.running) - 12)
    parts.append(cells_table(snapshot.cells, room))
    parts += [Text(line) for line in cost_lines(snapshot.cost)]
    parts.append(heard(snapshot, silent))
    return Group(*parts)


def heard(snapshot: Snapshot, silent: float, dead: bool = False) -> Text:
    """When the driver last spoke, and where it is."""
    where = f"on {snapshot.host}, process {snapshot.pid}"
    if dead:
        return Text(
            f"the run {where} is dead, it last spoke {show_seconds(silent)} ago; the same semigrid "
            "run goes on from the last checkpoints",
            style="red",
        )
    if silent < SILENT_SECONDS:
        return Text(f"last sign of life {silent:.0f} s ago, {where}", style="dim")
    return Text(
        f"nothing heard from the run for {show_seconds(silent)} ({where}): it died, or its storage "
        "or network is gone; the same semigrid run goes on from the last checkpoints",
        style="red",
    )


def cells_table(cells: dict[str, CellLine], rows: int | None = None) -> Table:
    """Cells by state; of more than ``rows`` the finished and the waiting ones are only counted."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("cell", "state", "trainings"):
        table.add_column(column, justify="right" if column == "trainings" else "left")
    shown = set(cells)
    if rows is not None and len(cells) > rows:
        by_interest = sorted(cells, key=lambda name: _FIRST.index(cells[name].state))
        shown = set(by_interest[: rows - 1])
    for name, line in cells.items():
        if name in shown:
            done = f"{line.trials_done} of {line.trials}"
            table.add_row(name, Text(line.state, style=_STYLES.get(line.state, "")), done)
    rest = Counter(line.state for name, line in cells.items() if name not in shown)
    if rest:
        table.add_row("… and " + ", ".join(f"{count} {state}" for state, count in rest.items()))
    return table


def running_table(running: list[RunningTrial], now: float) -> Table:
    """Acc@1 is that on val, ``heard`` a trial's last sign of life."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("running", "step", "loss", "Acc@1", "images/s", "left", "heard"):
        table.add_column(column, justify="left" if column == "running" else "right")
    for trial in running:
        table.add_row(*_running_row(trial, now))
    return table


def _running_row(trial: RunningTrial, now: float) -> list[str]:
    heard = "" if trial.heard_at is None else show_seconds(max(0, now - trial.heard_at)) + " ago"
    if trial.kind == "evaluate":
        return [f"{trial.cell}, on test", "", "", "", "", "", heard]
    left = trial.seconds_left(now)
    return [
        f"{trial.cell}, seed {trial.seed}",
        "starting" if trial.step is None else f"{trial.step}/{trial.total_steps}",
        "" if trial.loss is None else f"{trial.loss:.3f}",
        "" if trial.acc1 is None else f"{trial.acc1:.1f}",
        "" if trial.images_per_s is None else f"{trial.images_per_s:,.0f}",
        "" if left is None else show_seconds(left),
        heard,
    ]


def cost_lines(cost: Cost) -> list[str]:
    """What was spent, and what is still to be spent as far as it can be said."""
    lines = []
    if cost.spent:
        lines.append(f"spent: {show_bill(cost.spent, cost.prices)}")
    if cost.left:
        bases = _join_bases(cost.bases)
        lines.append(f"still to spend: about {show_bill(cost.left, cost.prices)} ({bases})")
    if cost.unknown:
        lines.append(
            f"not estimated: {', '.join(cost.unknown)}, of which no trial has finished yet; "
            "semigrid plan estimates from FLOPs"
        )
    return lines


def _join_bases(bases: dict[str, str]) -> str:
    by_basis: dict[str, list[str]] = {}
    for model, basis in bases.items():
        by_basis.setdefault(basis, []).append(model)
    if len(by_basis) == 1:
        return next(iter(by_basis))
    return "; ".join(f"{', '.join(models)} {basis}" for basis, models in by_basis.items())


def age(snapshot: Snapshot) -> float:
    """Seconds since a snapshot was written, by this machine's clock."""
    return max(0.0, time.time() - snapshot.written_at)
