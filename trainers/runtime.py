"""What the training loop asks of its surroundings, alone or as one of N DDP workers."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn

from trainers.checkpoint import Checkpoints

Report = Callable[[dict[str, Any]], None]


class Runtime(Protocol):
    """Where a training runs: its place among the workers, its checkpoints, its reports."""

    rank: int
    world_size: int
    device: torch.device

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as the training forward must call it (DDP, or the model itself)."""
        ...

    def permute(self, rows: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
        """This rank's rows of the permuted global batch; every rank gives equally many rows."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks in rank order, on every rank."""
        ...

    @property
    def checkpoints(self) -> Checkpoints:
        """Where this training's state lies; only rank 0 writes."""
        ...

    def progress(self, metrics: dict[str, Any]) -> None:
        """A sign of life for the live view, from any rank at any time."""
        ...

    def report(self, metrics: dict[str, Any]) -> None:
        """What an evaluation found; all ranks call it with the same values."""
        ...

    def should_stop(self) -> bool:
        """True to stop after a checkpoint; all ranks must agree."""
        ...


class InlineRuntime:
    """One worker in this process."""

    rank = 0
    world_size = 1

    def __init__(
        self,
        checkpoints: Checkpoints,
        report: Report | None = None,
        device: str | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.checkpoints = checkpoints
        self._report = report
        self._should_stop = should_stop

    def wrap(self, model: nn.Module) -> nn.Module:
        return model

    def permute(self, rows: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
        return rows[permutation.to(rows.device)]

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def progress(self, metrics: dict[str, Any]) -> None:
        self.report(metrics)

    def report(self, metrics: dict[str, Any]) -> None:
        if self._report:
            self._report(metrics)

    def should_stop(self) -> bool:
        return self._should_stop()


class DistributedRuntime:
    """One of N workers of an initialised ``torch.distributed`` process group."""

    def __init__(
        self, checkpoints: Checkpoints, report: Report | None = None, device: str | None = None
    ):
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.device = torch.device(device or "cpu")
        self.checkpoints = checkpoints
        self._report = report

    def wrap(self, model: nn.Module) -> nn.Module:
        ids = [self.device.index or 0] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)

    def permute(self, rows: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
        """Sends each row to the one rank that needs it: 1/N of what an all-gather would move."""
        local = len(rows)
        wanted = permutation.view(self.world_size, local)  # [rank, place] -> global row
        owner = wanted // local
        # what I send to each rank, ordered by the place it will take there
        mine = [wanted[r][owner[r] == self.rank] % local for r in range(self.world_size)]
        sent = rows[torch.cat(mine).to(rows.device)].contiguous()
        my_owner = owner[self.rank]
        received_counts = torch.bincount(my_owner, minlength=self.world_size).tolist()
        received = rows.new_empty((local, *rows.shape[1:]))
        dist.all_to_all_single(received, sent, received_counts, [len(m) for m in mine])
        # arrived grouped by owner: put every row at its place
        places = torch.argsort(my_owner, stable=True).to(rows.device)
        result = torch.empty_like(received)
        result[places] = received
        return result

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def progress(self, metrics: dict[str, Any]) -> None:
        """Nothing: Ray Train's report is a meeting of all ranks, too dear between evaluations."""

    def report(self, metrics: dict[str, Any]) -> None:
        if self._report:
            self._report(metrics)

    def should_stop(self) -> bool:
        return False
