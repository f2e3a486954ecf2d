"""The model of a finished cell, which ``predict`` and ``export`` use."""

from dataclasses import replace
from typing import TYPE_CHECKING

from semigrid.data.errors import InputError
from semigrid.data.escape import command
from semigrid.data.storage import open_storage
from semigrid.grid.experiment.experiment import Experiment
from semigrid.grid.experiment.messages import nearest
from semigrid.grid.study.layout import EXPERIMENT_COPY
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Cell, Plan
from semigrid.grid.study.state import StudyState
from semigrid.trainers.evaluation.choose import rank
from semigrid.trainers.trial.job import DamagedWeightsError, Place

if TYPE_CHECKING:
    from torch import nn


def adjustment_note(record: Record) -> str | None:
    """What a model's probabilities mean that was trained with a logit adjustment."""
    tau = record.spec.logit_adjustment
    if not tau:
        return None
    power = "" if tau == 1 else f" to the power of {tau:g}"
    return (
        f"its probabilities are those where all classes are equally frequent (logit_adjustment: "
        f"{tau:g}); for other images, multiply each one by its class's share{power} and divide by "
        "their sum"
    )


def run_command(experiment: Experiment, cell: str) -> str:
    """The command that finishes a cell.

    For the copy of an experiment in its run's folder, it names the folder: the copy alone would be
    run with its own storage, which may be another folder here.
    """
    folder = open_storage(experiment.folder)
    copied = experiment.source == folder.location(EXPERIMENT_COPY)
    source = folder.uri if copied else experiment.source
    return command(["semigrid", "run", source, "--only", cell])


def find_winner(study: StudyState, name: str) -> tuple[Cell, Record]:
    """A cell by its name, and the record of its winner's best seed.

    The score on val decides; a model chosen by its score on test would be chosen for luck. Raises
    ``InputError`` for an unknown cell and for one that is not finished.
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
            f"{name} is not finished but {state.stage}{why}; a cell has a model once it is "
            f"finished: {again}"
        )
    seeds = [study.records[spec.id] for _, spec in sorted(state.by_seed.items())]
    return cells[name], max(seeds, key=lambda record: rank(*record.score))


def stages_of(study: StudyState, record: Record) -> list[Record]:
    """The records from the first training, which a trial's weights come from, to the trial's."""
    parent = record.spec.parent
    return [*([] if parent is None else stages_of(study, study.records[parent])), record]


def load_winner(plan: Plan, cell: Cell, record: Record, folder: str) -> tuple["nn.Module", Place]:
    """The trained model in eval mode, and the place where other processes find its weights.

    Raises ``InputError`` where the weights are missing or damaged.
    """
    from semigrid.trainers.trial.model import finished_model

    search = next(search for search in plan.searches if search.cell == cell)
    sha256 = record.weights_file.sha256 if record.weights_file else None
    place: Place = replace(plan.place(search, folder), weights_sha256=sha256)
    classes = plan.experiment.datasets[cell.dataset].num_classes
    try:
        model = finished_model(record.spec, place, classes, record.best_weights)
    except DamagedWeightsError as error:
        raise InputError(
            f"{error.problem}; delete it if it is there, and have it trained again: "
            + run_command(plan.experiment, cell.name)
        ) from error
    return model.eval(), place
