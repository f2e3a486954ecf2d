"""A finished trial's model at work: from decoded images to probabilities, without Ray."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

from semigrid.data.ranges import Block
from semigrid.data.views.augment import ViewSettings
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Cell, Plan
from semigrid.grid.study.winner import load_winner
from semigrid.trainers.evaluation.evaluate import predict
from semigrid.trainers.models.create import input_statistics
from semigrid.trainers.trial.data import EVALUATION_BATCH, view_settings
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.job import Place
from semigrid.trainers.trial.model import finished_model


@dataclass(frozen=True)
class WinnerModel:
    """What a process needs in order to predict as the evaluation of a cell's winner did.

    ``weights`` is ``student`` or ``ema``.
    """

    spec: TrialSpec
    place: Place
    classes: tuple[str, ...]
    weights: str
    views: ViewSettings
    device: str
    threads: int  # of torch within an operation

    @cached_property
    def _network(self) -> nn.Module:
        torch.set_num_threads(self.threads)
        network = finished_model(self.spec, self.place, len(self.classes), self.weights)
        return network.to(self.device).eval()

    def predict(self, views: Block) -> Block:
        """Classifies views in the batches of an evaluation; the first call loads the weights."""
        device = torch.device(self.device)
        batches = torch.split(torch.from_numpy(views.rows), EVALUATION_BATCH)
        with torch.inference_mode():
            probabilities = [predict(self._network, each, self.views, device) for each in batches]
        return Block(views.ids, views.errors, np.concatenate(probabilities))


def winner_model(plan: Plan, cell: Cell, record: Record, folder: str, gpus: float) -> WinnerModel:
    """The model of a cell's winner. Raises ``InputError`` where its weights are damaged."""
    model, place = load_winner(plan, cell, record, folder)
    classes = plan.experiment.datasets[cell.dataset].manifest.classes
    views = view_settings(record.spec.recipe, input_statistics(model))
    device = "cuda" if gpus else "cpu"
    threads = plan.experiment.train_of(cell.model).cpus_per_worker
    return WinnerModel(record.spec, place, classes, record.best_weights, views, device, threads)
