"""What the training loop asks of its surroundings, alone or as one of N DDP workers."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import nn

from semigrid.trainers.checkpoint import Checkpoints
from semigrid.trainers.progress import Meter

ReportMetrics = Callable[[dict[str, Any]], None]


class Runtime(Protocol):
    """Where a training runs: its place among the workers, its checkpoints, its reports."""

    rank: int
    world_size: int
    device: torch.device

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as the training forward must call it (DDP, or the model itself)."""
        ...

    def fetch(self, rows: torch.Tensor, wanted: Sequence[torch.Tensor]) -> torch.Tensor:
        """The rows of the global batch that this rank wants, in its order.

        Every rank holds equally many ``rows`` of it, and knows what each rank wants:
        ``wanted[r]`` are rank r's global row numbers, (any number,), on the CPU.
        """
        ...

    def any(self, value: bool) -> bool:
        """Whether the value is true on any rank; all ranks meet here."""
        ...

    def share_buffers(self, *models: nn.Module) -> None:
        """Gives every rank rank 0's buffers, where each has batch statistics of its own."""
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

    def began(self, step: int) -> None:
        """The training starts, or goes on, from this step."""
        ...

    def stepped(self, step: int) -> None:
        """So many steps are done; called at each."""
        ...

    def report(self, metrics: dict[str, Any]) -> None:
        """What an evaluation found; all ranks call it, with the same values but for the speed."""
        ...

    def should_stop(self) -> bool:
        """True to stop after a checkpoint; all ranks must agree."""
        ...


class Metered:
    """A runtime that counts its steps, where it has something to count them with."""

    meter: Meter | None

    def began(self, step: int) -> None:
        if self.meter:
            self.meter.begin(step)

    def stepped(self, step: int) -> None:
        if self.meter:
            self.meter.step(step)


class InlineRuntime(Metered):
    """One worker in this process."""

    rank = 0
    world_size = 1

    def __init__(
        self,
        checkpoints: Checkpoints,
        report: ReportMetrics | None = None,
        device: str | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        meter: Meter | None = None,
    ):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.checkpoints = checkpoints
        self._report = report
        self._should_stop = should_stop
        self.meter = meter

    def wrap(self, model: nn.Module) -> nn.Module:
        return model

    def fetch(self, rows: torch.Tensor, wanted: Sequence[torch.Tensor]) -> torch.Tensor:
        return rows[wanted[self.rank].to(rows.device)]

    def any(self, value: bool) -> bool:
        return value

    def share_buffers(self, *models: nn.Module) -> None:
        """Nothing: there is one rank."""

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def progress(self, metrics: dict[str, Any]) -> None:
        self.report(metrics)

    def report(self, metrics: dict[str, Any]) -> None:
        if self.meter:
            metrics = self.meter.note(metrics)
        if self._report:
            self._report(metrics)

    def should_stop(self) -> bool:
        return self._should_stop()


class DistributedRuntime(Metered):
    """One of N workers of an initialised ``torch.distributed`` process group."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        report: ReportMetrics | None = None,
        device: str | None = None,
    ):
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.device = torch.device(device or "cpu")
        self.checkpoints = checkpoints
        self._report = report
        self.meter = None  # rank 0's, once all ranks have said what they run on
        # flags travel by the CPU: asking a GPU for one would make the host wait for its queue
        self._control: Any = dist.new_group(backend="gloo")

    def wrap(self, model: nn.Module) -> nn.Module:
        """DDP; on GPUs, batch normalisation takes its statistics over all ranks.

        torch has no such normalisation for the CPU: there each rank's is of its own images.
        """
        ids = None
        if self.device.type == "cuda":
            ids = [self.device.index or 0]
            model = convert_sync_batchnorm(model)
        # a rank that repeats a step would broadcast its buffers once more than the others
        ddp = nn.parallel.DistributedDataParallel
        known = inspect.signature(ddp).parameters  # torch 2.15 has a new name for it
        option = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in known)
        options: dict[str, Any] = {"device_ids": ids, option: False}
        return ddp(model, **options)

    def fetch(self, rows: torch.Tensor, wanted: Sequence[torch.Tensor]) -> torch.Tensor:
        """Sends each row to the ranks that want it: 1/N of what an all-gather would move."""
        local = len(rows)
        # what I send to each rank, in the order in which it wants it
        mine = [numbers[numbers // local == self.rank] % local for numbers in wanted]
        sent = rows[torch.cat(mine).to(rows.device)].contiguous()
        owner = wanted[self.rank] // local
        counts = torch.bincount(owner, minlength=self.world_size).tolist()
        received = rows.new_empty((len(owner), *rows.shape[1:]))
        dist.all_to_all_single(received, sent, counts, [len(m) for m in mine])
        # arrived grouped by owner: put every row at its place
        places = torch.argsort(owner, stable=True).to(rows.device)
        result = torch.empty_like(received)
        result[places] = received
        return result

    def any(self, value: bool) -> bool:
        flag = torch.tensor(int(value))
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._control)
        return bool(flag)

    def share_buffers(self, *models: nn.Module) -> None:
        if self.device.type == "cuda":
            return  # their statistics are taken over all ranks, see wrap
        for model in models:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def progress(self, metrics: dict[str, Any]) -> None:
        """Into a file: Ray Train's report is a meeting of all ranks, too dear for this."""
        if self.meter:
            self.meter.note(metrics)

    def report(self, metrics: dict[str, Any]) -> None:
        if self._report:
            self._report(metrics)

    def should_stop(self) -> bool:
        return False
