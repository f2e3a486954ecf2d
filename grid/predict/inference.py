"""The model of a cell's winner, to predict with."""

from dataclasses import dataclass

from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Cell, Plan
from semigrid.grid.study.winner import load_winner
from semigrid.trainers.models.create import input_statistics
from semigrid.trainers.trial.data import view_settings
from semigrid.trainers.trial.inference import FinishedModel


@dataclass(frozen=True)
class WinnerModel(FinishedModel):
    """A model that predicts as the evaluation of a cell's winner did."""

    classes: tuple[str, ...]


def winner_model(plan: Plan, cell: Cell, record: Record, folder: str, gpus: float) -> WinnerModel:
    """The model of a cell's winner. Raises ``InputError`` where its weights are damaged."""
    model, place = load_winner(plan, cell, record, folder)
    classes = plan.experiment.datasets[cell.dataset].manifest.classes
    views = view_settings(record.spec.recipe, input_statistics(model))
    device = "cuda" if gpus else "cpu"
    threads = plan.experiment.train_of(cell.model).cpus_per_worker
    how = (len(classes), record.best_weights, views, device, threads)
    return WinnerModel(record.spec, place, *how, classes)
