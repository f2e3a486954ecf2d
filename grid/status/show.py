"""How a run looks on a terminal: the parts of its live view and of ``status``."""

from collections import Counter
from collections.abc import Iterable

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from semigrid.grid.experiment.bill import bill, device_name, show_bill, show_hours, show_price
from semigrid.grid.experiment.schema import Control
from semigrid.grid.status.cost import ASSUMPTION, FROM_FLOPS, Cost, Estimate, total
from semigrid.grid.status.snapshot import (
    SILENT_SECONDS,
    CellProgress,
    RunningTrial,
    Snapshot,
)

# Which cells a shortened table keeps first.
_BY_INTEREST = ("failed", "searching", "seeds", "evaluating", "blocked", "waiting", "finished")
_STYLES = {"finished": "green", "failed": "red", "blocked": "red", "waiting": "dim"}


def show_seconds(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def finished_of(cells: Iterable[tuple[Control | None, str]]) -> str:
    """``3 of 12 cells finished``, with controls ``3 of 12 cells and 1 of 4 controls finished``.

    Args:
        cells: which control each is, and its state.
    """
    finished: dict[str, list[bool]] = {"cells": [], "controls": []}
    for control, state in cells:
        finished["cells" if control is None else "controls"].append(state == "finished")
    shown = [f"{sum(of)} of {len(of)} {kind}" for kind, of in finished.items() if of]
    return f"{' and '.join(shown)} finished"


def counts(cells: dict[str, CellProgress]) -> str:
    """``3 of 12 cells finished, 1 failed``; see ``finished_of``."""
    count = Counter(cell.state for cell in cells.values())
    shown = [finished_of((cell.control, cell.state) for cell in cells.values())]
    shown += [f"{count[state]} {state}" for state in ("failed", "blocked") if count[state]]
    return ", ".join(shown)


def live(snapshot: Snapshot, now: float) -> RenderableType:
    """The run's own view: a headline, a bar, and the running trials."""
    title = counts(snapshot.cells)
    if snapshot.started_at is not None:
        title += f", {show_seconds(now - snapshot.started_at)}"
    if snapshot.seconds_left is not None:
        title += f", about {show_seconds(snapshot.seconds_left)} left"
    if not snapshot.running:
        title += f": {snapshot.activity}"
    bar = Table.grid()
    bar.add_row(ProgressBar(total=1, completed=snapshot.share_done, width=40))
    parts: list[RenderableType] = [Text(title, style="bold"), bar]
    if snapshot.asked:
        parts.append(Text(f"asked the cluster for {snapshot.asked}"))
    if snapshot.running:
        parts.append(running_table(snapshot.running, now))
    return Group(*parts)


def watch(snapshot: Snapshot, rows: int) -> RenderableType:
    """A run seen from elsewhere, on a terminal of ``rows`` lines: also its cells and its cost."""
    room = max(4, rows - len(snapshot.running) - len(snapshot.cost.estimates) - 15)
    return Group(
        live(snapshot, snapshot.written_at + snapshot.age),
        cells_table(snapshot.cells, room),
        *cost_parts(snapshot.cost),
        heard(snapshot),
    )


def heard(snapshot: Snapshot) -> Text:
    """Where the run is, and when it last gave a sign of life."""
    holder = snapshot.holder
    where = f"on {holder.host}, process {holder.pid}" if holder else "without a lock"
    resume = "the same semigrid run continues from the last checkpoints"
    ago = show_seconds(snapshot.age)
    if snapshot.is_dead:
        return Text(f"the run {where} is dead, last heard from {ago} ago; {resume}", style="red")
    if snapshot.age < SILENT_SECONDS:
        return Text(f"last sign of life {snapshot.age:.0f} s ago, {where}", style="dim")
    return Text(
        f"nothing heard from the run for {ago} ({where}): it died, or its storage or network is "
        f"gone; {resume}",
        style="red",
    )


def cells_table(cells: dict[str, CellProgress], rows: int | None = None) -> Table:
    """Cells and their states; beyond ``rows``, the least interesting ones are only counted."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("cell", "state", "trainings"):
        table.add_column(column, justify="right" if column == "trainings" else "left")
    shown = set(cells)
    if rows is not None and len(cells) > rows:
        by_interest = sorted(cells, key=lambda name: _BY_INTEREST.index(cells[name].state))
        shown = set(by_interest[: rows - 1])
    for name, cell in cells.items():
        if name in shown:
            done = f"{cell.trials_done} of {cell.trials}"
            state = Text(cell.state, style=_STYLES.get(cell.state, ""))
            if cell.pool_unused:
                state.append(", pool unused", style="yellow")
            table.add_row(name, state, done)
    rest = Counter(cell.state for name, cell in cells.items() if name not in shown)
    if rest:
        table.add_row("… and " + ", ".join(f"{count} {state}" for state, count in rest.items()))
    return table


def running_table(running: list[RunningTrial], now: float) -> Table:
    """Running trials; Acc@1 is the one on val that chooses, ``heard`` the last sign of life."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    acc1 = f"{running[0].metric}\nAcc@1"
    for column in ("running", "step", "loss", acc1, "images/s", "left", "heard"):
        table.add_column(column, justify="left" if column == "running" else "right")
    for trial in running:
        table.add_row(*_running_row(trial, now))
    return table


def _running_row(trial: RunningTrial, now: float) -> list[str]:
    heard = "" if trial.heard_at is None else show_seconds(max(0, now - trial.heard_at)) + " ago"
    if trial.kind == "evaluate":
        return [f"{trial.cell}, on test", "", "", "", "", "", heard]
    left = trial.seconds_left(now)
    what = ", soft targets" if trial.kind == "soft targets" else ""
    return [
        f"{trial.cell}, seed {trial.seed}{what}",
        "starting" if trial.total_steps is None else f"{trial.step}/{trial.total_steps}",
        "" if trial.loss is None else f"{trial.loss:.3f}",
        "" if trial.acc1 is None else f"{trial.acc1:.1f}",
        "" if trial.images_per_s is None else f"{trial.images_per_s:,.0f}",
        "" if left is None else show_seconds(left),
        heard,
    ]


def cost_parts(cost: Cost) -> list[RenderableType]:
    """What the remaining trainings take, by model and in all, and what was spent."""
    parts: list[RenderableType] = []
    estimates = list(cost.estimates)
    if len(estimates) > 1:
        unknown = [each.model for each in estimates if each.device_seconds is None]
        note = f"without {', '.join(unknown)}" if unknown else ""
        count = sum(each.trainings for each in estimates)
        estimates.append(Estimate("in all", count, total(estimates) or None, note))
    if estimates:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False)
        for column in ("to train", "trainings", "device time", *(["price"] if cost.prices else [])):
            table.add_column(column, justify="left" if column == "to train" else "right")
        table.add_column("estimated", overflow="fold")
        for each in estimates:
            table.add_row(*_estimate_row(each, cost.prices))
        parts.append(table)
    if any(each.basis == FROM_FLOPS for each in estimates):
        parts.append(Text(ASSUMPTION, style="dim"))
    if cost.spent:
        parts.append(Text(f"spent so far: {show_bill(cost.spent, cost.prices)}"))
    return parts


def _estimate_row(each: Estimate, prices: dict[str, float]) -> list[str]:
    hours = price = "—"
    note = each.basis
    if each.device_seconds is not None:
        hours = "\n".join(
            f"{show_hours(seconds)} {device_name(kind)}"
            for kind, seconds in sorted(each.device_seconds.items())
        )
        priced = bill(each.device_seconds, prices)
        if len(priced.unpriced) < len(each.device_seconds):
            price = show_price(priced.price)
        if prices and priced.unpriced:
            note += f"; no price for {', '.join(priced.unpriced)}"
    return [each.model, f"{each.trainings:,}", hours, *([price] if prices else []), note]
