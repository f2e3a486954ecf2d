"""A training's data: endless batches, and the tensors that a step makes of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from semigrid.data.batches import EvalBatches, MemoryBatches, load
from semigrid.data.views.augment import ViewName, ViewSettings, erase, normalize
from semigrid.data.views.render import Batch
from semigrid.trainers.methods.step import StepInput

# The batches of the steps from start to stop, in order.
BatchSource = Callable[[int, int], Iterator[Batch]]


@dataclass(frozen=True)
class Streams:
    """Labelled batches, unlabelled ones where there is a pool, and the val images.

    ``labels`` (N,) are those of all labelled images; only a logit adjustment asks for them.
    ``soft_targets`` (N, K) of pool images, by their ids, are for methods that learn them.
    ``loader_processes`` make the batches of what is in memory, labelled and unlabelled ones alike;
    with 0 they are made when they are asked for.
    """

    labeled: BatchSource
    pool: BatchSource | None
    validation: EvalBatches
    views: ViewSettings
    labels: np.ndarray | None = None
    soft_targets: Callable[[Sequence[str]], torch.Tensor] | None = None
    loader_processes: int = 0

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, Batch, Batch | None]]:
        """(step, labelled batch, pool batch) for the steps from start to stop.

        Raises ``RuntimeError`` when a source ends too early.
        """
        steps = range(start, stop)
        sources = {"labeled": self.labeled} | ({"pool": self.pool} if self.pool else {})
        in_memory = {n: each for n, each in sources.items() if isinstance(each, MemoryBatches)}
        loaded = load(in_memory, steps, self.loader_processes)
        streams = {n: each(start, stop) for n, each in sources.items() if n not in in_memory}
        for step in steps:  # no batch is asked for after the last step
            batches = next(loaded) | {name: next(stream) for name, stream in streams.items()}
            yield step, batches["labeled"], batches.get("pool")

    def step_input(
        self,
        labeled: Batch,
        pool: Batch | None,
        device: torch.device,
        channels_last: bool,
    ) -> StepInput:
        """A step's images, normalised float32 on the device; strong views are erased there."""

        def ready(batch: Batch) -> dict[ViewName, torch.Tensor]:
            views: dict[ViewName, torch.Tensor] = {}
            for name, images in batch.views.items():
                images = images.to(device)
                if channels_last:
                    images = images.contiguous(memory_format=torch.channels_last)
                images = normalize(images, self.views)
                if name == "strong":
                    (rows,) = batch.erasures[:, 2].nonzero(as_tuple=True)
                    images = erase(images, batch.erasures.to(device), rows.to(device))
                views[name] = images
            return views

        y = labeled.labels.to(device)
        if pool is None:
            return StepInput(ready(labeled), y)
        soft = None if self.soft_targets is None else self.soft_targets(pool.ids).to(device)
        return StepInput(ready(labeled), y, ready(pool), soft)
