"""The model that a finished cell leaves: what ``predict`` and ``export`` take."""

from collections.abc import Mapping

from data.errors import InputError
from grid.experiment import nearest
from grid.ledger import Record
from grid.plan import Cell
from grid.scheduler import Scheduler
from trainers.choose import is_better


def find_winner(
    scheduler: Scheduler, records: Mapping[str, Record], name: str
) -> tuple[Cell, Record]:
    """A cell by its name, and the record of its winner's best seed, by its score on val.

    The test scores decide nothing: a model chosen by them would be praised for luck. Raises
    ``InputError`` for a name that is no cell's, and for a cell that is not finished.
    """
    cells = {cell.name: cell for cell in scheduler.plan.cells}
    if name not in cells:
        source = scheduler.plan.experiment.source
        raise InputError(f"{name!r} is no cell of {source}; {nearest(name, list(cells))}")
    state = scheduler.states[name]
    if state.state != "finished":
        why = f": {state.failure}" if state.failure else ""
        raise InputError(
            f"{name} is {state.state}{why}; a model is there once its cell is finished: semigrid "
            f"run {scheduler.plan.experiment.source} --only {name!r}"
        )
    best: Record | None = None
    for _, spec in sorted(state.by_seed.items()):
        record = records[spec.id]
        if best is None or is_better(record.val, best.val):
            best = record
    assert best is not None
    return cells[name], best
