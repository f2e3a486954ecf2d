"""``semigrid status``: how far a run is."""

from dataclasses import replace
from typing import Annotated

import typer

from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage
from semigrid.grid.commands.console import OK, SOME_FAILED, echo, echo_json, out, say, say_problem
from semigrid.grid.commands.context import OpenStudy, load, open_study
from semigrid.grid.commands.options import (
    JsonOption,
    OnlyOption,
    SeedsOption,
    Source,
    StorageOption,
)
from semigrid.grid.status import show, snapshot
from semigrid.grid.status.watch import follow


def status(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    only: OnlyOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the run at work there until it ends.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how far a run is, from any terminal or machine that reads its folder."""
    if watch and as_json:
        raise InputError("--watch and --json: give one of them; --json prints the state once")
    experiment = load(source, storage, seeds)
    died = watch and not follow(open_storage(experiment.folder), out)
    show_status(open_study(experiment, only), as_json)
    raise typer.Exit(SOME_FAILED if died else OK)


def show_status(study: OpenStudy, as_json: bool) -> None:
    now = snapshot.take(study.state)
    run = snapshot.read(study.ledger.storage, say)
    if as_json:
        facts = now.model_dump(include={"cells", "trials"})
        facts |= {"cost": now.cost.as_json(), "run": None}
        if run is not None:
            facts["run"] = run.model_dump(
                exclude={
                    **dict.fromkeys(("cells", "trials", "cost"), True),
                    "holder": {"token", "heartbeat"},  # the lock has a later one
                }
            )
            facts["run"] |= {"silent_seconds": run.age, "dead": run.is_dead}
        echo_json(facts)
        return
    out.print(show.cells_table(now.cells))
    echo(show.counts(now.cells))
    for name, cell in now.cells.items():
        if cell.failure:
            say_problem(f"{name}: {cell.failure}")
    counts = ", ".join(f"{count} {status}" for status, count in sorted(now.trials.items()))
    echo(f"trials: {counts or 'none yet'}")
    if run is not None:
        if run.running and run.age < snapshot.SILENT_SECONDS and not run.is_dead:
            out.print(show.running_table(run.running, run.written_at + run.age))
        out.print(show.heard(run), soft_wrap=True)
    # a run knows what its running trials have spent
    cost = now.cost if run is None else replace(now.cost, spent=run.cost.spent)
    for part in show.cost_parts(cost):
        out.print(part)
    echo(f"results: {study.ledger.storage.uri}")
