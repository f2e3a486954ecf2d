"""How a plan looks on a terminal: its size, what changed, what is kept, what it costs."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from semigrid.grid.status.change import CellChange, Change
from semigrid.grid.status.cost import (
    ASSUMPTION,
    FROM_FLOPS,
    Estimate,
    bill,
    device_name,
    show_bill,
    show_hours,
    show_price,
    total,
)
from semigrid.grid.study.state import StudyState

_STYLES = {"new": "cyan", "continued": "cyan", "anew": "yellow", "failed": "red", "blocked": "red"}
# Most unchanged cells that are listed one by one.
_FEW = 12


@dataclass(frozen=True)
class PlanProgress:
    """How much of a plan is done."""

    trainings_done: int
    trainings_remaining: int
    cells_finished: int


def progress_of(study: StudyState) -> PlanProgress:
    cells = [study.searches[cell.name] for cell in study.plan.cells]
    return PlanProgress(
        trainings_done=sum(study.trainings_done(name) for name in study.searches),
        trainings_remaining=sum(study.trainings_left(name) for name in study.searches),
        cells_finished=sum(cell.stage == "finished" for cell in cells),
    )


def plan_lines(study: StudyState, without_data: bool = False) -> Iterator[str]:
    """Cells, trainings, datasets and weights; without data, neither sizes nor images."""
    plan, progress = study.plan, progress_of(study)
    experiment = plan.experiment
    parents = len(plan.searches) - len(plan.cells)
    extra = f" and {parents} searches that cells start from" if parents else ""
    seeds = experiment.file.seeds
    yield (
        f"{experiment.file.name}: {len(plan.cells)} cells{extra}, "
        f"{progress.cells_finished} finished"
    )
    yield (
        f"{plan.trainings:,} trainings: {plan.trials} trials per cell"
        + (f", winners on {seeds} seeds" if seeds > 1 else "")
        + f"; {plan.trainings_unshared:,} if parents were not shared"
    )
    yield (
        f"{progress.trainings_remaining:,} trainings remain, {progress.trainings_done:,} are in "
        "the ledger"
    )
    if without_data:
        yield "the datasets were not opened: their sizes and fractions are not checked"
    else:
        yield f"{plan.images:,} images pass through a model in all"
        for name, dataset in experiment.datasets.items():
            manifest = dataset.manifest
            yield (
                f"dataset {name}: {sum(manifest.counts['train'].values()):,} training images of "
                f"{len(manifest.classes)} classes, pool {manifest.pool:,} "
                f"(100% is {experiment.pool_unit(name):,}), {manifest.license}, "
                f"fingerprint {manifest.fingerprint[:12]}"
            )
    for name, weights in experiment.weights.items():
        yield f"weights of {name}: {weights.describe()}"


def change_parts(change: Change) -> Iterator[Text | Table]:
    """Differences from the last run in the folder, key by key, then cell by cell."""
    if not change.had_run:
        return
    if change.keys:
        yield Text("changed since the last run in this folder:", style="bold")
        for key in change.keys:
            yield Text(f"  {key}", style="" if key.changes_numbers else "dim")
    elif not any(cell.what in ("new", "anew") for cell in change.cells) and not change.removed:
        yield Text("nothing changed since the last run in this folder", style="bold")
    count = Counter[str](cell.what for cell in change.cells)
    if change.removed:
        count["removed"] = len(change.removed)
    yield Text("cells: " + ", ".join(f"{n} {what}" for what, n in count.items()), style="bold")
    yield _cells(change)
    if change.unused:
        yield Text(
            f"{change.unused:,} trainings in the ledger belong to no cell of this file: they stay "
            "there, and count again if the file asks for them"
        )


def _cells(change: Change) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("cell", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("kept", justify="right")
    table.add_column("to do", justify="right")
    table.add_column("why", overflow="fold")
    quiet = [c.cell for c in change.cells if c.what in ("finished", "not asked") and not c.why]
    hidden = set(quiet if len(quiet) > _FEW else ())
    for cell in change.cells:
        if cell.cell not in hidden:
            table.add_row(*_row(cell))
    if hidden:
        kept = sum(cell.kept for cell in change.cells if cell.cell in hidden)
        table.add_row(f"… and {len(hidden)} more", "nothing to do", f"{kept:,}", "0")
    for name, trainings in change.removed.items():
        why = "its trainings stay in the ledger" if trainings else ""
        table.add_row(name, Text("removed", style="yellow"), str(trainings), "0", why)
    return table


def _row(cell: CellChange) -> tuple[str | Text, ...]:
    what = Text(cell.what, style=_STYLES.get(cell.what, "dim"))
    return cell.cell, what, f"{cell.kept:,}", f"{cell.to_do:,}", cell.why


def estimate_parts(
    estimates: Sequence[Estimate], prices: Mapping[str, float]
) -> Iterator[Text | Table]:
    """What the remaining trainings take, and the assumptions behind it."""
    yield _estimates(estimates, prices)
    if any(each.basis == FROM_FLOPS for each in estimates):
        yield Text(ASSUMPTION, style="dim")


def _estimates(estimates: Sequence[Estimate], prices: Mapping[str, float]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("to train", no_wrap=True)
    table.add_column("trainings", justify="right")
    table.add_column("device time", justify="right")
    if prices:
        table.add_column("price", justify="right")
    table.add_column("estimated", overflow="fold")
    for each in estimates:
        table.add_row(*_estimate_row(each, prices))
    if len(estimates) > 1:
        table.add_section()
        whole = total(estimates)
        missing = [each.model for each in estimates if each.device_seconds is None]
        note = f"without {', '.join(missing)}" if missing else ""
        overall = Estimate("in all", sum(e.trainings for e in estimates), whole or None, note)
        table.add_row(*_estimate_row(overall, prices))
    return table


def _estimate_row(each: Estimate, prices: Mapping[str, float]) -> list[str]:
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


def spent_line(device_seconds: Mapping[str, float], prices: Mapping[str, float]) -> str:
    return f"spent so far: {show_bill(dict(device_seconds), prices)}"
