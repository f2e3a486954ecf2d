"""``semigrid run``: trains what the ledger lacks, in a process that is restarted if it dies."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Annotated

import typer

from semigrid.data.storage import Storage, open_storage
from semigrid.data.storage.storage import storage_patience
from semigrid.grid.commands.console import (
    INTERRUPTED,
    OK,
    SOME_FAILED,
    echo,
    err,
    exit_code,
    not_writable,
    say,
    say_problem,
    table_console,
    this_command,
)
from semigrid.grid.commands.context import OpenStudy, load, open_study
from semigrid.grid.commands.options import OnlyOption, SeedsOption, Source, StorageOption, option
from semigrid.grid.commands.plan import show_plan
from semigrid.grid.experiment.experiment import Experiment
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.run.supervise import Supervisor, follow_supervisor, say_ended
from semigrid.grid.run.surroundings import check_surroundings
from semigrid.grid.study.layout import EXPERIMENT_COPY, REPORT
from semigrid.grid.study.lock import RunLock
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.state import StudyState
from semigrid.grid.trackers.create import check_trackers, create_trackers


def run(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    workers: Annotated[int | None, option("N", min=1, help="Overrides the file's workers.")] = None,
    only: OnlyOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and show the plan; write nothing.")
    ] = False,
) -> None:
    """Train what is missing, then print the table. Run it again to resume."""
    experiment = load(source, storage, seeds, workers)
    folder = open_storage(experiment.folder)
    check_trackers(experiment)
    check_surroundings()
    try:
        if dry_run:
            folder.check_could_write()
        else:
            folder.check_writable()
    except OSError as error:
        raise not_writable(f"storage: {experiment.folder}", error) from error
    if only is not None:
        Plan(experiment).matching(only)  # raises before anything is written
    if dry_run:
        _dry_run(experiment, only)
    else:
        raise typer.Exit(_run(experiment, folder, only))


def _dry_run(experiment: Experiment, only: list[str] | None) -> None:
    from semigrid.grid.run.preflight import check_models

    study = open_study(experiment, only, for_run=True)
    missing = [each.source for each in experiment.weights.values() if each.sha256 is None]
    if not missing:
        check_models(study.state, say)
    show_plan(study)
    if missing:
        echo(f"the models were not built: {', '.join(missing)} would be downloaded first")
    echo("nothing was started or written (--dry-run)")


def _run(experiment: Experiment, folder: Storage, only: list[str] | None) -> int:
    """Holds the run's lock while a driver trains; returns the exit code."""
    # -P: the working directory's files are no modules
    command = [sys.executable, "-P", "-m", "semigrid", "drive", experiment.source, folder.uri]
    for pattern in only or []:
        command += ["--only", pattern]
    supervisor = Supervisor(command, say)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with RunLock(folder, say, supervisor.interrupt) as lock:
        folder.write(EXPERIMENT_COPY, experiment.text.encode())
        # the folder exists from here on: if it vanishes, it is waited for
        study = open_study(experiment, only, for_run=True, patience=storage_patience())
        if not study.state.has_jobs:
            say("nothing to train: every trial of this experiment is in the ledger")
            create_trackers(study.state, folder, say).close()
            return _report(study, study.state)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, supervisor.interrupt)
        code = supervisor.run()
    if lock.lost_to is not None:
        say(
            f"stopped: this process slept, and another run took over: {lock.lost_to}; finished "
            "trials are kept, and that run continues with them"
        )
        return SOME_FAILED
    if code == INTERRUPTED:
        say(
            "interrupted: finished trials are kept, running ones continue from their last "
            f"checkpoint. To resume: {this_command()}"
        )
    return code


def drive(source: str, folder: str, only: OnlyOption = None) -> None:
    """Trains in the process that ``run`` starts and supervises, then prints the table."""
    code = exit_code(lambda: _drive(source, open_storage(folder, storage_patience()), only))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # nothing is left to interrupt
    say_ended(code)
    raise typer.Exit(code)


def _drive(source: str, folder: Storage, only: list[str] | None) -> int:
    from semigrid.grid.run.preflight import check_models  # imports PyTorch

    def open_again() -> OpenStudy:
        # not the file itself: the copy has what the command line and pinned weights change
        experiment = load_experiment(source, text=folder.read(EXPERIMENT_COPY).decode())
        return open_study(experiment, only, for_run=True, patience=storage_patience())

    try:
        follow_supervisor()
        study = open_again()
        if check_models(study.state, say):  # weights were downloaded: now their hashes are known
            study = open_again()
        return _report(study, _train(study))
    except KeyboardInterrupt:
        return INTERRUPTED


def _train(study: OpenStudy) -> StudyState:
    """Runs the study under the live view; returns its state at the end.

    Raises ``KeyboardInterrupt`` on Ctrl-C or SIGTERM.
    """
    # Ray reads this at import; it would print its machines' messages among the results
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    from semigrid.grid.run.tune import run_plan
    from semigrid.grid.status.live import LiveView
    from semigrid.grid.study.scheduler import Scheduler

    stop = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)  # a second one would break off Ray's shutdown
        stop.set()  # the exception may be lost in a callback of Ray's; this is not
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    storage, scheduler = study.ledger.storage, Scheduler(study.state, study.rules)
    trackers = create_trackers(study.state, storage, say)
    try:
        with LiveView(err, study.state, storage) as view:
            run_plan(scheduler, study.ledger, view, stop, trackers)
    finally:
        trackers.close()
    say(f"trained {len(scheduler.trained)} trials, evaluated {len(scheduler.evaluated)} on test")
    return scheduler.study


def _report(study: OpenStudy, state: StudyState) -> int:
    """Prints the table and the failures, and writes the report; returns the exit code."""
    from semigrid.grid.analysis.result_set import read_result_set
    from semigrid.grid.report.page import report
    from semigrid.grid.tables.render import show
    from semigrid.grid.tables.views import results_table

    folder = study.ledger.storage
    results = read_result_set(state, folder)
    show(results_table(results), table_console())
    failed = [
        (name, search)
        for name, search in state.searches.items()
        if search.stage in ("failed", "blocked") and state.is_wanted(name)
    ]
    for name, search in failed:
        say_problem(f"{name}: {search.stage}: {search.failure}")
    folder.write(REPORT, report(results).encode())
    echo(f"report: {folder.location(REPORT)}")
    echo(f"results: {folder.uri}")
    return SOME_FAILED if failed else OK
