"""``semigrid plan``: what would run, what a changed file keeps, and what it would cost."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from fractions import Fraction
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from semigrid.data.precision import (
    ASSUMED_ACCURACY,
    classes_without_val,
    half_width,
    precision_line,
    precision_of,
    val_lines,
)
from semigrid.grid.commands.console import echo, echo_json, out
from semigrid.grid.commands.context import OpenStudy, last_text, load, open_study
from semigrid.grid.commands.options import (
    JsonOption,
    OnlyOption,
    SeedsOption,
    Source,
    StorageOption,
)
from semigrid.grid.experiment.label_count import labels_used, val_counts
from semigrid.grid.experiment.schema import show_percent
from semigrid.grid.status.change import Change, compare
from semigrid.grid.status.cost import Cost, estimate, spent
from semigrid.grid.status.feeding import feeding_warning
from semigrid.grid.status.lengths import CellLength, lengths, lengths_parts
from semigrid.grid.status.show import cost_parts, finished_of
from semigrid.grid.study.state import StudyState
from semigrid.trainers.methods import Fitted, find_method

WIDE_VAL = 0.08  # half a 95 % interval, as a share: what some 100 images give
_WITHOUT_DATA: dict[str, object] = {"forwards": None, "test": {}, "without_val": {}, "labels": {}}
_STYLES = {"new": "cyan", "continued": "cyan", "anew": "yellow", "failed": "red", "blocked": "red"}


def plan(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    without_data: Annotated[
        bool,
        typer.Option("--without-data", help="Count trainings before the datasets are built."),
    ] = False,
    only: OnlyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what would run: what changed, what is kept, what remains, and its cost.

    Each cell that takes steps has their number, its batch (labelled + unlabelled images) and its
    epochs.
    """
    experiment = load(source, storage, seeds, without_data=without_data)
    show_plan(open_study(experiment, only, for_run=True), without_data, as_json)


def show_plan(study: OpenStudy, without_data: bool = False, as_json: bool = False) -> None:
    """Prints the plan; without data, nothing is known of sizes, changes and costs."""
    state, change, estimates = study.state, None, []
    trained: list[CellLength] = []
    if not without_data:
        trained = lengths(state.plan)
        change = compare(state, last_text(study.ledger.storage))
        estimates = estimate(state, count_flops=True)
    cost = Cost(spent(state), estimates, state.plan.experiment.file.prices)
    experiment = state.plan.experiment
    counts = {
        **state.plan.counts(),
        "trainings_done": sum(map(state.trainings_done, state.searches)),
        "trainings_remaining": sum(map(state.trainings_left, state.searches)),
        "cells_finished": _finished(state, controls=False),
        "controls_finished": _finished(state, controls=True),
    }
    if as_json:
        facts = {
            "experiment": experiment.file.name,
            **counts,
            "weights": {name: each.model_dump() for name, each in experiment.weights.items()},
            **(_WITHOUT_DATA if without_data else _of_data(state)),
            "folder": study.ledger.storage.uri,
            "trainings_by_cell": [asdict(each) for each in trained],
            "change": None if change is None else asdict(change),
            "cost": cost.as_json(),
        }
        echo_json(facts)
        return
    for line in _lines(state, counts, without_data):
        echo(line)
    echo(f"results: {study.ledger.storage.uri}")
    recipes = lengths_parts(trained) if trained else ()
    for part in [*recipes, *(_change_parts(change) if change else ()), *cost_parts(cost)]:
        out.print(part)


def _finished(study: StudyState, *, controls: bool) -> int:
    """How many cells, or how many of their controls, are finished."""
    cells = [cell for cell in study.plan.cells if (cell.control is not None) == controls]
    return sum(study.searches[cell.name].stage == "finished" for cell in cells)


def _lines(study: StudyState, counts: Mapping[str, int], without_data: bool) -> Iterator[str]:
    """Cells, trainings, datasets and weights."""
    experiment = study.plan.experiment
    seeds, parents = counts["seeds"], counts["searches"] - counts["cells"] - counts["controls"]
    stages = ((cell.control, study.searches[cell.name].stage) for cell in study.plan.cells)
    extra = f"; {parents} searches that cells start from" if parents else ""
    yield f"{experiment.file.name}: {finished_of(stages)}{extra}"
    yield (
        f"{counts['trainings']:,} trainings: {counts['trials_per_search']} trials per cell"
        + (", one where nothing is searched" if len({*study.plan.trials.values()}) > 1 else "")
        + (f", winners on {seeds} seeds" if seeds > 1 else "")
        + f"; {counts['trainings_unshared']:,} if parents were not shared"
    )
    yield (
        f"{counts['trainings_remaining']:,} trainings remain, {counts['trainings_done']:,} are in "
        "the ledger"
    )
    fitted = sum(isinstance(find_method(study.plan.method(c)), Fitted) for c in study.plan.cells)
    if fitted:
        yield f"{fitted:,} cells take no steps: a head is fitted to features of a frozen backbone"
    if without_data:
        yield "the datasets were not opened: their sizes and fractions are not checked"
    else:
        yield f"{counts['forwards']:,} forwards of an image in all; a backward counts as two"
        for name, dataset in experiment.datasets.items():
            manifest, used = dataset.manifest, labels_used(experiment, name, Fraction(1))
            yield (
                f"dataset {name}: {used.total:,} labels ({used}), {len(manifest.classes)} "
                f"classes, pool {manifest.pool:,} "
                f"(100% is {experiment.pool_unit(name):,}), {manifest.license}, "
                f"fingerprint {manifest.fingerprint[:12]}"
            )
            of_test = precision_line(precision_of(manifest.counts))
            for line in (of_test, *val_lines(manifest.counts)):
                yield f"dataset {name}: {line}"
        yield from _small_vals(study)
        yield from feeding_warning(study)
    for name, weights in experiment.weights.items():
        yield f"weights of {name}: {weights.describe()}"


def _small_vals(study: StudyState) -> Iterator[str]:
    """Warnings about vals that are too small to tell trials apart."""
    experiment = study.plan.experiment
    searched = dict.fromkeys((s.cell.dataset, s.cell.labels) for s in study.plan.searches)
    for name, fraction in searched:
        counts = [n for n in val_counts(experiment, name, fraction).values() if n]
        width = half_width(counts)
        if width is not None and width > WIDE_VAL:
            nested = experiment.file.validation == "nested"
            remedy = "validation: fixed" if nested else "data build --val-share"
            yield (
                f"warning: val of {name} at {show_percent(fraction)} has {sum(counts):,} images, "
                f"few to choose trials on: at {ASSUMED_ACCURACY:.0%} in every class balanced "
                f"accuracy is known to ±{100 * width:.1f} points (95%); {remedy} gives more"
            )


def _of_data(study: StudyState) -> dict[str, object]:
    """What only the datasets tell: each one's test and val, and the labels that each cell uses."""
    experiment, datasets = study.plan.experiment, study.plan.experiment.datasets
    used = {
        cell.name: labels_used(experiment, cell.dataset, cell.labels) for cell in study.plan.cells
    }
    return {
        "test": {name: precision_of(each.manifest.counts) for name, each in datasets.items()},
        "without_val": {n: classes_without_val(d.manifest.counts) for n, d in datasets.items()},
        "labels": {name: {**asdict(count), "total": count.total} for name, count in used.items()},
    }


def _change_parts(change: Change) -> Iterator[Text | Table]:
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
    yield table
    if change.unused:
        yield Text(
            f"{change.unused:,} trainings in the ledger belong to no cell of this file: they stay "
            "there, and count again if the file asks for them"
        )
