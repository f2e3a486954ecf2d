"""The student's passes of one step: in one, in micro-batches, and again when memory runs out.

However the rows of a step are split, the gradient is that of the whole: Σ factor · weight · CE over
all rows. This needs a model whose output for an image does not depend on the images beside it, so
models with batch normalisation are never split.
"""

import contextlib
import gc
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.methods.losses import LogitAdjustment, soft_cross_entropy
from semigrid.trainers.methods.step import StepTargets, TargetRows
from semigrid.trainers.models.drop_path import DropPaths


class OutOfMemoryError(RuntimeError):
    """The device's memory does not hold a step, however it is split."""


def normalizes_over_batch(model: nn.Module) -> bool:
    """Whether an image's output depends on the images beside it, in the mode the model is in."""
    return any(isinstance(module, _BatchNorm) and module.training for module in model.modules())


class MicroBatchStepper:
    """Passes a step's rows through a model and leaves the gradient of their loss.

    Args:
        model: as the forward must call it: under DDP, compiled, or as it is.
        adjustment: makes the logits that are learnt of the model's.
        drop_paths: those of the model, drawn for the step already.
        autocast: makes the context of the forward.
        scaler: scales the loss (float16).
        micro_batch: most rows in one forward; None for all. It is halved when memory runs out, and
            remembered beside the checkpoints.
    """

    def __init__(
        self,
        model: nn.Module,
        adjustment: LogitAdjustment,
        drop_paths: DropPaths,
        runtime: Runtime,
        autocast: Callable[[], AbstractContextManager[None]],
        scaler: torch.amp.GradScaler,
        micro_batch: int | None,
    ):
        self.model, self.drop_paths, self.runtime = model, drop_paths, runtime
        self.adjustment = adjustment
        self.autocast, self.scaler = autocast, scaler
        self.ddp = model if isinstance(model, nn.parallel.DistributedDataParallel) else None
        self.rows_together = not normalizes_over_batch(model)
        known = runtime.checkpoints.load_micro_batch()
        self.micro_batch = min(filter(None, (micro_batch, known)), default=None)

    def learn(self, targets: StepTargets) -> list[torch.Tensor]:
        """Adds the gradient of the step's loss; returns this rank's Σ weight · CE of its rows."""
        parts = [rows for rows in targets.rows if len(rows)]
        while True:
            chunks = self._chunks(parts)
            losses = self._attempt(chunks)
            if losses is not None:
                break
            self._split_further(max(len(chunk) for chunk in chunks))
        each = torch.split(torch.cat(losses), [len(rows) for rows in targets.rows])
        pairs = zip(each, targets.rows, strict=True)
        return [(ce * rows.weights).sum() for ce, rows in pairs]

    def _chunks(self, parts: list[TargetRows]) -> list[TargetRows]:
        """The rows of each forward; those of all parts together where that is exact."""
        chunks = []
        for rows in [_joined(parts)] if self.rows_together else [_joined([part]) for part in parts]:
            count = 1 if self.micro_batch is None else math.ceil(len(rows) / self.micro_batch)
            chunks += _split(rows, count)
        return chunks

    def _forward(self, chunk: TargetRows) -> tuple[torch.Tensor, torch.Tensor]:
        """The scaled loss, and the cross-entropies (R,)."""
        self.drop_paths.use(chunk.numbers)
        with self.autocast():
            logits = self.adjustment(self.model(chunk.images))
            if isinstance(chunk.temperature, torch.Tensor):
                logits = logits.float() / chunk.temperature[:, None]
            losses = soft_cross_entropy(logits, chunk.targets)
        scaled: torch.Tensor = self.scaler.scale((losses * chunk.weights).sum())
        return scaled, losses.detach()

    def _attempt(self, chunks: list[TargetRows]) -> list[torch.Tensor] | None:
        """Cross-entropies by chunk; None if memory ran out, here or on another rank.

        Ranks meet in the last backward only, and make sure before it that all get there.
        """
        cross_entropies: list[torch.Tensor] = []
        full = False
        try:
            # gradients of backwards in this context stay on the rank
            with self.ddp.no_sync() if self.ddp else contextlib.nullcontext():
                for chunk in chunks:
                    loss, losses = self._forward(chunk)
                    cross_entropies.append(losses)
                    if chunk is not chunks[-1]:
                        loss.backward()  # type: ignore[no-untyped-call]
        except torch.OutOfMemoryError:
            if not self.rows_together and self.runtime.world_size > 1:
                raise  # the others may be waiting for this rank's batch statistics, not for a vote
            full = True
        if self.runtime.any(full):
            return None
        if self.ddp:
            # The next backward averages all gradients over the ranks. After a forward outside
            # no_sync it would, too. But when that runs out of memory, DDP goes on expecting its
            # backward, and the ranks would meet in the middle of the repeated step. For the same
            # reason DDP must not broadcast buffers: see Runtime.share_buffers.
            self.ddp.reducer.prepare_for_backward([])
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        except torch.OutOfMemoryError:
            if self.runtime.world_size > 1:
                # the others are in the middle of it: this group cannot go on, the next one can
                largest = max(len(chunk) for chunk in chunks)
                if self.rows_together and largest > 1:
                    self.runtime.checkpoints.save_micro_batch((largest + 1) // 2)
                raise
            return None
        return cross_entropies

    def _split_further(self, largest: int) -> None:
        self.model.zero_grad(set_to_none=True)
        gc.collect()
        if self.runtime.device.type == "cuda":
            torch.cuda.empty_cache()
        largest = max(self.runtime.gather(largest))
        if largest == 1 or not self.rows_together:
            images = (
                "one image"
                if self.rows_together
                else f"{largest} images, and a model with batch normalisation cannot be split"
            )
            raise OutOfMemoryError(
                f"the device's memory is too small for {images}; use a smaller model, img_size or "
                "batch_size, more workers, or precision: bf16"
            )
        self.micro_batch = (largest + 1) // 2
        self.runtime.checkpoints.save_micro_batch(self.micro_batch)


def _joined(parts: Sequence[TargetRows]) -> TargetRows:
    """All rows as one, their factors in their weights."""
    temperature: float | torch.Tensor = 1.0
    if any(part.temperature != 1.0 for part in parts):
        each = [torch.full_like(part.weights, part.temperature) for part in parts]
        temperature = torch.cat(each)
    return TargetRows(
        torch.cat([part.images for part in parts]),
        torch.cat([part.targets for part in parts]),
        torch.cat([part.weights * part.factor for part in parts]),
        torch.cat([part.numbers for part in parts]),
        temperature=temperature,
    )


def _split(rows: TargetRows, count: int) -> list[TargetRows]:
    """The rows in ``count`` pieces, as even as they divide."""
    columns = {n: each for n, each in vars(rows).items() if isinstance(each, torch.Tensor)}
    pieces = zip(*(column.tensor_split(count) for column in columns.values()), strict=True)
    return [replace(rows, **dict(zip(columns, piece, strict=True))) for piece in pieces]
