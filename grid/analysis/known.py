"""All that tables and the report of a grid are made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from semigrid.data.errors import InputError
from semigrid.data.storage import Storage
from semigrid.grid.analysis.measured import Measured, measure
from semigrid.grid.analysis.results import Results, Row, results_of
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.state import StudyState


@dataclass(frozen=True)
class Known:
    """A grid's state, its records, its predictions, and the table of its cells."""

    study: StudyState
    records: Mapping[str, Record]
    measured: Measured
    results: Results

    @property
    def plan(self) -> Plan:
        return self.study.plan

    def best_rows(self) -> list[Row]:
        """The best cell of each dataset. Raises ``InputError`` where no cell has predictions."""
        best = set(self.results.standings.best.values())
        rows = [row for row in self.results.rows if row.cell in best]
        if not rows:
            raise InputError(
                f"{self.plan.experiment.source}: no finished cell has predictions yet; run the "
                "experiment first",
                *self.results.problems,
            )
        return rows


def know(
    study: StudyState,
    records: Mapping[str, Record],
    storage: Storage,
    only: Sequence[str] | None = None,
    tasks: Mapping[str, str] | None = None,
) -> Known:
    """Reads the predictions of the cells, all or some: see ``results_of``."""
    cells = [cell for cell in study.plan.cells if only is None or cell.name in only]
    measured = measure(study, records, storage, cells)
    results = results_of(study, records, measured, only, tasks)
    return Known(study, records, measured, results)
