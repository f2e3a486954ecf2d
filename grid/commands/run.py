"""``semigrid run``: trains what the ledger lacks, in a process that is restarted if it dies."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import FrameType
from typing import Annotated

import typer

from semigrid.data.errors import InputError, StorageGoneError
from semigrid.data.escape import command
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
from semigrid.grid.commands.interrupts import SIGNALS, TOGETHER_SECONDS, one_of_those_together
from semigrid.grid.commands.options import OnlyOption, SeedsOption, Source, StorageOption, option
from semigrid.grid.commands.plan import show_plan
from semigrid.grid.commands.unexpected import in_short, keep_traceback
from semigrid.grid.experiment.experiment import Experiment
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.run.ray_logs import keep_ray_logs
from semigrid.grid.run.supervise import (
    SCRATCH,
    LostRayError,
    Supervisor,
    follow_supervisor,
    say_ended,
    say_lost,
)
from semigrid.grid.run.surroundings import check_machine, check_surroundings
from semigrid.grid.study.layout import EXPERIMENT_COPY, REPORT
from semigrid.grid.study.lock import Lease, LostLockError, RunLock
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.state import StudyState
from semigrid.grid.trackers.create import check_trackers, create_trackers
from semigrid.trainers.methods import package_gone
from semigrid.trainers.methods.recorded import RecordedMethod, read_methods, write_methods

# Environment variable that tells a driver the token of the run's lock.
LEASE = "SEMIGRID_LEASE"


def run(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    workers: Annotated[int | None, option("N", min=1, help="Overrides the file's workers.")] = None,
    only: OnlyOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all but the cluster, show the plan; no writes.")
    ] = False,
) -> None:
    """Train what is missing, then print the table. Run it again to resume."""
    experiment = load(source, storage, seeds, workers)
    folder = open_storage(experiment.folder)
    check_trackers(experiment)
    if dry_run:
        check_machine()
    else:
        _check_surroundings(experiment, only)
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


def _check_surroundings(experiment: Experiment, only: list[str] | None) -> None:
    try:
        check_surroundings(say)
    except InputError:
        # results are shown without Ray; the ledger is read here only now, since it takes a while
        if open_study(experiment, only, for_run=True).state.has_jobs:
            raise


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
    words = [sys.executable, "-m", "semigrid", "drive"]
    for pattern in only or []:
        words += ["--only", pattern]
    words += ["--", experiment.source, folder.uri]
    supervisor = Supervisor(words, say, this_command(), lambda of: _ray_logs(of, mine))
    with RunLock(folder, say, supervisor.stop) as lock:
        mine = replace(folder, confirm=lock.check)
        supervisor.environment[LEASE] = lock.token
        # the working directory's files are no modules, for what a tracker starts either
        supervisor.environment["PYTHONSAFEPATH"] = "1"
        mine.write(EXPERIMENT_COPY, experiment.text.encode())
        # the folder exists from here on: if it vanishes, it is waited for
        study = open_study(experiment, only, True, storage_patience(), lock.check)
        _keep_methods(study.state.plan, mine)
        if not study.state.has_jobs:
            say("nothing to train: every trial of this experiment is in the ledger")
            create_trackers(study.state, study.ledger.storage, say).close()
            return _report(study, study.state)
        interrupt = one_of_those_together(supervisor.interrupt)
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # see ``Interrupts``
                signal.signal(number, interrupt)
        code = supervisor.run()
    if code == INTERRUPTED and (lost := lock.was_lost()):
        say_problem(lost)
        return SOME_FAILED
    if code == INTERRUPTED and not supervisor.interrupts:  # somebody interrupted the driver itself
        say(f"interrupted: finished trials are kept. To resume: {this_command()}")
    err.show_cursor(True)  # a live view that was killed has hidden it
    return code


def _keep_methods(plan: Plan, folder: Storage) -> None:
    """Writes down the methods from packages; those whose package is gone stay as they were."""
    kept: list[RecordedMethod] = []
    with contextlib.suppress(InputError):  # a damaged file is replaced
        kept = [each for each in read_methods(folder) if package_gone(each.name)]
    if methods := plan.recorded_methods():
        write_methods(folder, [*methods, *kept])


def drive(source: str, folder: str, only: OnlyOption = None) -> None:
    """Trains in the process that ``run`` starts and supervises, then prints the table."""
    storage = open_storage(folder, storage_patience())
    try:
        code = exit_code(lambda: _drive(source, storage, only))
    except LostRayError as error:
        say_lost(f"{error}; log: {keep_traceback(error, storage)}")
        raise typer.Exit(SOME_FAILED) from error
    except (Exception, SystemExit) as error:  # it would come again in the next driver
        say_problem(
            f"the run ended by an error of its own: {in_short(error)} (log: "
            f"{keep_traceback(error, storage)}{_ray_logs(os.environ.get(SCRATCH, ''), storage)}); "
            "finished trials are kept, and the same command resumes"
        )
        code = SOME_FAILED
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # nothing is left to interrupt
    say_ended(code)
    raise typer.Exit(code)


def _ray_logs(scratch: str, folder: Storage) -> str:
    kept = keep_ray_logs(scratch, folder)
    return f"; Ray's logs: {kept}" if kept else ""


def _drive(source: str, folder: Storage, only: list[str] | None) -> int:
    try:
        follow_supervisor()
        from semigrid.grid.run.preflight import check_models  # imports PyTorch

        with Lease.join(folder, os.environ.get(LEASE, ""), _interrupt_this_process) as lease:

            def open_again() -> OpenStudy:
                # not the file itself: the copy has what the command line and weights change
                experiment = load_experiment(source, text=folder.read(EXPERIMENT_COPY).decode())
                return open_study(experiment, only, True, storage_patience(), lease.check)

            try:
                study = open_again()
                if check_models(study.state, say):  # weights were downloaded: hashes are known now
                    study = open_again()
                return _report(study, _train(study))
            except BaseException as error:
                if lost := lease.was_lost():  # it explains everything else
                    raise LostLockError(lost) from error
                raise
    except KeyboardInterrupt:
        return INTERRUPTED


def _interrupt_this_process() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _train(study: OpenStudy) -> StudyState:
    """Runs the study under the live view; returns its state at the end.

    Raises ``KeyboardInterrupt`` on Ctrl-C or SIGTERM, and ``LostRayError``.
    """
    # Ray reads this at import; it would print its machines' messages among the results
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    from semigrid.grid.run.tune import run_plan
    from semigrid.grid.status.live import LiveView
    from semigrid.grid.study.scheduler import Scheduler

    stop = threading.Event()
    _take_signals(stop)
    storage, scheduler = study.ledger.storage, Scheduler(study.state, study.rules)
    trackers = create_trackers(study.state, storage, say)
    try:
        with LiveView(err, study.state, storage) as view:
            run_plan(scheduler, study.ledger, view, stop, trackers)
    finally:
        trackers.close()
    say(f"trained {len(scheduler.trained)} trials, evaluated {len(scheduler.evaluated)} on test")
    return scheduler.study


def _take_signals(stop: threading.Event) -> None:
    """Sets ``stop`` and raises ``KeyboardInterrupt`` at the first SIGINT or SIGTERM."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        # A second interrupt would break off Ray's shutdown; SIGTERM ends it, whatever it waits for.
        # But one at once is the same interrupt: batch systems signal each process of a job.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop.set()  # the exception may be lost in a callback of Ray's; this is not
        time.sleep(TOGETHER_SECONDS)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def _report(study: OpenStudy, state: StudyState) -> int:
    """Prints the table and the failures, and writes the report; returns the exit code.

    What cannot be shown is named: all results are kept, and other commands show them.
    """
    from semigrid.grid.analysis.result_set import ResultSet, read_result_set

    folder = study.ledger.storage

    @cache
    def results() -> ResultSet:
        return read_result_set(state, folder)

    def show_table() -> None:
        from semigrid.grid.tables.render import show
        from semigrid.grid.tables.views import results_table

        show(results_table(results()), table_console())

    def write_report() -> None:
        from semigrid.grid.report.page import report

        folder.write(REPORT, report(results()).encode())
        echo(f"report: {folder.location(REPORT)}")

    code = _shown("table", show_table, folder)
    for name, search in state.searches.items():
        if search.stage in ("failed", "blocked") and state.is_wanted(name):
            say_problem(f"{name}: {search.stage}: {search.failure}")
            code = SOME_FAILED
    code = max(code, _shown("report", write_report, folder))
    echo(f"results: {folder.uri}")
    return code


def _shown(name: str, show: Callable[[], None], folder: Storage) -> int:
    """Shows a table or a report; returns the exit code."""
    try:
        show()
    except StorageGoneError:
        raise
    except SystemExit:  # by rich, where nobody reads the output any more
        return SOME_FAILED
    except Exception as error:
        say_problem(
            f"the {name} could not be made: {in_short(error)} (log: "
            f"{keep_traceback(error, folder)}); the results are kept, and "
            f"{command(['semigrid', name, folder.uri], err.encoding)} makes it again"
        )
        return SOME_FAILED
    return OK
