"""A training's data: endless batches."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from semigrid.data.batches import EvalBatches, MemoryBatches, load
from semigrid.data.views.augment import ViewSettings
from semigrid.data.views.render import Batch

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

    def batches(
        self, start: int, stop: int
    ) -> Generator[tuple[int, Batch, Batch | None], None, None]:
        """(step, labelled batch, pool batch) for the steps from start to stop.

        Raises ``RuntimeError`` when a source ends too early.
        """
        steps = range(start, stop)
        sources = {"labeled": self.labeled} | ({"pool": self.pool} if self.pool else {})
        in_memory = {n: each for n, each in sources.items() if isinstance(each, MemoryBatches)}
        loaded = load(in_memory, steps, self.loader_processes)
        streams = {n: each(start, stop) for n, each in sources.items() if n not in in_memory}
        try:
            for step in steps:  # no batch is asked for after the last step
                batches = next(loaded) | {name: next(stream) for name, stream in streams.items()}
                yield step, batches["labeled"], batches.get("pool")
        finally:
            del loaded, streams  # whoever keeps an error would keep their processes
