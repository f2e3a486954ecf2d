"""``semigrid plan``: what would run, and what it would cost."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from semigrid.grid.commands.console import echo, out
from semigrid.grid.commands.context import OpenStudy, last_text, load, open_study
from semigrid.grid.commands.options import (
    JsonOption,
    OnlyOption,
    SeedsOption,
    Source,
    StorageOption,
)
from semigrid.grid.status.change import compare
from semigrid.grid.status.cost import Cost, estimate, spent
from semigrid.grid.status.show import cost_parts
from semigrid.grid.status.show_plan import change_parts, plan_facts, plan_lines


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
    """Show what would run: what changed, what is kept, what remains, and its cost."""
    experiment = load(source, storage, seeds, without_data=without_data)
    show_plan(open_study(experiment, only, for_run=True), without_data, as_json)


def show_plan(study: OpenStudy, without_data: bool = False, as_json: bool = False) -> None:
    """Prints the plan; without data, nothing is known of changes and costs."""
    state, change, estimates = study.state, None, []
    if not without_data:
        change = compare(state, study.records, last_text(study.ledger.storage))
        estimates = estimate(state, count_flops=True)
    cost = Cost(spent(state), estimates, state.plan.experiment.file.prices)
    if as_json:
        facts = {
            **plan_facts(state),
            "folder": study.ledger.storage.uri,
            "change": None if change is None else asdict(change),
            "cost": cost.as_json(),
        }
        print(json.dumps(facts, indent=1))
        return
    for line in plan_lines(state, without_data):
        echo(line)
    echo(f"results: {study.ledger.storage.uri}")
    for part in [*(change_parts(change) if change else ()), *cost_parts(cost)]:
        out.print(part)
