"""What the training loop asks of its surroundings, alone or as one of N DDP workers."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import nn

from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.progress import Meter

ReportMetrics = Callable[[dict[str, Any]], None]


def device_kind(device: torch.device) -> str:
    """``cpu``, or the GPU's name as its driver gives it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class Runtime:
    """Where a training runs: one worker in this process; the base of one among several.

    Args:
        checkpoints: where the training's state is kept; only rank 0 writes.
        meter: counts the training's steps and what it costs.
    """

    rank = 0
    world_size = 1

    def __init__(
        self,
        checkpoints: Checkpoints,
        report: ReportMetrics | None = None,
        device: str | None = None,
        meter: Meter | None = None,
    ):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.checkpoints, self.meter, self._report = checkpoints, meter, report

    @property
    def device_kind(self) -> str:
        """``device_kind`` of its device."""
        return device_kind(self.device)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as the training forward must call it (DDP, or the model itself)."""
        return model

    def fetch(self, rows: torch.Tensor, wanted: Sequence[torch.Tensor]) -> torch.Tensor:
        """The rows of the global batch that this rank wants, in its order.

        Args:
            rows: this rank's part of the global batch; every rank has equally many.
            wanted: each rank's global row numbers, (any number,); on the CPU if there are several.
        """
        return rows[wanted[self.rank]]

    def any(self, value: bool) -> bool:
        """Whether the value is true on any rank; waits for all ranks."""
        return value

    def share_buffers(self, *models: nn.Module) -> None:
        """Copies rank 0's buffers to all ranks, where each has batch statistics of its own."""

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks in rank order, on every rank."""
        return [value]

    def began(self, step: int) -> None:
        """The training starts, or resumes, at this step."""
        if self.meter:
            self.meter.begin(step)

    def stepped(self, step: int) -> None:
        """A step is done; ``step`` is the number of steps so far."""
        if self.meter:
            self.meter.step(step)

    def progress(self, metrics: dict[str, Any]) -> None:
        """Reports where the training stands; any rank calls it at any time."""
        self.report(metrics)

    def report(self, metrics: dict[str, Any]) -> None:
        """Reports an evaluation; all ranks call it, with the same values but for the speed."""
        if self.meter:
            metrics = self.meter.note(metrics)
        if self._report:
            self._report(metrics)


class DistributedRuntime(Runtime):
    """One of N workers of an initialised ``torch.distributed`` process group."""

    def __init__(
        self, checkpoints: Checkpoints, report: ReportMetrics | None = None, device: str = "cpu"
    ):
        super().__init__(checkpoints, report, device)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        # flags and objects travel by the CPU: asking a GPU, the host would wait for its queue
        self._control: Any = dist.new_group(backend="gloo")

    def wrap(self, model: nn.Module) -> nn.Module:
        """DDP; on GPUs, batch normalisation takes its statistics over all ranks.

        torch cannot do that on the CPU: there each rank has statistics of its own images.
        """
        ids = None
        if self.device.type == "cuda":
            ids = [self.device.index or 0]
            model = convert_sync_batchnorm(model)
        # a rank that repeats a step would broadcast its buffers once more than the others
        ddp = nn.parallel.DistributedDataParallel
        known = inspect.signature(ddp).parameters  # torch 2.15 has a new name for it
        option = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in known)
        # gradients lie where they are sent from, once
        options: dict[str, Any] = {
            "device_ids": ids,
            option: False,
            "gradient_as_bucket_view": True,
        }
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
        # the rows arrive grouped by owner
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
        dist.all_gather_object(values, value, group=self._control)
        return values

    def progress(self, metrics: dict[str, Any]) -> None:
        """Into a file: Ray Train's report waits for all ranks, which costs too much here."""
        if self.meter:
            self.meter.note(metrics)
