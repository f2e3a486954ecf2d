"""The one training loop: endless batches, a fixed number of steps, exact checkpoints."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import nn

from semigrid.data.batches import Batch, EvalBatches
from semigrid.data.views.augment import ViewSettings, erase, normalize
from semigrid.trainers.background import all_done
from semigrid.trainers.checkpoint import encode_weights, random_states, restore_random_states
from semigrid.trainers.choose import Cutoffs, falls_behind, is_better
from semigrid.trainers.drop_path import DropPaths
from semigrid.trainers.evaluate import evaluate
from semigrid.trainers.health import (
    CollapsedError,
    DivergedError,
    Speedometer,
    collapse,
    flops_per_image,
    peak_flops,
)
from semigrid.trainers.losses import entropy
from semigrid.trainers.methods import METHODS, MethodName
from semigrid.trainers.methods.step import RankShard, StepContext, StepInput, StepTargets
from semigrid.trainers.options import Precision, TrainOptions
from semigrid.trainers.predictions import Predictions
from semigrid.trainers.recipe import Recipe
from semigrid.trainers.runtime import Runtime
from semigrid.trainers.schedule import create_optimizer, create_schedule
from semigrid.trainers.stepper import (
    MicroBatchStepper,
    OutOfMemoryError,
    normalizes_over_batch,
)

# The batches of the steps from start to stop, in order.
BatchSource = Callable[[int, int], Iterator[Batch]]

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
REPORT_SECONDS = 2.0
DEFAULT_OPTIONS = TrainOptions()
PSEUDO_COUNTS = "pseudo_counts"


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
    it was told to stop before its last step, ``fell_behind`` True when it was below a cutoff.
    ``speed`` has a reading per evaluation; it depends on the machine, so it is not part of
    ``history``. ``damaged`` tells of checkpoints that it could not go on from.
    """

    step: int = 0
    best_step: int = 0
    best_weights: str = "student"
    best_metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list, compare=False)
    speed: list[dict[str, float]] = field(default_factory=list, compare=False)
    damaged: list[str] = field(default_factory=list, compare=False)
    finished: bool = False
    fell_behind: bool = False


def train(
    recipe: Recipe,
    method: MethodName,
    model: nn.Module,
    teacher_state: dict[str, torch.Tensor] | None,
    streams: Streams,
    runtime: Runtime,
    *,
    num_classes: int,
    seed: int,
    precision: Precision = "fp32",
    options: TrainOptions = DEFAULT_OPTIONS,
    cutoffs: Cutoffs | None = None,
    report_seconds: float = REPORT_SECONDS,
) -> Outcome:
    """Trains ``model`` for ``recipe.total_steps``, going on from the latest checkpoint.

    What is random in a step is a function of (seed, step) and of the images; so a resumed run
    equals an uninterrupted one, bit for bit on the CPU, and neither the number of ranks nor
    ``options`` changes more than the order of sums. Checkpoints are written at every evaluation and
    every ``options.checkpoint_steps``.

    Args:
        precision: the one of the trial's identity, whatever the options say.
        cutoffs: what its best evaluation must reach at some steps, else it ends there.
        report_seconds: so often it says where it stands, beside its evaluations.

    Raises:
        CollapsedError: the training leads to nothing; ``DivergedError`` if a loss or a prediction
            is not finite.
        OutOfMemoryError: not even one image fits.
    """
    trainer = Training(recipe, method, model, teacher_state, streams, runtime, num_classes, seed)
    trainer.prepare(precision, options)
    outcome = trainer.outcome
    try:
        with all_done(runtime.checkpoints.background):
            return _run(
                trainer,
                recipe,
                runtime,
                outcome,
                options.checkpoint_steps,
                cutoffs or {},
                report_seconds,
            )
    except CollapsedError as error:
        error.outcome = outcome
        raise


def _run(
    trainer: "Training",
    recipe: Recipe,
    runtime: Runtime,
    outcome: Outcome,
    checkpoint_steps: int,
    cutoffs: Cutoffs,
    report_seconds: float,
) -> Outcome:
    evaluate_at = set(recipe.evaluation_steps)
    started = time.monotonic() - outcome.seconds
    last_report, last_step = time.monotonic(), outcome.step
    if falls_behind(outcome.history, cutoffs):  # the checkpoint is of a run without these cutoffs
        outcome.fell_behind = True
        return outcome
    for step, labeled, pool in trainer.batches():
        trainer.step(step, labeled, pool)
        outcome.step = step + 1
        outcome.seconds = time.monotonic() - started
        runtime.stepped(outcome.step)
        now = time.monotonic()
        if now - last_report >= report_seconds:
            images = (outcome.step - last_step) * trainer.images_per_step
            speed = {"images_per_s": images / (now - last_report)}
            runtime.progress(trainer.progress() | trainer.loss_so_far() | speed)
            last_report, last_step = now, outcome.step
        stop = runtime.should_stop()
        if outcome.step in evaluate_at:
            trainer.evaluate()
            outcome.seconds = time.monotonic() - started
            runtime.report(trainer.progress() | outcome.speed[-1] | outcome.history[-1])
            if falls_behind(outcome.history, cutoffs):
                outcome.fell_behind = True
                return outcome  # nobody goes on from here: no checkpoint
        due = outcome.step % checkpoint_steps == 0
        if outcome.step in evaluate_at or due or stop:
            trainer.save_checkpoint()
            trainer.restart_clock()
        if stop:
            return outcome
    outcome.finished = True
    return outcome


class Training:
    """The moving parts of one training: models, optimiser, schedule and sums since last time."""

    def __init__(
        self,
        recipe: Recipe,
        method: MethodName,
        model: nn.Module,
        teacher_state: dict[str, torch.Tensor] | None,
        streams: Streams,
        runtime: Runtime,
        num_classes: int,
        seed: int,
    ):
        assert recipe.ema_decay is not None, "the recipe is not resolved"
        self.recipe, self.streams, self.runtime, self.seed = recipe, streams, runtime, seed
        self.method = METHODS[method]
        self.student = model.to(runtime.device)
        self.drop_paths = DropPaths(self.student)
        self.batch_norm = normalizes_over_batch(self.student)
        if self.batch_norm:  # convolutional networks run faster so: 1.1 to 1.3 times on a CPU
            self.student = self.student.to(memory_format=torch.channels_last)
        self.ema = ModelEmaV3(self.student, decay=recipe.ema_decay, exclude_buffers=True)
        self.ema.module.requires_grad_(False)
        if teacher_state is not None:
            self.ema.module.load_state_dict(teacher_state)
        self.optimizer = create_optimizer(self.student, recipe)
        self.schedule = create_schedule(self.optimizer, recipe)
        self.context = StepContext(
            recipe,
            num_classes,
            RankShard(runtime.fetch, runtime.rank, runtime.world_size),
            self.teach,
            self.batch_norm,
        )
        self.outcome = Outcome()
        self.sums: dict[str, torch.Tensor] = {}
        self.summed_steps = 0
        self.images_per_step = recipe.batch_size
        self.teacher_rows = recipe.pool_batch_size
        if self.method.needs_pool:
            self.images_per_step += recipe.pool_batch_size
        labels = torch.from_numpy(np.asarray(streams.validation.table.labels))
        self.natural_entropy = entropy(torch.bincount(labels, minlength=num_classes))

    def prepare(self, precision: Precision, options: TrainOptions = DEFAULT_OPTIONS) -> None:
        """Loads the latest checkpoint, if there is one, and makes the models ready to train."""
        device = self.runtime.device
        self.autocast_dtype = PRECISIONS[precision]
        self.scaler = torch.amp.GradScaler(
            device.type, enabled=self.autocast_dtype is torch.float16
        )
        self._resume()
        self.runtime.began(self.outcome.step)
        peak, flops = None, None
        if device.type == "cuda":
            peak = peak_flops(torch.cuda.get_device_name(device), precision)
            flops = flops_per_image(self.student, self.recipe.img_size)
        self.speed = Speedometer(flops, peak)
        if options.compile:
            # masks change the number of rows from step to step: one graph must serve them all
            self.student.compile(dynamic=True)
            self.ema.module.compile(dynamic=True)
        micro_batch, known = options.micro_batch, self.runtime.checkpoints.load_micro_batch()
        if known is not None:
            micro_batch = min(known, micro_batch or known)
        self.stepper = MicroBatchStepper(
            self.runtime.wrap(self.student),
            self.drop_paths,
            self.runtime,
            self._autocast,
            self.scaler,
            micro_batch,
            on_split=self.runtime.checkpoints.save_micro_batch,
        )
        self.stepper.model.train()
        self.clock = time.monotonic()

    def _autocast(self) -> AbstractContextManager[None]:
        on = self.autocast_dtype is not None
        return torch.autocast(self.runtime.device.type, dtype=self.autocast_dtype, enabled=on)

    def _resume(self) -> None:
        state = self.runtime.checkpoints.load()
        damaged = self.runtime.checkpoints.damaged
        if state is None:
            self.outcome.damaged = [f"{what}; trained from the start" for what in damaged]
            return
        self.student.load_state_dict(state["student"])
        self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.outcome = Outcome(**state["outcome"])
        self.outcome.resumed_at.append(self.outcome.step)
        step = self.outcome.step
        self.outcome.damaged += [f"{what}; went on from step {step}" for what in damaged]
        if state["sums"]:
            mine = state["sums"][self.runtime.rank % len(state["sums"])]
            self.sums = {k: v.to(self.runtime.device) for k, v in mine.items()}
        self.summed_steps = state["summed_steps"]
        if len(state["random"]) == self.runtime.world_size:
            restore_random_states(state["random"][self.runtime.rank])

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
        inputs = self.to_device(labeled, pool)
        # what a model draws for itself (dropout) differs between ranks, all else must not
        torch.manual_seed(step_seed(self.seed, number, f"rank {self.runtime.rank}"))
        draw = torch.Generator().manual_seed(step_seed(self.seed, number, "mix"))
        self.drop_paths.draw(
            self.images_per_step,
            torch.Generator().manual_seed(step_seed(self.seed, number, "drop path")),
        )
        self.schedule.step_update(number)
        targets = self.method.step_targets(inputs, self.context, draw)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.stepper.learn(targets)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update(self.student)
        if self.batch_norm:
            self.runtime.share_buffers(self.student, self.ema.module)
        self._add_up(targets, losses)
        rows = len(targets.labeled) + (len(targets.unlabeled) if targets.unlabeled else 0)
        now = time.monotonic()
        weak = len(inputs.weak) if inputs.weak is not None else 0
        self.speed.add(self.images_per_step, weak, rows, now - self.clock)
        self.clock = now
        if pool is not None and pool.broken:
            known = set(self.outcome.broken)
            self.outcome.broken += sorted(set(pool.broken) - known)

    def teach(self, weak: torch.Tensor) -> torch.Tensor:
        """The teacher's logits, in pieces where the student needs pieces, or memory ran out."""
        self.ema.module.eval()  # some models keep what they derive from weights until this is said
        self.teacher_rows = min(self.teacher_rows, self.stepper.micro_batch or len(weak))
        while True:
            try:
                with torch.inference_mode(), self._autocast():
                    parts = torch.split(weak, self.teacher_rows)
                    logits = [self.ema.module(part) for part in parts]
                return torch.cat(logits)  # made outside, it is an ordinary tensor again
            except torch.OutOfMemoryError:
                if self.teacher_rows == 1:
                    raise OutOfMemoryError(
                        "the device's memory is too small for one image; use a smaller model or "
                        "img_size, or precision: bf16"
                    ) from None
            torch.cuda.empty_cache()
            self.teacher_rows = (min(self.teacher_rows, len(weak)) + 1) // 2

    def _add_up(self, targets: StepTargets, losses: list[torch.Tensor]) -> None:
        parts = dict(targets.averages)
        total = losses[0]
        if targets.unlabeled is not None:
            total = total + targets.unlabeled.factor * losses[1]
            parts |= {"labeled_loss": losses[0], "unlabeled_loss": losses[1]}
        parts["loss"] = total
        if targets.pseudo_counts is not None:
            parts[PSEUDO_COUNTS] = targets.pseudo_counts
        for name, value in parts.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.summed_steps += 1

    def restart_clock(self) -> None:
        """Evaluations and checkpoints do not count as training."""
        self.clock = time.monotonic()

    def to_device(self, labeled: Batch, pool: Batch | None) -> StepInput:
        views, device = self.streams.views, self.runtime.device

        def ready(images: torch.Tensor) -> torch.Tensor:
            images = normalize(images.to(device), views)
            if self.batch_norm:
                images = images.contiguous(memory_format=torch.channels_last)
            return images

        def strong(batch: Batch) -> torch.Tensor:
            return erase(ready(batch.views["strong"]), batch.erase_seeds, views.erase_prob)

        x, y = strong(labeled), labeled.labels.to(device)
        if pool is None:
            return StepInput(x, y)
        return StepInput(x, y, ready(pool.views["weak"]), strong(pool))

    def evaluate(self) -> None:
        """Evaluates student and EMA on val, notes the better, and keeps the best weights so far."""
        means = self._mean_losses()
        self._note_speed()
        self._join_broken()
        record: dict[str, float] = {"step": self.outcome.step, **means}
        found = {name: self._predict(name) for name in ("student", "ema")}
        metrics = {name: predictions.metrics() for name, predictions in found.items()}
        for name in found:
            record |= {f"{name}_{metric}": value for metric, value in metrics[name].items()}
        record["teacher_gap"] = metrics["ema"]["acc1"] - metrics["student"]["acc1"]
        if self.method.uses_pseudo_labels:
            record |= found["ema"].confident(self.recipe.confidence_threshold)
        self.outcome.history.append(record)
        if self.method.uses_pseudo_labels:
            collapsed = collapse(self.outcome.history, self.recipe, self.natural_entropy)
            if collapsed:
                raise CollapsedError(collapsed)
        better = "ema" if is_better(metrics["ema"], metrics["student"]) else "student"
        if is_better(metrics[better], self.outcome.best_metrics):
            self.outcome.best_metrics = metrics[better]
            self.outcome.best_weights = better
            self.outcome.best_step = self.outcome.step
            if self.runtime.rank == 0:
                content = encode_weights(self.student.state_dict(), self.ema.module.state_dict())
                self.runtime.checkpoints.save_weights(self.outcome.step, content)

    def _predict(self, name: str) -> Predictions:
        model = self.student if name == "student" else self.ema.module
        predictions = evaluate(model, self.streams.validation, self.streams.views, self.runtime)
        if not np.isfinite(predictions.probabilities).all():
            raise DivergedError(
                f"at step {self.outcome.step} the {name} predicts no finite probabilities: the "
                f"training diverged; lower base_lr (it is {self.recipe.base_lr:g})"
            )
        return predictions

    def _note_speed(self) -> None:
        # the losses have been read: a GPU has done by now what the last steps had asked of it
        self.speed.add(0, 0, 0, time.monotonic() - self.clock)
        reading = self.speed.reading()
        if self.stepper.micro_batch is not None:
            reading["micro_batch"] = self.stepper.micro_batch
        self.outcome.speed.append({"step": self.outcome.step, **reading})
        self.speed.reset()

    def _mean_losses(self) -> dict[str, float]:
        """Means over all ranks since the last evaluation, and the pseudo labels' entropy."""
        mine = {name: (total / self.summed_steps).tolist() for name, total in self.sums.items()}
        ranks = self.runtime.gather(mine)
        means = {name: np.mean([rank[name] for rank in ranks], axis=0) for name in mine}
        counts = means.pop(PSEUDO_COUNTS, None)
        found = {name: float(value) for name, value in means.items()}
        if counts is not None:
            found["pseudo_entropy"] = entropy(torch.from_numpy(counts))
        if not math.isfinite(found["loss"]):
            raise DivergedError(
                f"the mean loss up to step {self.outcome.step} is {found['loss']}: the training "
                f"diverged; lower base_lr (it is {self.recipe.base_lr:g})"
            )
        self.sums, self.summed_steps = {}, 0
        return found

    def _sums_of_ranks(self) -> list[dict[str, torch.Tensor]]:
        """Each rank's sums of losses, so that a resumed evaluation reports what it would have."""
        return self.runtime.gather({name: total.cpu() for name, total in self.sums.items()})

    def _join_broken(self) -> None:
        """Makes the list of broken images that of all ranks."""
        ranks = self.runtime.gather(self.outcome.broken)
        self.outcome.broken = sorted({image_id for rank in ranks for image_id in rank})

    def loss_so_far(self) -> dict[str, float]:
        """This rank's mean loss since the last evaluation."""
        if not self.summed_steps:
            return {}
        return {"loss": float(self.sums["loss"]) / self.summed_steps}

    def progress(self) -> dict[str, Any]:
        return {"step": self.outcome.step, "total_steps": self.recipe.total_steps}


def step_seed(seed: int, step: int, purpose: str) -> int:
    """A 63-bit seed for one purpose in one step."""
    name = f"{seed}/{step}/{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1
