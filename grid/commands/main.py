"""The command line: ``semigrid run`` and all that is asked of a run; ``semigrid data``."""

import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import typer

from semigrid.data.errors import InputError, StorageGoneError
from semigrid.data.storage import Storage, open_storage
from semigrid.data.storage.patient import storage_patience
from semigrid.grid.commands import data as data_cli
from semigrid.grid.commands import results as results_cli
from semigrid.grid.commands import submit as submit_cli
from semigrid.grid.commands.console import (
    BAD_INPUT,
    INTERRUPTED,
    OK,
    SOME_FAILED,
    JsonOption,
    OnlyOption,
    SeedsOption,
    Source,
    StorageOption,
    WorkersOption,
    err,
    out,
    say,
)
from semigrid.grid.commands.opening import load, open_grid
from semigrid.grid.commands.results import print_table
from semigrid.grid.experiment import Experiment, load_experiment
from semigrid.grid.run.supervise import DriverGoneError, Supervisor, follow_supervisor, say_ended
from semigrid.grid.study.layout import EXPERIMENT_COPY, REPORT
from semigrid.grid.study.lock import RunLock
from semigrid.grid.tables.formats import Format

app = typer.Typer(
    help="How many labels does an image classifier need, and what can unlabelled images replace?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_cli.app, name="data")


@app.command()
def plan(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    without_data: Annotated[
        bool, typer.Option(help="Count without opening the datasets, before they are built.")
    ] = False,
    only: OnlyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what would run: what changed, what is kept, what remains, and what that may take."""
    experiment = load(source, storage, seeds, without_data=without_data)
    study, records, _, _ = open_grid(experiment, for_run=True, only=only)
    _show_plan(study, records, without_data, as_json)


def _show_plan(study: Any, records: Any, without_data: bool, as_json: bool) -> None:
    from semigrid.grid.status import change, cost

    experiment = study.plan.experiment
    facts = study.plan.describe()
    remaining = sum(study.trainings_left(name) for name in study.searches)
    done = sum(_cell_line(study, name).trials_done for name in study.searches)
    finished = [c for c in study.plan.cells if study.searches[c.name].stage == "finished"]
    # without the datasets nothing is known of their identity and sizes
    changed = None if without_data else change.compare(study, records, _last_text(experiment))
    estimates = [] if without_data else cost.estimate(study, count_flops=True)
    spent = cost.spent(study)
    facts |= {
        "trainings_done": done,
        "trainings_remaining": remaining,
        "cells_finished": len(finished),
        "folder": open_storage(experiment.folder).uri,
    }
    if as_json:
        left = cost.total(estimates)
        facts["change"] = None if changed is None else changed.as_json()
        facts["cost"] = {
            "spent": asdict(cost.bill(spent, experiment.file.prices)),
            "left": asdict(cost.bill(left, experiment.file.prices)),
            "models": [asdict(each) for each in estimates],
        }
        print(json.dumps(facts, indent=1))
        return
    from semigrid.grid.status.show_plan import change_parts, estimate_parts, spent_line

    _print_plan(experiment, facts, without_data)
    parts = [] if changed is None else list(change_parts(changed))
    if estimates:
        parts += estimate_parts(estimates, experiment.file.prices)
    for part in parts:
        out.print(part)
    if spent:
        out.print(spent_line(spent, experiment.file.prices), soft_wrap=True)


def _last_text(experiment: Experiment) -> str | None:
    """The experiment file of the last run in the folder, None where there was none."""
    folder = open_storage(experiment.folder)
    try:
        return folder.read(EXPERIMENT_COPY).decode()
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None


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
    only: OnlyOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all and say what would run; write nothing.")
    ] = False,
) -> None:
    """Train what the ledger lacks, then print the table. Also how to resume: run it again."""
    from semigrid.grid.trackers.create import check_trackers, create_trackers

    experiment = load(source, storage, seeds, workers)
    folder = open_storage(experiment.folder)
    if dry_run:
        _dry_run(experiment, folder, only)
        return
    try:
        folder.check_writable()
    except OSError as error:
        raise _not_writable(experiment, error) from error
    check_trackers(experiment)
    if only is not None:
        from semigrid.grid.study.plan import Plan

        Plan(experiment).matching(only)  # before anything is written
    command = [sys.executable, "-m", "semigrid", "drive", experiment.source, folder.uri]
    for pattern in only or []:
        command += ["--only", pattern]
    supervisor = Supervisor(command, say)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with RunLock(folder, say, supervisor.interrupt) as lock:
        folder.write(EXPERIMENT_COPY, experiment.text.encode())
        # from here on the folder is there, and if it vanishes it is waited for
        study, records, _, _ = open_grid(experiment, True, storage_patience(), only)
        if not study.has_jobs:
            err.print("nothing to train: every trial of this experiment is in the ledger")
            create_trackers(study, folder, records, say).close()
            raise typer.Exit(_report(study, records, folder))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, supervisor.interrupt)
        try:
            code = supervisor.run()
        except DriverGoneError as error:
            say(f"{error}. To go on: {_this_command()}")
            code = SOME_FAILED
    if lock.lost_to is not None:
        say(
            f"stopped: this process slept, and another run took over: {lock.lost_to}; all that was "
            "finished is kept, and that run goes on with it"
        )
        code = SOME_FAILED
    elif code == INTERRUPTED:
        say(
            "interrupted: finished trials are kept, running ones go on from their last checkpoint. "
            f"To go on: {_this_command()}"
        )
    raise typer.Exit(code)


def _this_command() -> str:
    return shlex.join(["semigrid", *sys.argv[1:]])


@app.command(hidden=True)
def drive(source: str, folder: str, only: OnlyOption = None) -> None:
    """What ``run`` lets a process of its own do, holding the lock: train, then print the table."""
    code = _reported(lambda: _drive(source, open_storage(folder), only))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the end is near: nothing is left to interrupt
    say_ended(code)
    raise typer.Exit(code)


def _drive(source: str, folder: Storage, only: list[str] | None) -> int:
    from semigrid.grid.run.preflight import check_models

    try:
        follow_supervisor()
        text = folder.read(EXPERIMENT_COPY).decode()
        experiment = load_experiment(source, text=text)
        study, _, ledger, rules = open_grid(experiment, True, storage_patience(), only)
        if check_models(study, err.print):
            experiment = load_experiment(source, text=text)  # with the downloaded weights' hashes
            study, _, ledger, rules = open_grid(experiment, True, storage_patience(), only)
        study = _execute(study, ledger, rules)
    except KeyboardInterrupt:
        return INTERRUPTED
    return _report(study, ledger.read_all(), folder)


def _report(study: Any, records: Any, folder: Storage) -> int:
    """Prints the table and what failed, and writes the report; the exit code."""
    from semigrid.grid.analysis.result_set import read_result_set
    from semigrid.grid.report.page import report as make_report
    from semigrid.grid.tables.views import results_table

    results = read_result_set(study, records, folder)
    print_table(results_table(results), Format.terminal, None)
    failed = _failures(study)
    for name, why in failed.items():
        err.print(f"{name}: {why}", style="red", soft_wrap=True, markup=False)
    folder.write(REPORT, make_report(results).encode())
    out.print(f"report: {folder.location(REPORT)}", soft_wrap=True)
    out.print(f"results: {folder.uri}", soft_wrap=True)
    return SOME_FAILED if failed else OK


def _dry_run(experiment: Experiment, folder: Storage, only: list[str] | None) -> None:
    """All that a run checks before it starts, and the plan."""
    from semigrid.grid.run.preflight import check_models
    from semigrid.grid.trackers.create import check_trackers

    check_trackers(experiment)
    try:
        folder.check_could_write()
    except OSError as error:
        raise _not_writable(experiment, error) from error
    study, records, _, _ = open_grid(experiment, for_run=True, only=only)
    missing = [w.source for w in experiment.weights.values() if w.sha256 is None]
    if not missing:
        check_models(study, err.print)
    _show_plan(study, records, without_data=False, as_json=False)
    if missing:
        out.print(
            f"the models were not built, since {', '.join(missing)} would be downloaded first",
            soft_wrap=True,
        )
    out.print("nothing was started or written (--dry-run)")


def _not_writable(experiment: Experiment, error: OSError) -> InputError:
    return InputError(
        f"storage: {experiment.folder!r}: cannot be written: {error}; give a folder or URI "
        "that can, in the file or with --storage"
    )


def _execute(study: Any, ledger: Any, rules: Any) -> Any:
    """Runs the plan under the live view and returns the state at its end.

    Raises ``KeyboardInterrupt`` on Ctrl-C or SIGTERM.
    """
    # Ray reads this when it is imported; it would print its machines' messages among the results
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    from semigrid.grid.run.tune import run_plan
    from semigrid.grid.status.live import LiveView
    from semigrid.grid.study.scheduler import Scheduler
    from semigrid.grid.trackers.create import create_trackers

    scheduler = Scheduler(study, rules)
    stop = threading.Event()

    def interrupt(*_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second one would break off Ray's shutdown
        stop.set()  # the exception may be lost in a callback of Ray's: this is not
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    trackers = create_trackers(study, ledger.storage, ledger.read_all(), say)
    try:
        # for who watches, the run is the process that starts this one again when it dies
        run_plan(scheduler, ledger, LiveView(err, os.getppid()), stop, trackers=trackers)
    finally:
        trackers.close()
    err.print(
        f"trained {len(scheduler.trained)} trials, measured {len(scheduler.measured)} on test"
    )
    return scheduler.study


@app.command()
def status(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    only: OnlyOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the run that is at work there, until it ends.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say how far a run is, from its folder alone: from any terminal or machine."""
    if watch and as_json:
        raise InputError("--watch and --json: give one of them; --json prints the state once")
    experiment = load(source, storage, seeds)
    died = False
    if watch:
        from semigrid.grid.status.watch import follow

        died = not follow(open_storage(experiment.folder), out)
    _show_status(experiment, only, as_json)
    raise typer.Exit(SOME_FAILED if died else OK)


def _show_status(experiment: Experiment, only: list[str] | None, as_json: bool) -> None:
    from semigrid.grid.status import show, snapshot

    study, _, ledger, _ = open_grid(experiment, only=only)
    found = snapshot.take(study)
    run = snapshot.read(ledger.storage)
    if as_json:
        facts = found.model_dump(include={"cells", "trials", "cost"})
        facts["run"] = None
        if run is not None:
            silent = {"silent_seconds": show.age(run), "dead": snapshot.is_dead(run)}
            facts["run"] = run.model_dump(exclude={"cells", "trials", "cost"}) | silent
        print(json.dumps(facts, indent=1))
        return
    out.print(show.cells_table(found.cells))
    for name, line in found.cells.items():
        if line.failure:
            out.print(f"{name}: {line.failure}", style="red", soft_wrap=True, markup=False)
    shown = ", ".join(f"{found.trials[s]} {s}" for s in sorted(found.trials)) or "none yet"
    out.print(f"trials: {shown}")
    if run is not None:
        silent_for = show.age(run)
        if run.running and silent_for < snapshot.SILENT_SECONDS and not snapshot.is_dead(run):
            out.print(show.running_table(run.running, run.written_at + silent_for))
        out.print(show.heard(run, silent_for, snapshot.is_dead(run)), soft_wrap=True)
        found.cost.spent = run.cost.spent  # the running trials' too
        found.cost.price_spent = run.cost.price_spent
    for cost_line in show.cost_lines(found.cost):
        out.print(cost_line, soft_wrap=True)
    # a relative storage is another folder in every working directory
    out.print(f"results: {ledger.storage.uri}", soft_wrap=True)


for command in (*results_cli.COMMANDS, submit_cli.submit):
    app.command()(command)


def _cell_line(study: Any, name: str) -> Any:
    from semigrid.grid.status.snapshot import cell_line

    return cell_line(study, name)


def _failures(study: Any) -> dict[str, str]:
    return {
        name: f"{state.stage}: {state.failure}"
        for name, state in study.searches.items()
        if state.stage in ("failed", "blocked") and study.is_wanted(name)
    }


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
    except OSError as error:  # a folder or file that this user may not read, or that is none
        where = f"{error.filename}: " if error.filename else ""
        what = error.strerror or str(error)
        err.print(f"{where}{what}", style="red", soft_wrap=True, markup=False)
        return SOME_FAILED
    except KeyboardInterrupt:
        err.print("interrupted before anything was started")
        return INTERRUPTED


if __name__ == "__main__":
    main()
