"""The page: everything that is known of a grid, in one HTML file."""

import contextlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from semigrid.data.errors import InputError
from semigrid.grid.analysis.answer import answer
from semigrid.grid.analysis.classes import classes_sheet, confusions_sheet
from semigrid.grid.analysis.costs import costs_sheet
from semigrid.grid.analysis.known import Known
from semigrid.grid.analysis.results import Row
from semigrid.grid.analysis.slices import by_slice, slices_sheet
from semigrid.grid.report import curves, training
from semigrid.grid.report.charts import with_own_ids
from semigrid.grid.report.figure import Figure, Missing
from semigrid.grid.report.mistakes import confident_mistakes
from semigrid.grid.report.provenance import facts, recipes
from semigrid.grid.tables.answer_sheets import claims_sheet, savings_sheet
from semigrid.grid.tables.cells import cells_sheet
from semigrid.grid.tables.sheet import Sheet
from semigrid.grid.tables.views import comparisons_sheet, labels_sheet, pool_sheet
from semigrid.trainers.methods import METHODS

# pairs in the table of comparisons, the first ones: all are a command away
MOST_PAIRS = 100


def report(known: Known) -> str:
    """The report of a grid, as far as it has come, as HTML."""
    found = answer(known)
    datasets = list(dict.fromkeys(row.cell.dataset for row in known.results.rows))
    models = [
        model
        for model in known.plan.experiment.file.models
        if any(search.cell.model == model for search in known.plan.searches)
    ]
    by_labels = [curves.accuracy_by_labels(known, dataset) for dataset in datasets]
    best = _best(known)
    searches = [training.search_history(known, model) for model in models]
    mattered = [training.importance(known, model) for model in models]
    learning = [training.learning(known, model) for model in models]
    collapsible = [
        m for m in models if METHODS[known.plan.experiment.file.models[m].method].uses_pseudo_labels
    ]
    health = [figure for model in collapsible for figure in training.health(known, model)]
    page = _environment().get_template("page.html.j2")
    return page.render(
        name=known.plan.experiment.file.name,
        version=version("semigrid"),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        finished=sum(row.state == "finished" for row in known.results.rows),
        cells=len(known.results.rows),
        answer=found,
        answer_figures=_numbered("a", [*by_labels, *curves.accuracy_by_pool(found)]),
        answer_sheets=_with_rows(savings_sheet(found), claims_sheet(found)),
        tables=_tables(known),
        wrong=[_wrong(known, row, number) for number, row in enumerate(best)],
        wrong_sheets=_wrong_sheets(known, best),
        calibration=_numbered("c", [curves.calibration(known, dataset) for dataset in datasets]),
        searches=_numbered("s", [*searches, *mattered]),
        trainings=_numbered("t", [*learning, *health]),
        costs=costs_sheet(known),
        facts=facts(known),
        recipes=recipes(known),
        experiment=known.plan.experiment.text,
        problems=known.results.problems,
        failures=_failures(known),
    )


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("semigrid.grid.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _numbered(prefix: str, figures: Iterable[Figure | Missing]) -> list[dict[str, Any]]:
    """Figures as the page shows them, the pictures as markup: they are our own, and escaped."""
    found = []
    for number, figure in enumerate(figures):
        own = f"{prefix}{number}-"
        svg = None if isinstance(figure, Missing) else Markup(with_own_ids(figure.svg, own))
        found.append({"shown": figure, "svg": svg, "id": own + "figure"})
    return found


def _best(known: Known) -> list[Row]:
    try:
        return known.best_rows()
    except InputError:  # nothing is finished: the page says so
        return []


def _tables(known: Known) -> list[Sheet[Any]]:
    found: list[Sheet[Any]] = [cells_sheet(known.results), labels_sheet(known)]
    with contextlib.suppress(InputError):  # no cells differ in their pool only
        found.append(pool_sheet(known))
    pairs = comparisons_sheet(known)
    if pairs.rows:
        notes = list(pairs.notes)
        if len(pairs.rows) > MOST_PAIRS:
            notes.append(
                f"the first {MOST_PAIRS} of {len(pairs.rows)} pairs; all of them: semigrid table "
                "--view comparisons"
            )
        found.append(Sheet(pairs.title, pairs.columns, pairs.rows[:MOST_PAIRS], pairs.frame, notes))
    return found


def _with_rows(*sheets: Sheet[Any]) -> list[Sheet[Any]]:
    return [sheet for sheet in sheets if sheet.rows]


def _wrong(known: Known, row: Row, number: int) -> dict[str, Any]:
    figures: list[Figure | Missing] = [curves.confusion(known, row), curves.by_class(known, row)]
    for name in known.plan.experiment.datasets[row.cell.dataset].manifest.slices:
        figure = curves.by_slice(row, by_slice(known.measured, known.plan, name))
        if figure is not None:
            figures.append(figure)
    mistakes, problem = confident_mistakes(known, row)
    return {
        "row": row,
        "figures": _numbered(f"w{number}-", figures),
        "mistakes": mistakes,
        "problem": problem,
    }


def _wrong_sheets(known: Known, best: Sequence[Row]) -> list[Sheet[Any]]:
    if not best:
        return []
    datasets = {row.cell.dataset for row in best}
    slices = {
        name: None
        for dataset in datasets
        for name in known.plan.experiment.datasets[dataset].manifest.slices
    }
    by_slices = [
        slices_sheet(known.results, by_slice(known.measured, known.plan, name)) for name in slices
    ]
    return [classes_sheet(known), confusions_sheet(known), *by_slices]


def _failures(known: Known) -> list[str]:
    return [
        f"{row.cell.name}: {row.state}: {row.failure}" for row in known.results.rows if row.failure
    ]
