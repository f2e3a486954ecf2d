"""How a plan looks on a terminal: its size, what changed, and what is kept."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from semigrid.grid.status.change import Change
from semigrid.grid.study.state import StudyState

_STYLES = {"new": "cyan", "continued": "cyan", "anew": "yellow", "failed": "red", "blocked": "red"}


def plan_facts(study: StudyState) -> dict[str, Any]:
    """Counts of a plan: its cells and trainings, and how many of them are done."""
    cells = [study.searches[cell.name] for cell in study.plan.cells]
    return {
        **study.plan.describe(),
        "trainings_done": sum(study.trainings_done(name) for name in study.searches),
        "trainings_remaining": sum(study.trainings_left(name) for name in study.searches),
        "cells_finished": sum(cell.stage == "finished" for cell in cells),
    }


def plan_lines(study: StudyState, without_data: bool = False) -> Iterator[str]:
    """Cells, trainings, datasets and weights; without data, neither sizes nor images."""
    experiment, facts = study.plan.experiment, plan_facts(study)
    parents, seeds = facts["searches"] - facts["cells"], facts["seeds"]
    extra = f" and {parents} searches that cells start from" if parents else ""
    yield (
        f"{experiment.file.name}: {facts['cells']} cells{extra}, {facts['cells_finished']} finished"
    )
    yield (
        f"{facts['trainings']:,} trainings: {facts['trials_per_search']} trials per cell"
        + (f", winners on {seeds} seeds" if seeds > 1 else "")
        + f"; {facts['trainings_unshared']:,} if parents were not shared"
    )
    yield (
        f"{facts['trainings_remaining']:,} trainings remain, {facts['trainings_done']:,} are in "
        "the ledger"
    )
    if without_data:
        yield "the datasets were not opened: their sizes and fractions are not checked"
    else:
        yield f"{facts['images']:,} images pass through a model in all"
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
    for cell in change.cells:
        what = Text(cell.what, style=_STYLES.get(cell.what, "dim"))
        table.add_row(cell.cell, what, f"{cell.kept:,}", f"{cell.to_do:,}", cell.why)
    for name, trainings in change.removed.items():
        why = "its trainings stay in the ledger" if trainings else ""
        table.add_row(name, Text("removed", style="yellow"), str(trainings), "0", why)
    return table
