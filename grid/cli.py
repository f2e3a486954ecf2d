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
from rich.console import Console

from data.errors import InputError
from data.patience import StorageGoneError, storage_patience
from data.storage import Storage
from grid import data_cli
from grid.experiment import EXPERIMENT_COPY, Experiment, load_experiment
from grid.formats import Format, View, format_of
from grid.lock import RunLock
from grid.predict import command as predict_cli
from grid.supervise import DriverGoneError, Supervisor, follow_supervisor, say_ended

OK, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
REPORT = "report.html"

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
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Only cells of these names, such as 'aprons/semi-vit/*'; may be given several times.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


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
    experiment = _load(source, storage, seeds, without_data=without_data)
    scheduler, records, _ = _scheduler(experiment, for_run=True, only=only)
    _show_plan(scheduler, records, without_data, as_json)


def _show_plan(scheduler: Any, records: Any, without_data: bool, as_json: bool) -> None:
    from grid import change, cost

    experiment = scheduler.plan.experiment
    facts = scheduler.plan.describe()
    remaining = sum(scheduler.trainings_left(name) for name in scheduler.states)
    done = sum(_cell_line(scheduler, name).trials_done for name in scheduler.states)
    finished = [c for c in scheduler.plan.cells if scheduler.states[c.name].state == "finished"]
    # without the datasets nothing is known of their identity and sizes
    changed = None if without_data else change.compare(scheduler, records, _last_text(experiment))
    estimates = [] if without_data else cost.estimate(scheduler, count_flops=True)
    spent = cost.spent(scheduler.facts)
    facts |= {
        "trainings_done": done,
        "trainings_remaining": remaining,
        "cells_finished": len(finished),
        "folder": Storage(experiment.folder).uri,
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
    from grid.show_plan import change_parts, estimate_parts, spent_line

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
    folder = Storage(experiment.folder)
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
    from grid.trackers.create import check_trackers, create_trackers

    experiment = _load(source, storage, seeds, workers)
    folder = Storage(experiment.folder)
    if dry_run:
        _dry_run(experiment, folder, only)
        return
    try:
        folder.check_writable()
    except OSError as error:
        raise _not_writable(experiment, error) from error
    check_trackers(experiment)
    if only is not None:
        from grid.plan import Plan

        Plan(experiment).matching(only)  # before anything is written
    command = [sys.executable, "-m", "grid.cli", "drive", experiment.source, folder.uri]
    for pattern in only or []:
        command += ["--only", pattern]
    supervisor = Supervisor(command, _say)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with RunLock(folder, _say, supervisor.interrupt) as lock:
        folder.write(EXPERIMENT_COPY, experiment.text.encode())
        # from here on the folder is there, and if it vanishes it is waited for
        scheduler, records, _ = _scheduler(experiment, True, storage_patience(), only)
        if scheduler.done:
            err.print("nothing to train: every trial of this experiment is in the ledger")
            create_trackers(scheduler, folder, records, _say).close()
            raise typer.Exit(_report(scheduler, records, folder))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, supervisor.interrupt)
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
def drive(source: str, folder: str, only: OnlyOption = None) -> None:
    """What ``run`` lets a process of its own do, holding the lock: train, then print the table."""
    code = _reported(lambda: _drive(source, Storage(folder), only))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the end is near: nothing is left to interrupt
    say_ended(code)
    raise typer.Exit(code)


def _drive(source: str, folder: Storage, only: list[str] | None) -> int:
    try:
        follow_supervisor()
        experiment = load_experiment(source, text=folder.read(EXPERIMENT_COPY).decode())
        scheduler, _, ledger = _scheduler(experiment, True, storage_patience(), only)
        _execute(scheduler, ledger)
    except KeyboardInterrupt:
        return INTERRUPTED
    return _report(scheduler, ledger.read_all(), folder)


def _report(scheduler: Any, records: Any, folder: Storage) -> int:
    """Prints the table and what failed, and writes the report; the exit code."""
    from grid.known import know
    from grid.report.page import report as make_report
    from grid.views import cells_view

    known = know(scheduler, records, folder)
    _print_sheet(cells_view(known), Format.terminal, None)
    failed = _failures(scheduler)
    for name, why in failed.items():
        err.print(f"{name}: {why}", style="red", soft_wrap=True, markup=False)
    folder.write(REPORT, make_report(known).encode())
    out.print(f"report: {folder.path(REPORT)}", soft_wrap=True)
    out.print(f"results: {folder.uri}", soft_wrap=True)
    return SOME_FAILED if failed else OK


def _say(text: str) -> None:
    err.print(text, soft_wrap=True, markup=False)


def _dry_run(experiment: Experiment, folder: Storage, only: list[str] | None) -> None:
    """All that a run checks before it starts, and the plan."""
    from grid.preflight import check_models
    from grid.trackers.create import check_trackers

    check_trackers(experiment)
    try:
        folder.check_could_write()
    except OSError as error:
        raise _not_writable(experiment, error) from error
    scheduler, records, _ = _scheduler(experiment, for_run=True, only=only)
    missing = [w.source for w in experiment.weights.values() if w.sha256 is None]
    if not missing:
        check_models(scheduler, err.print)
    _show_plan(scheduler, records, without_data=False, as_json=False)
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
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second one would break off Ray's shutdown
        stop.set()  # the exception may be lost in a callback of Ray's: this is not
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    trackers = create_trackers(scheduler, ledger.storage, ledger.read_all(), _say)
    try:
        # for who watches, the run is the process that starts this one again when it dies
        run_plan(scheduler, ledger, LiveView(err, os.getppid()), stop, trackers=trackers)
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
    only: OnlyOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the run that is at work there, until it ends.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say how far a run is, from its folder alone: from any terminal or machine."""
    if watch and as_json:
        raise InputError("--watch and --json: give one of them; --json prints the state once")
    experiment = _load(source, storage, seeds)
    died = False
    if watch:
        from grid.watch import follow

        died = not follow(Storage(experiment.folder), out)
    _show_status(experiment, only, as_json)
    raise typer.Exit(SOME_FAILED if died else OK)


def _show_status(experiment: Experiment, only: list[str] | None, as_json: bool) -> None:
    from grid import show, snapshot

    scheduler, _, ledger = _scheduler(experiment, only=only)
    found = snapshot.take(scheduler)
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


@app.command()
def table(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="SLICE", help="Show Acc@1 on each value of a slice of the datasets."),
    ] = None,
    view: Annotated[
        View,
        typer.Option(
            help="cells: all that is known; labels and pool: the paper's tables 2 and 3; classes, "
            "confusions: of the best cells; comparisons: of all pairs; costs."
        ),
    ] = View.cells,
    format: Annotated[
        Format | None, typer.Option(help="How to print it; else by the output's name.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write it here.")
    ] = None,
    paper: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK",
            help="Show the paper's Acc@1 of a task of its beside, or DATASET=TASK: "
            "vest-neck-style, phone-case-pattern, apron-food-bib-pattern.",
        ),
    ] = None,
    only: OnlyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the results table, from the ledger and the predictions alone."""
    from grid.slices import by_slice, slices_sheet
    from grid.views import view_sheet

    if by is not None and view is not View.cells:
        raise InputError(f"--by and --view {view}: give one of them; --by is a view of its own")
    if as_json:
        format = Format.json
    chosen = format_of(format, output)
    known = _known(_load(source, storage, seeds), only, paper)
    if by is None:
        sheet = view_sheet(known, view)
    else:
        sheet = slices_sheet(known.results, by_slice(known.measured, known.plan, by))
    _print_sheet(sheet, chosen, output)


@app.command()
def answer(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    margin: Annotated[
        float,
        typer.Option(min=0, max=100, help="By how many points a model may be worse and match."),
    ] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Say how many labels the unlabelled images replace, and how surely."""
    from grid.answer import answer as find_answer
    from grid.answer_sheets import as_facts, claims_sheet, savings_sheet
    from grid.sheet import show

    known = _known(_load(source, storage, seeds))
    found = find_answer(known, margin / 100)
    if as_json:
        print(json.dumps(as_facts(found), indent=1))
        return
    # a pipe has no width
    console = out if out.is_terminal else Console(highlight=False, width=140)
    for text in [*(each.text for each in found.headlines), *(pool.text for pool in found.pools)]:
        console.print(text, markup=False)
    if not found.headlines:
        console.print("no model of this experiment learns from unlabelled images (method: semi)")
    for sheet in (savings_sheet(found), claims_sheet(found)):
        if sheet.rows:
            console.print(f"\n{sheet.title}", style="bold")
            show(sheet, console)
    for problem in known.results.problems:
        _say(problem)


@app.command()
def report(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Here, not in the run's folder."),
    ] = None,
) -> None:
    """Write the report: one HTML file with the answer, tables, charts and provenance."""
    from grid.report.page import report as make_report

    experiment = _load(source, storage, seeds)
    known = _known(experiment)
    where = output or Storage(experiment.folder).path(REPORT)
    _write(where, make_report(known).encode())
    for problem in known.results.problems:
        _say(problem)


def _write(where: str, content: bytes) -> None:
    """A file by path or URI; its folder is made."""
    folder, _, name = where.replace(os.sep, "/").rpartition("/")
    storage = Storage(folder or ("/" if where.startswith("/") else "."))
    storage.write(name, content)
    _say(f"written: {storage.path(name)}")


def _known(
    experiment: Experiment, only: list[str] | None = None, paper: list[str] | None = None
) -> Any:
    """What tables and reports are made from."""
    from grid.known import know
    from grid.paper import paper_tasks

    tasks = paper_tasks(paper or [], experiment)
    scheduler, records, ledger = _scheduler(experiment)
    chosen = None if only is None else scheduler.plan.matching(only)
    return know(scheduler, records, ledger.storage, chosen, tasks)


def _print_sheet(sheet: Any, format: Any, output: str | None) -> None:
    """To the terminal, or into a file; what a format has no room for goes to stderr."""
    from grid import sheet as sheets

    if format is Format.terminal and output is None:
        # a pipe has no width: show the whole table there
        sheets.show(sheet, out if out.is_terminal else Console(highlight=False, width=140))
        return
    content = sheets.render(sheet, format)
    if output is None:
        if format is Format.parquet and sys.stdout.isatty():
            raise InputError("--format parquet: is no text; give --output FILE")
        sys.stdout.buffer.write(content if format is Format.parquet else content + b"\n")
        sys.stdout.buffer.flush()
    else:
        _write(output, content if format is Format.parquet else content + b"\n")
    if not format.has_notes:
        for problem in sheet.problems:
            _say(problem)


@app.command()
def export(
    source: Source,
    cell: Annotated[str, typer.Argument(metavar="CELL", help="A finished cell: aprons/vit/50%.")],
    destination: Annotated[str, typer.Argument(metavar="DEST", help="The folder to make.")],
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    onnx: Annotated[bool, typer.Option(help="Write an ONNX file too (extra: onnx).")] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export in DEST.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a cell's model for use elsewhere: a folder for timm, ONNX, and a model card."""
    from grid.export import cell as exporting

    scheduler, records, ledger = _scheduler(_load(source, storage, seeds))
    done = exporting.export_cell(
        scheduler, records, ledger.storage, cell, destination, onnx, overwrite
    )
    if as_json:
        print(json.dumps(asdict(done), indent=1))
        return
    for line in exporting.show(done):
        out.print(line, soft_wrap=True, markup=False)


@app.command()
def predict(
    source: Source,
    cell: predict_cli.CellName,
    images: predict_cli.Sources,
    output: predict_cli.OutputOption = None,
    split: predict_cli.SplitOption = None,
    accuracy: predict_cli.AccuracyOption = None,
    threshold: predict_cli.ThresholdOption = None,
    workers: predict_cli.WorkersOption = None,
    gpus_per_worker: predict_cli.GpusOption = None,
    no_probabilities: predict_cli.NoProbabilitiesOption = False,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a finished cell's model classify images; run it again to go on where it was stopped."""
    scheduler, records, _ = _scheduler(_load(source, storage, seeds))
    code = predict_cli.run(
        scheduler,
        records,
        cell_name=cell,
        sources=images,
        output=output,
        splits=split,
        accuracy=accuracy,
        threshold=threshold,
        workers=workers,
        gpus=gpus_per_worker,
        with_probabilities=not no_probabilities,
        as_json=as_json,
    )
    raise typer.Exit(code)


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


def _scheduler(
    experiment: Experiment,
    for_run: bool = False,
    patience: float = 0,
    only: list[str] | None = None,
) -> Any:
    """The plan's state as the ledger has it, the records, and the ledger.

    ``for_run`` looks for the predictions of measured cells too: a run makes those again that are
    missing, while their scores stand in the ledger for a table. ``only`` are patterns of the cells
    that the scheduler is to finish, None for all.
    """
    from grid.ledger import Ledger, record_summary
    from grid.plan import Plan
    from grid.scheduler import Scheduler
    from grid.suggested import Suggestions

    plan = Plan(experiment)
    chosen = None if only is None else plan.matching(only)
    ledger = Ledger(Storage(experiment.folder, patience))
    records = ledger.read_all()
    for path in ledger.unreadable:
        err.print(f"{path}: not a readable record; its trial trains again", soft_wrap=True)
    facts = {trial_id: record_summary(record) for trial_id, record in records.items()}
    scheduler = Scheduler(
        plan,
        facts,
        ledger.has_weights,
        ledger.has_predictions if for_run else lambda trial_id: True,
        Suggestions(ledger.storage, writes=for_run and patience > 0).suggest,
        chosen,
    )
    for problem in ledger.problems:
        _say(problem)
    return scheduler, records, ledger


def _cell_line(scheduler: Any, name: str) -> Any:
    from grid.snapshot import cell_line

    return cell_line(scheduler, name)


def _failures(scheduler: Any) -> dict[str, str]:
    return {
        name: f"{state.state}: {state.failure}"
        for name, state in scheduler.states.items()
        if state.state in ("failed", "blocked") and scheduler.is_wanted(name)
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
