"""The one training loop: endless batches, a fixed number of steps, exact checkpoints."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import nn

from data.augment import ViewSettings, erase, normalize
from data.batches import Batch, EvalBatches
from trainers.checkpoint import encode_weights, random_states, restore_random_states
from trainers.choose import is_better
from trainers.evaluate import evaluate
from trainers.methods import Sharing, StepInput, finetune, semi
from trainers.recipe import Method, Recipe
from trainers.runtime import Runtime
from trainers.schedule import create_optimizer, create_schedule

# The batches of the steps from start to stop, in order.
BatchSource = Callable[[int, int], Iterator[Batch]]

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
REPORT_SECONDS = 2.0
# what a kill may cost, beside the steps since the last evaluation
CHECKPOINT_STEPS = 200


class DivergedError(RuntimeError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class Streams:
    """A training's data: labelled and, for ``semi``, unlabelled batches, and the val images."""

    labeled: BatchSource
    pool: BatchSource | None
    validation: EvalBatches
    views: ViewSettings


@dataclass
class Outcome:
    """Where a training stands. ``best_*`` name the evaluation that was best on val.

    ``resumed_at`` lists the steps at which it went on from a checkpoint; ``finished`` is False when
    it was told to stop before its last step.
    """

    step: int = 0
    best_step: int = 0
    best_weights: str = "student"
    best_metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list, compare=False)
    finished: bool = False


def train(
    recipe: Recipe,
    method: Method,
    model: nn.Module,
    teacher_state: dict[str, torch.Tensor] | None,
    streams: Streams,
    runtime: Runtime,
    *,
    num_classes: int,
    seed: int,
    precision: str = "fp32",
    checkpoint_steps: int = CHECKPOINT_STEPS,
) -> Outcome:
    """Trains ``model`` for ``recipe.total_steps``, going on from the latest checkpoint.

    What is random in a step is a function of (seed, step, rank); so a resumed run equals an
    uninterrupted one, bit for bit on the CPU. Checkpoints are written at every evaluation and
    every ``checkpoint_steps``. Raises ``DivergedError`` on a loss that is not finite.
    """
    trainer = _Training(recipe, method, model, teacher_state, streams, runtime, num_classes, seed)
    trainer.use_precision(precision)
    trainer.resume()
    outcome = trainer.outcome
    evaluate_at = evaluation_steps(recipe)
    started = time.monotonic() - outcome.seconds
    last_report, last_step = time.monotonic(), outcome.step
    for step, labeled, pool in trainer.batches():
        trainer.step(step, labeled, pool)
        outcome.step = step + 1
        outcome.seconds = time.monotonic() - started
        now = time.monotonic()
        if now - last_report >= REPORT_SECONDS:
            images = (outcome.step - last_step) * trainer.images_per_step
            runtime.progress(trainer.progress() | {"images_per_s": images / (now - last_report)})
            last_report, last_step = now, outcome.step
        stop = runtime.should_stop()
        if outcome.step in evaluate_at:
            trainer.evaluate()
            outcome.seconds = time.monotonic() - started
            runtime.report(trainer.progress() | outcome.history[-1])
        due = outcome.step % checkpoint_steps == 0
        if outcome.step in evaluate_at or due or stop:
            trainer.save_checkpoint()
        if stop:
            return outcome
    outcome.finished = True
    return outcome


def evaluation_steps(recipe: Recipe) -> set[int]:
    """The numbers of steps done after which val is evaluated: evenly spaced, the last one too."""
    count = min(recipe.evaluations, recipe.total_steps)
    return {round((i + 1) * recipe.total_steps / count) for i in range(count)}


class _Training:
    """The moving parts of one training: models, optimiser, schedule and sums since last time."""

    def __init__(
        self,
        recipe: Recipe,
        method: Method,
        model: nn.Module,
        teacher_state: dict[str, torch.Tensor] | None,
        streams: Streams,
        runtime: Runtime,
        num_classes: int,
        seed: int,
    ):
        assert recipe.ema_decay is not None, "the recipe is not resolved"
        self.recipe, self.method, self.streams, self.runtime = recipe, method, streams, runtime
        self.num_classes, self.seed = num_classes, seed
        self.student = model.to(runtime.device)
        self.ema = ModelEmaV3(self.student, decay=recipe.ema_decay, exclude_buffers=True)
        if teacher_state is not None:
            self.ema.module.load_state_dict(teacher_state)
        self.optimizer = create_optimizer(self.student, recipe)
        self.schedule = create_schedule(self.optimizer, recipe)
        self.sharing = Sharing(runtime.permute, runtime.rank, runtime.world_size)
        self.outcome = Outcome()
        self.sums: dict[str, torch.Tensor] = {}
        self.summed_steps = 0
        self.images_per_step = recipe.batch_size
        if method == "semi":
            self.images_per_step += recipe.pool_batch_size

    def use_precision(self, precision: str) -> None:
        self.autocast_dtype = PRECISIONS[precision]
        self.scaler = torch.amp.GradScaler(
            self.runtime.device.type, enabled=self.autocast_dtype is torch.float16
        )

    def resume(self) -> None:
        """Loads the latest checkpoint, if there is one, and makes the model ready to train."""
        state = self.runtime.checkpoints.load()
        if state is not None:
            self.student.load_state_dict(state["student"])
            self.ema.module.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.outcome = Outcome(**state["outcome"])
            self.outcome.resumed_at.append(self.outcome.step)
            if state["sums"]:
                mine = state["sums"][self.runtime.rank % len(state["sums"])]
                self.sums = {k: v.to(self.runtime.device) for k, v in mine.items()}
            self.summed_steps = state["summed_steps"]
            if len(state["random"]) == self.runtime.world_size:
                restore_random_states(state["random"][self.runtime.rank])
        self.model = self.runtime.wrap(self.student)
        self.model.train()

    def save_checkpoint(self) -> None:
        randoms = self.runtime.gather(random_states())
        sums = self._sums_of_ranks()
        self._join_broken()
        if self.runtime.rank != 0:
            return
        self.runtime.checkpoints.save(
            {
                "student": self.student.state_dict(),
                "ema": self.ema.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                # the schedule and both streams' positions are functions of the step
                "outcome": vars(self.outcome),
                "best_step": self.outcome.best_step,
                "sums": sums,
                "summed_steps": self.summed_steps,
                "random": randoms,
            }
        )

    def batches(self) -> Iterator[tuple[int, Batch, Batch | None]]:
        """(step, labelled batch, pool batch) from the current step to the last."""
        start, stop = self.outcome.step, self.recipe.total_steps
        if start == stop:
            return
        labeled = self.streams.labeled(start, stop)
        pool = self.streams.pool(start, stop) if self.streams.pool else None
        for step in range(start, stop):
            yield step, next(labeled), next(pool) if pool is not None else None

    def step(self, number: int, labeled: Batch, pool: Batch | None) -> None:
        """One optimiser step; adds its losses to the sums."""
        inputs = self._to_device(labeled, pool)
        # dropout and drop path differ between ranks, the mixing draws must not
        torch.manual_seed(step_seed(self.seed, number, f"rank {self.runtime.rank}"))
        draw = torch.Generator().manual_seed(step_seed(self.seed, number, "mix"))
        self.schedule.step_update(number)
        with torch.autocast(
            self.runtime.device.type,
            dtype=self.autocast_dtype,
            enabled=self.autocast_dtype is not None,
        ):
            args = (inputs, self.recipe, self.num_classes, draw, self.sharing)
            if self.method == "semi":
                loss, parts = semi(self.model, self.ema.module, *args)
            else:
                loss, parts = finetune(self.model, *args)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update(self.student)
        for name, value in parts.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.summed_steps += 1
        if pool is not None and pool.broken:
            known = set(self.outcome.broken)
            self.outcome.broken += sorted(set(pool.broken) - known)

    def _to_device(self, labeled: Batch, pool: Batch | None) -> StepInput:
        views, device = self.streams.views, self.runtime.device

        def strong(batch: Batch) -> torch.Tensor:
            images = normalize(batch.views["strong"].to(device), views)
            return erase(images, batch.erase_seeds, views.erase_prob)

        inputs = StepInput(strong(labeled), labeled.labels.to(device))
        if pool is not None:
            inputs.weak = normalize(pool.views["weak"].to(device), views)
            inputs.strong = strong(pool)
        return inputs

    def evaluate(self) -> None:
        """Evaluates student and EMA on val, notes the better, and keeps the best weights so far."""
        means = self._mean_losses()
        self._join_broken()
        record: dict[str, float] = {"step": self.outcome.step, **means}
        found = {}
        for name, model in (("student", self.student), ("ema", self.ema.module)):
            predictions = evaluate(model, self.streams.validation, self.streams.views, self.runtime)
            if not np.isfinite(predictions.probabilities).all():
                raise DivergedError(
                    f"at step {self.outcome.step} the {name} predicts no finite probabilities: the "
                    f"training diverged; lower base_lr (it is {self.recipe.base_lr:g})"
                )
            found[name] = predictions.metrics()
            record |= {f"{name}_{metric}": value for metric, value in found[name].items()}
        self.outcome.history.append(record)
        better = "ema" if is_better(found["ema"], found["student"]) else "student"
        if is_better(found[better], self.outcome.best_metrics):
            self.outcome.best_metrics = found[better]
            self.outcome.best_weights = better
            self.outcome.best_step = self.outcome.step
            if self.runtime.rank == 0:
                content = encode_weights(self.student.state_dict(), self.ema.module.state_dict())
                self.runtime.checkpoints.save_weights(self.outcome.step, content)

    def _mean_losses(self) -> dict[str, float]:
        """Means over all ranks since the last evaluation."""
        mine = {name: float(total) / self.summed_steps for name, total in self.sums.items()}
        ranks = self.runtime.gather(mine)
        means = {name: sum(rank[name] for rank in ranks) / len(ranks) for name in mine}
        if not math.isfinite(means["loss"]):
            raise DivergedError(
                f"the mean loss up to step {self.outcome.step} is {means['loss']}: the training "
                f"diverged; lower base_lr (it is {self.recipe.base_lr:g})"
            )
        self.sums, self.summed_steps = {}, 0
        return means

    def _sums_of_ranks(self) -> list[dict[str, torch.Tensor]]:
        """Each rank's sums of losses, so that a resumed evaluation reports what it would have."""
        return self.runtime.gather({name: total.cpu() for name, total in self.sums.items()})

    def _join_broken(self) -> None:
        """Makes the list of broken images that of all ranks."""
        ranks = self.runtime.gather(self.outcome.broken)
        self.outcome.broken = sorted({image_id for rank in ranks for image_id in rank})

    def progress(self) -> dict[str, Any]:
        return {"step": self.outcome.step, "total_steps": self.recipe.total_steps}


def step_seed(seed: int, step: int, purpose: str) -> int:
    """A 63-bit seed for one purpose in one step."""
    name = f"{seed}/{step}/{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1
