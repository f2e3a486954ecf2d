"""A finished trial's model at work: from views to probabilities, in any process."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

from semigrid.data.ranges import Block
from semigrid.data.views.augment import ViewSettings
from semigrid.trainers.evaluation.evaluate import predict
from semigrid.trainers.trial.data import EVALUATION_BATCH
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.job import Place
from semigrid.trainers.trial.model import finished_model


@dataclass(frozen=True)
class FinishedModel:
    """What a process needs in order to predict as the evaluation of a trial did.

    ``weights`` is ``student`` or ``ema``.
    """

    spec: TrialSpec
    place: Place
    num_classes: int
    weights: str
    views: ViewSettings
    device: str
    threads: int  # of torch within an operation

    @cached_property
    def _network(self) -> nn.Module:
        torch.set_num_threads(self.threads)
        network = finished_model(self.spec, self.place, self.num_classes, self.weights)
        return network.to(self.device).eval()

    def predict(self, views: Block) -> Block:
        """Classifies views in the batches of an evaluation; the first call loads the weights."""
        device = torch.device(self.device)
        batches = torch.split(torch.from_numpy(views.rows), EVALUATION_BATCH)
        with torch.inference_mode():
            probabilities = [predict(self._network, each, self.views, device) for each in batches]
        return Block(views.ids, views.errors, np.concatenate(probabilities))
