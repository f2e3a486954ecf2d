"""The model that a finished cell leaves: what ``predict`` and ``export`` take."""

import shlex
from collections.abc import Mapping

from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage
from semigrid.grid.experiment import Experiment, nearest
from semigrid.grid.study.layout import EXPERIMENT_COPY
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Cell
from semigrid.grid.study.state import Stage, StudyState
from semigrid.trainers.choose import is_better

_WORDS: dict[Stage, str] = {
    "waiting": "waits for the cell that it starts from",
    "searching": "is not searched to the end",
    "seeds": "is not trained on all seeds",
    "evaluating": "is not evaluated on test",
    "failed": "failed",
    "blocked": "is blocked",
}


def run_command(experiment: Experiment, cell: str) -> str:
    """What finishes a cell; of the copy of an experiment in its run's folder, the folder is named.

    The copy alone would be run with its own storage, which may mean another folder here.
    """
    folder = open_storage(experiment.folder)
    copied = experiment.source == folder.location(EXPERIMENT_COPY)
    source = folder.uri if copied else experiment.source
    return shlex.join(["semigrid", "run", source, "--only", cell])


def find_winner(study: StudyState, records: Mapping[str, Record], name: str) -> tuple[Cell, Record]:
    """A cell by its name, and the record of its winner's best seed, by its score on val.

    The test scores decide nothing: a model chosen by them would be praised for luck. Raises
    ``InputError`` for a name that is no cell's, and for a cell that is not finished.
    """
    cells = {cell.name: cell for cell in study.plan.cells}
    if name not in cells:
        source = study.plan.experiment.source
        raise InputError(f"{name!r} is no cell of {source}; {nearest(name, list(cells))}")
    state = study.searches[name]
    if state.stage != "finished":
        why = f": {state.failure}" if state.failure else ""
        again = run_command(study.plan.experiment, name)
        raise InputError(
            f"{name} {_WORDS[state.stage]}{why}; there is a model once a cell is finished: {again}"
        )
    best: Record | None = None
    for _, spec in sorted(state.by_seed.items()):
        record = records[spec.id]
        if best is None or is_better(record.val, best.val):
            best = record
    assert best is not None
    return cells[name], best
