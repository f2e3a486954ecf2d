"""The command line: ``semigrid plan | run | status | table``, and ``semigrid data``."""

import json
import os
import shlex
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console

from data.errors import InputError
from data.patience import StorageGoneError, storage_patience
from data.storage import Storage
from grid import data_cli
from grid.experiment import Experiment, load_experiment
from grid.lock import RunLock
from grid.supervise import DriverGoneError, Supervisor, follow_supervisor, say_ended

OK, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
EXPERIMENT_COPY = "experiment.yaml"

app = typer.Typer(
    help="How many labels does an image classifier need, and what can unlabelled images replace?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_cli.app, name="data")
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Source = Annotated[
    str, typer.Argument(metavar="EXPERIMENT", help="An experiment file, or a run's folder or URI.")
]
StorageOption = Annotated[
    str | None, typer.Option(help="Keep results here instead of the file's storage.")
]
SeedsOption = Annotated[
    int | None, typer.Option(min=1, help="Run winners on this many seeds instead of the file's.")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="DDP workers per training instead of the file's.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class TableFormat(StrEnum):
    """How ``table`` prints."""

    terminal = "terminal"
    markdown = "markdown"
    csv = "csv"
    json = "json"


@app.command()
def plan(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    without_data: Annotated[
        bool, typer.Option(help="Count without opening the datasets, before they are built.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what would run: cells, trainings after sharing, and what is done already."""
    experiment = _load(source, storage, seeds, without_data=without_data)
    scheduler, _, _ = _scheduler(experiment, for_run=True)
    facts = scheduler.plan.describe()
    done = sum(_cell_state(scheduler, name)["trials_done"] for name in scheduler.states)
    finished = [c for c in scheduler.plan.cells if scheduler.states[c.name].state == "finished"]
    facts |= {
        "trainings_done": done,
        "trainings_remaining": facts["trainings"] - done,
        "cells_finished": len(finished),
        "folder": Storage(experiment.folder).uri,
    }
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    _print_plan(experiment, facts, without_data)


def _print_plan(experiment: Experiment, facts: dict[str, Any], without_data: bool) -> None:
    hidden = facts["searches"] - facts["cells"]
    extra = f" and {hidden} searches that cells start from" if hidden else ""
    lines = [
        f"{facts['experiment']}: {facts['cells']} cells{extra}, {facts['cells_finished']} finished",
        f"{facts['trainings']:,} trainings: {facts['trials_per_search']} trials a cell"
        + (f", winners on {facts['seeds']} seeds" if facts["seeds"] > 1 else "")
        + f"; {facts['trainings_unshared']:,} if parents were not shared",
        f"{facts['trainings_remaining']:,} trainings remain, {facts['trainings_done']:,} are in "
        "the ledger",
    ]
    if without_data:
        lines.append("the datasets were not opened: their sizes and fractions are not checked")
    else:
        lines.append(f"{facts['images']:,} images pass through a model in all")
        for name, dataset in experiment.datasets.items():
            manifest = dataset.manifest
            lines.append(
                f"dataset {name}: {sum(manifest.counts['train'].values()):,} training images of "
                f"{len(manifest.classes)} classes, pool {manifest.pool:,} "
                f"(100% is {experiment.pool_unit(name):,}), {manifest.license}, "
                f"fingerprint {manifest.fingerprint[:12]}"
            )
    for name, weights in experiment.weights.items():
        lines.append(f"weights of {name}: {weights.describe()}")
    lines.append(f"results: {facts['folder']}")
    for line in lines:
        out.print(line, soft_wrap=True)


@app.command()
def run(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    workers: WorkersOption = None,
) -> None:
    """Train what the ledger lacks, then print the table. Also how to resume: run it again."""
    from grid.trackers.create import check_trackers

    experiment = _load(source, storage, seeds, workers)
    folder = Storage(experiment.folder)
    try:
        folder.check_writable()
    except OSError as error:
        raise InputError(
            f"storage: {experiment.folder!r}: cannot be written: {error}; give a folder or URI "
            "that can, in the file or with --storage"
        ) from error
    check_trackers(experiment)
    command = [sys.executable, "-m", "grid.cli", "drive", experiment.source, folder.uri]
    supervisor = Supervisor(command, _say)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with RunLock(folder, _say, supervisor.interrupt) as lock:
        folder.write(EXPERIMENT_COPY, experiment.text.encode())
        # from here on the folder is there, and if it vanishes it is waited for
        scheduler, records, _ = _scheduler(experiment, True, storage_patience())
        if scheduler.done:
            err.print("nothing to train: every trial of this experiment is in the ledger")
            raise typer.Exit(_report(scheduler, records, folder))
        try:
            code = supervisor.run()
        except DriverGoneError as error:
            _say(f"{error}. To go on: {_this_command()}")
            code = SOME_FAILED
    if lock.lost_to is not None:
        _say(
            f"stopped: this process slept, and another run took over: {lock.lost_to}; all that was "
            "finished is kept, and that run goes on with it"
        )
        code = SOME_FAILED
    elif code == INTERRUPTED:
        _say(
            "interrupted: finished trials are kept, running ones go on from their last checkpoint. "
            f"To go on: {_this_command()}"
        )
    raise typer.Exit(code)


def _this_command() -> str:
    return shlex.join(["semigrid", *sys.argv[1:]])


@app.command(hidden=True)
def drive(source: str, folder: str) -> None:
    """What ``run`` lets a process of its own do, holding the lock: train, then print the table."""
    follow_supervisor()
    code = _reported(lambda: _drive(source, Storage(folder)))
    say_ended(code)
    raise typer.Exit(code)


def _drive(source: str, folder: Storage) -> int:
    try:
        experiment = load_experiment(source, text=folder.read(EXPERIMENT_COPY).decode())
        scheduler, _, ledger = _scheduler(experiment, True, storage_patience())
        _execute(scheduler, ledger)
    except KeyboardInterrupt:
        return INTERRUPTED
    return _report(scheduler, ledger.read_all(), folder)


def _report(scheduler: Any, records: Any, folder: Storage) -> int:
    """Prints the table and what failed; the exit code."""
    _print_table(scheduler, records, TableFormat.terminal)
    failed = _failures(scheduler)
    for name, why in failed.items():
        err.print(f"{name}: {why}", style="red", soft_wrap=True, markup=False)
    out.print(f"results: {folder.uri}", soft_wrap=True)
    return SOME_FAILED if failed else OK


def _say(text: str) -> None:
    err.print(text, soft_wrap=True, markup=False)


def _execute(scheduler: Any, ledger: Any) -> None:
    """Runs the plan under the live view; raises ``KeyboardInterrupt`` on Ctrl-C or SIGTERM."""
    # Ray reads this when it is imported; it would print its machines' messages among the results
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    from grid.live import LiveView
    from grid.preflight import check_models
    from grid.run import run_plan
    from grid.trackers.create import create_trackers

    check_models(scheduler, err.print)

    stop = threading.Event()

    def interrupt(*_: object) -> None:
        stop.set()  # the exception may be lost in a callback of Ray's: this is not
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    trackers = create_trackers(scheduler.plan, ledger.storage, ledger.read_all(), _say)
    try:
        run_plan(scheduler, ledger, LiveView(err), stop, trackers=trackers)
    finally:
        trackers.close()
    err.print(
        f"trained {len(scheduler.trained)} trials, measured {len(scheduler.measured)} on test"
    )


@app.command()
def status(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how far a run is, from the ledger alone."""
    scheduler, records, _ = _scheduler(_load(source, storage, seeds))
    cells = {cell.name: _cell_state(scheduler, cell.name) for cell in scheduler.plan.cells}
    trials = Counter(record.status for record in records.values())
    if as_json:
        print(json.dumps({"cells": cells, "trials": dict(trials)}, indent=1))
        return
    from rich.table import Table

    table = Table()
    for column in ("cell", "state", "trials"):
        table.add_column(column, justify="right" if column == "trials" else "left")
    for name, facts in cells.items():
        table.add_row(name, facts["state"], f"{facts['trials_done']} of {facts['trials']}")
    out.print(table)
    shown = ", ".join(f"{trials[s]} {s}" for s in sorted(trials)) or "none yet"
    out.print(f"trials: {shown}")


@app.command()
def table(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="SLICE", help="Show Acc@1 on each value of a slice of the datasets."),
    ] = None,
    format: Annotated[TableFormat, typer.Option(help="How to print it.")] = TableFormat.terminal,
    as_json: JsonOption = False,
) -> None:
    """Print the results table, from the ledger and the predictions alone."""
    scheduler, records, ledger = _scheduler(_load(source, storage, seeds))
    sliced = None
    if by is not None:
        from grid.slices import by_slice

        sliced = by_slice(scheduler, records, ledger.storage, by)
    _print_table(scheduler, records, TableFormat.json if as_json else format, sliced)


def _load(
    source: str,
    storage: str | None,
    seeds: int | None,
    workers: int | None = None,
    without_data: bool = False,
) -> Experiment:
    """Reads an experiment file, or the copy of it in a run's folder."""
    overrides: dict[str, Any] = {}
    if storage is not None:
        overrides["storage"] = storage
    if seeds is not None:
        overrides["seeds"] = seeds
    text = None
    folder = Storage(source)
    if folder.fs.isdir(folder.root):
        if not folder.exists(EXPERIMENT_COPY):
            raise InputError(
                f"{source}: a folder without {EXPERIMENT_COPY}: no run was started here; give "
                "an experiment file"
            )
        try:
            text = folder.read(EXPERIMENT_COPY).decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{source}/{EXPERIMENT_COPY}: cannot be read: {error}") from error
        overrides.setdefault("storage", folder.uri.rpartition("/")[0])
        source = folder.path(EXPERIMENT_COPY)
    experiment = load_experiment(source, overrides, text, workers, without_data)
    if text is not None and storage is None and Storage(experiment.folder).uri != folder.uri:
        raise InputError(
            f"{folder.uri}: this folder was renamed: its experiment is called "
            f"{experiment.file.name!r}; rename the folder to that"
        )
    return experiment


def _scheduler(experiment: Experiment, for_run: bool = False, patience: float = 0) -> Any:
    """The plan's state as the ledger has it, the records, and the ledger.

    ``for_run`` looks for the predictions of measured cells too: a run makes those again that are
    missing, while their scores stand in the ledger for a table.
    """
    from grid.ledger import Ledger, record_summary
    from grid.plan import Plan
    from grid.scheduler import Scheduler
    from grid.suggested import Suggestions

    ledger = Ledger(Storage(experiment.folder, patience))
    records = ledger.read_all()
    for path in ledger.unreadable:
        err.print(f"{path}: not a readable record; its trial trains again", soft_wrap=True)
    facts = {trial_id: record_summary(record) for trial_id, record in records.items()}
    scheduler = Scheduler(
        Plan(experiment),
        facts,
        ledger.has_weights,
        ledger.has_predictions if for_run else lambda trial_id: True,
        Suggestions(ledger.storage, writes=for_run and patience > 0).suggest,
    )
    for problem in ledger.problems:
        _say(problem)
    return scheduler, records, ledger


def _cell_state(scheduler: Any, name: str) -> dict[str, Any]:
    from grid.ledger import ENDED

    state = scheduler.states[name]
    facts = [scheduler.facts.get(spec.id, {}) for spec in state.specs]
    return {
        "state": state.state,
        "trials_done": sum(f.get("status") in ENDED for f in facts),
        "trials": scheduler.plan.trainings_per_search,
    }


def _failures(scheduler: Any) -> dict[str, str]:
    return {
        name: f"{state.state}: {state.failure}"
        for name, state in scheduler.states.items()
        if state.state in ("failed", "blocked")
    }


def _print_table(scheduler: Any, records: Any, format: TableFormat, by: Any = None) -> None:
    from grid import results

    rows = results.table_rows(scheduler, records)
    if format is TableFormat.terminal:
        # a pipe has no width: show the whole table there
        console = out if out.is_terminal else Console(highlight=False, width=140)
        for part in results.rich_tables(rows, console, by):
            console.print(part)
        for note in results.notes(rows, by):
            console.print(note, soft_wrap=True, markup=False)
        return
    printers = {
        TableFormat.markdown: results.markdown,
        TableFormat.csv: results.csv,
        TableFormat.json: results.as_json,
    }
    print(printers[format](rows, by))
    if by is not None and format is not TableFormat.markdown:  # which has them below the table
        for problem in by.problems:
            err.print(problem, soft_wrap=True, markup=False)


def main() -> None:
    """Entry point of the ``semigrid`` command."""
    sys.exit(_reported(app))


def _reported(work: Callable[[], int]) -> int:
    """Does the work and returns its exit code, or that of the problem that it prints."""
    try:
        return work()
    except InputError as error:
        for problem in error.problems:
            err.print(problem, style="red", soft_wrap=True, markup=False)
        return BAD_INPUT
    except StorageGoneError as error:
        err.print(str(error), style="red", soft_wrap=True, markup=False)
        return SOME_FAILED


if __name__ == "__main__":
    main()
