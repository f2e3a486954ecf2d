"""The registry of tables: what ``semigrid table --view`` shows by which name."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from semigrid.grid.analysis.answer import answer
from semigrid.grid.analysis.headline import Headline
from semigrid.grid.analysis.recommendation import Recommendation
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.tables.answer import claims_table, savings_table
from semigrid.grid.tables.cells import cells_table, comparisons_table
from semigrid.grid.tables.classes import classes_table, confusions_table
from semigrid.grid.tables.costs import costs_table
from semigrid.grid.tables.formats import View
from semigrid.grid.tables.models import models_table
from semigrid.grid.tables.paper_tables import labels_table, pool_table
from semigrid.grid.tables.table import Table


def results_table(results: ResultSet) -> Table[CellResult]:
    """The table of cells and, below it, what they say of labels."""
    answered = answer(results)
    said: list[Recommendation | Headline]
    said = [*answered.recommendations, *(each for each in answered.headlines if each.is_answer)]
    several = len(answered.datasets) > 1
    texts = [f"{each.dataset}: {each.text}" if several else each.text for each in said]
    table = cells_table(results)
    return replace(table, notes=[*texts, *table.notes])


# a view of which the results have nothing raises ``InputError``
TABLES: dict[View, Callable[[ResultSet], Table[Any]]] = {
    View.cells: results_table,
    View.models: lambda results: models_table(results, answer(results)),
    View.labels: labels_table,
    View.pool: pool_table,
    View.classes: classes_table,
    View.confusions: confusions_table,
    View.comparisons: comparisons_table,
    View.costs: costs_table,
    View.savings: lambda results: savings_table(answer(results)),
    View.claims: lambda results: claims_table(answer(results)),
}
