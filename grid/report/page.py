"""The page: everything that is known of a grid, in one HTML file."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from semigrid.data.escape import html
from semigrid.grid.analysis.answer import Answer, answer
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.report import accuracy, training
from semigrid.grid.report.mistakes import confident_mistakes
from semigrid.grid.report.provenance import facts, recipes
from semigrid.grid.status.show import finished_of
from semigrid.grid.tables.answer import claims_table, savings_table, worth_table
from semigrid.grid.tables.cells import cells_table, comparisons_table
from semigrid.grid.tables.classes import classes_table, confusions_table
from semigrid.grid.tables.costs import costs_table
from semigrid.grid.tables.models import models_table
from semigrid.grid.tables.slices import slice_results, slices_table
from semigrid.grid.tables.table import Table
from semigrid.trainers.methods import Stepped, find_method

MOST_PAIRS = 100  # pairs in the table of comparisons; all of them are a command away


def report(results: ResultSet) -> str:
    """The report of a grid in its present state, as HTML."""
    experiment = results.plan.experiment
    planned = {search.cell.model for search in results.plan.searches}
    models = [model for model in experiment.file.models if model in planned]
    methods = {model: find_method(experiment.file.models[model].method) for model in models}
    stepped = [model for model in models if isinstance(methods[model], Stepped)]
    with_pool = [model for model in models if methods[model].pool != "none"]
    the_answer = answer(results)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            name=experiment.file.name,
            version=version("semigrid"),
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            finished=finished_of((row.cell.control, row.state) for row in results.rows),
            answer=the_answer,
            datasets=[_dataset(results, the_answer, dataset) for dataset in results.datasets],
            answer_tables=[
                t for t in (savings_table(the_answer), claims_table(the_answer)) if t.rows
            ],
            tables=_tables(results),
            best_cells=[_best_cell(results, row) for row in results.best],
            best_tables=_best_tables(results),
            calibration=[accuracy.calibration(results, dataset) for dataset in results.datasets],
            searches=[
                *(training.search_history(results, model) for model in stepped),
                *(training.importance(results, model) for model in stepped),
            ],
            trainings=[
                *(training.learning(results, model) for model in stepped),
                *(figure for model in with_pool for figure in training.health(results, model)),
            ],
            costs=costs_table(results),
            facts=facts(results),
            recipes=recipes(results),
            experiment="\n".join(experiment.text.expandtabs().splitlines()),
            problems=results.problems,
            failures=[f"{r.cell.name}: {r.state}: {r.failure}" for r in results.rows if r.failure],
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("semigrid.grid.report", ""),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # charts are markup of our own, in which names are escaped already; ids get a prefix, since no
    # two on a page may be the same
    environment.filters["own_ids"] = lambda svg, prefix: Markup(
        re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", svg)
    )
    return environment


def _visible(value: Any) -> Any:
    """How the template writes a value: text is escaped, so that data stays text."""
    return html(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _dataset(results: ResultSet, answered: Answer, dataset: str) -> dict[str, Any]:
    """What is said of a dataset: which model to use, and what its pool is worth."""
    pools = [pool for pool in answered.pools if pool.dataset == dataset]
    worth = worth_table(answered, dataset)
    has_controls = any(headline.worth.parts for headline in answered.headlines)
    return {
        "name": dataset,
        "to_use": answered.to_use(dataset),
        "models": models_table(results, answered, dataset),
        "figures": [
            accuracy.accuracy_by_labels(results, dataset),
            accuracy.accuracy_by_cost(results, answered, dataset),
        ],
        "worth": worth,
        "of_pools": answered.of_pools(dataset),
        "pool_figures": [
            *([accuracy.pool_worth_chart(results, answered, dataset)] if has_controls else []),
            *(accuracy.accuracy_by_pool(results, pool) for pool in pools),
        ],
    }


def _tables(results: ResultSet) -> list[Table[Any]]:
    tables: list[Table[Any]] = [cells_table(results)]
    pairs = comparisons_table(results)
    if len(pairs.rows) > MOST_PAIRS:
        note = (
            f"the first {MOST_PAIRS} of {len(pairs.rows)} pairs; all of them: semigrid table "
            "--view comparisons"
        )
        pairs = replace(pairs, rows=pairs.rows[:MOST_PAIRS], notes=[*pairs.notes, note])
    return [*tables, replace(pairs, problems=())] if pairs.rows else tables


def _best_cell(results: ResultSet, row: CellResult) -> dict[str, Any]:
    """Where a dataset's best cell goes wrong."""
    slices = results.plan.experiment.datasets[row.cell.dataset].manifest.slices
    by_slice = {name: slice_results(results, name)[row.cell] for name in slices}
    mistakes, problem = confident_mistakes(results, row)
    figures = [
        accuracy.confusion_chart(results, row),
        accuracy.accuracy_by_class(results, row),
        *(accuracy.accuracy_by_slice(row, name, values) for name, values in by_slice.items()),
    ]
    return {"row": row, "figures": figures, "mistakes": mistakes, "problem": problem}


def _best_tables(results: ResultSet) -> list[Table[Any]]:
    if not results.best:
        return []
    datasets = results.plan.experiment.datasets
    slices = dict.fromkeys(
        name for row in results.best for name in datasets[row.cell.dataset].manifest.slices
    )
    by_slices = [slices_table(results, name) for name in slices]
    return [classes_table(results), confusions_table(results), *by_slices]
