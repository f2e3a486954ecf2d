"""The moving parts of one training, and the three things done to them: step, evaluate, save."""

import contextlib
import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import nn

from semigrid.data.errors import InputError
from semigrid.data.views.render import Batch
from semigrid.trainers.evaluation.choose import is_better
from semigrid.trainers.evaluation.evaluate import evaluate
from semigrid.trainers.evaluation.predictions import Predictions
from semigrid.trainers.evaluation.scores import SUFFIXES, Metric
from semigrid.trainers.execution.checkpoint import (
    NetworkStates,
    decode_weights,
    encode_weights,
)
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.loop.health import HopelessError
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.loop.schedule import create_optimizer, create_schedule
from semigrid.trainers.loop.stepper import MicroBatchStepper, normalizes_over_batch
from semigrid.trainers.loop.streams import Streams
from semigrid.trainers.loop.teacher import Teacher
from semigrid.trainers.methods import Stepped, find_method
from semigrid.trainers.methods.losses import LogitAdjustment, StepAverages, entropy
from semigrid.trainers.methods.method import NetworkName
from semigrid.trainers.methods.step import MethodState, RankShard, StepContext
from semigrid.trainers.models.adapter import adapt, learning, merged
from semigrid.trainers.models.drop_path import DropPaths
from semigrid.trainers.options import Precision, TrainOptions
from semigrid.trainers.recipe import Recipe

# the largest number that a record may have
MOST = torch.finfo(torch.float32).max
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
DEFAULT_OPTIONS = TrainOptions()


class Training:
    """Student, teacher, optimiser and schedule of one training, and where it stands.

    It resumes from the latest checkpoint, if there is one.

    Args:
        method: the name of a method that takes steps.
        model: the student, with the weights that it starts from.
        teacher_state: the weights that the teacher starts from; None for the student's.
        precision: the one of the trial's identity, whatever the options say.
        class_shares: the classes' natural shares, (K,), for the natural scores.
        metric: which scores on val choose the best evaluation.
    """

    def __init__(
        self,
        recipe: Recipe,
        method: str,
        model: nn.Module,
        teacher_state: dict[str, torch.Tensor] | None,
        streams: Streams,
        runtime: Runtime,
        *,
        class_shares: np.ndarray,
        seed: int,
        precision: Precision = "fp32",
        options: TrainOptions = DEFAULT_OPTIONS,
        metric: Metric = "balanced",
    ):
        assert recipe.ema_decay is not None, "the recipe is not resolved"
        num_classes, page = len(class_shares), find_method(method)
        assert isinstance(page, Stepped)
        self.recipe, self.method, self.streams = recipe, page, streams
        self.runtime, self.seed, self.options = runtime, seed, options
        self.class_shares, self.metric = class_shares, metric
        self.autocast_dtype = PRECISIONS[precision]
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=precision == "fp16")
        # convolutional networks run 1.1 to 1.3 times as fast then, on a CPU
        self.channels_last = normalizes_over_batch(model.train())
        # what it puts in eval mode stays so: no train() of the whole model from here on
        with _seeded(step_seed(seed, 0, "prepare"), runtime.device):
            self.method.prepare(model, recipe)
        self.student = model.to(runtime.device)
        if recipe.adapter is not None:
            adapt(self.student, recipe.adapter, seed)
        self.drop_paths = DropPaths(self.student)
        self.batch_norm = normalizes_over_batch(self.student)
        if self.channels_last:
            self.student = self.student.to(memory_format=torch.channels_last)
        self.teacher = Teacher(
            self.student,
            recipe.ema_decay,
            teacher_state,
            self._autocast,
            shares_frozen=recipe.adapter is not None,  # what a method freezes is saved twice
        )
        self.teacher_name: NetworkName | None = None
        if self.method.teacher is not None:
            self.teacher_name = self.method.teacher(recipe)
        self.optimizer = create_optimizer(self.student, recipe)
        self.schedule = create_schedule(self.optimizer, recipe)
        shard = RankShard(runtime.fetch, runtime.rank, runtime.world_size)
        self.state: MethodState | None = None
        if self.method.state is not None:
            with _seeded(step_seed(seed, 0, "state"), runtime.device):
                self.state = self.method.state(recipe, num_classes, runtime.device)
        self.context = StepContext(
            recipe, num_classes, shard, self.teach, self.batch_norm, self.state
        )
        tau = recipe.logit_adjustment
        assert streams.labels is not None or not tau, "a logit adjustment needs the labels"
        of_labels = np.arange(num_classes) if streams.labels is None else streams.labels
        self.adjustment = LogitAdjustment(of_labels, num_classes, tau, runtime.device)
        self.outcome = Outcome()
        self._new_best: bytes | None = None  # weights for the next checkpoint
        self.averages = StepAverages()
        self.rows_per_step = self.method.rows_per_step(recipe, streams.pool is not None)
        labels = torch.from_numpy(np.asarray(streams.validation.table.labels))
        self.natural_entropy = entropy(torch.bincount(labels, minlength=num_classes))
        self._resume()
        runtime.began(self.outcome.step)
        if options.compile:
            # masks change the number of rows from step to step: one graph must serve them all
            self.student.compile(dynamic=True)
            self.teacher.network.compile(dynamic=True)
        self.stepper = MicroBatchStepper(
            runtime.wrap(self.student),
            self.adjustment,
            self.drop_paths,
            runtime,
            self._autocast,
            self.scaler,
            options.micro_batch,
        )
        self.restart_clock()

    def step(self, number: int, labeled: Batch, pool: Batch | None) -> None:
        """One optimiser step, and the teacher's update."""
        inputs = self.streams.step_input(labeled, pool, self.runtime.device, self.channels_last)
        # only what a model draws for itself (dropout) may differ between ranks
        torch.manual_seed(step_seed(self.seed, number, f"rank {self.runtime.rank}"))
        self.drop_paths.draw(self.rows_per_step, self._generator(number, "drop path"))
        self.schedule.step_update(number)
        targets = self.method.step_targets(inputs, self.context, self._generator(number, "mix"))
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.stepper.learn(targets)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.teacher.update(self.student)
        if self.batch_norm:
            self.runtime.share_buffers(self.student, self.teacher.network)
        self.averages.add(targets, losses)
        self.timed_images += self.rows_per_step
        if pool is not None and pool.broken:
            self.outcome.broken += sorted(set(pool.broken) - set(self.outcome.broken))

    def teach(self, weak: torch.Tensor) -> torch.Tensor:
        """The teacher's logits (N, K) of weak views; no more pass at once than in the student.

        They are adjusted as the student's are: of what is trained, not of equally frequent classes.
        """
        network = self.student if self.teacher_name == "student" else None
        return self.adjustment(self.teacher.logits(weak, self.stepper.micro_batch, network))

    def _generator(self, step: int, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(step_seed(self.seed, step, purpose))

    def _autocast(self) -> AbstractContextManager[None]:
        on = self.autocast_dtype is not None
        return torch.autocast(self.runtime.device.type, dtype=self.autocast_dtype, enabled=on)

    def evaluate(self) -> None:
        """Evaluates student and teacher on val, and keeps the best weights so far.

        Raises as ``assess`` does.
        """
        metrics = self.assess()
        ema_is_better = is_better(metrics["ema"], metrics["student"], self.metric)
        better: NetworkName = "ema" if ema_is_better else "student"
        if is_better(metrics[better], self.outcome.best_metrics, self.metric):
            self.outcome.best_metrics = metrics[better]
            self.outcome.best_weights, self.outcome.best_step = better, self.outcome.step
            if self.runtime.rank == 0:
                self._new_best = encode_weights(self._weights())
        self.restart_clock()

    def assess(self) -> dict[NetworkName, dict[str, float]]:
        """Evaluates student and teacher on val, and adds an evaluation to the history.

        Returns their metrics. Raises ``HopelessError`` when the training leads to nothing, and
        ``InputError`` when the method records what no record can hold.
        """
        losses = self.averages.take(self.runtime.gather)
        if not math.isfinite(losses["loss"]):
            raise self._diverged(f"the mean loss is {losses['loss']}")
        # the losses have been read: a GPU has finished the last steps by now
        speed = {"step": self.outcome.step, "images_per_s": self.images_per_s()}
        if self.stepper.micro_batch is not None:
            speed["micro_batch"] = self.stepper.micro_batch
        self.outcome.speed.append(speed)
        self._join_broken()
        predictions: dict[NetworkName, Predictions] = {
            "student": self._predict("student", self.student),
            "ema": self._predict("ema", self.teacher.network),
        }
        shares, tau = self.class_shares, self.recipe.logit_adjustment
        metrics = {name: each.metrics(shares, tau) for name, each in predictions.items()}
        own: dict[str, float] = {}
        for name, values in metrics.items():
            own |= {f"{name}_{metric}": value for metric, value in values.items()}
        acc1 = f"acc1{SUFFIXES[self.metric]}"
        own["teacher_gap"] = metrics["ema"][acc1] - metrics["student"][acc1]
        taken = {"step", *own, *metrics["ema"]}
        self._check(losses, taken)
        measures: dict[str, float] = {}
        if self.teacher_name is not None:
            trained = predictions[self.teacher_name].natural(self.adjustment.shares, tau)
            found = self.method.measures(trained, self.recipe)
            measures = {name: float(value) for name, value in found.items()}
            self._check(measures, taken | {*losses})
        self.outcome.history.append({"step": self.outcome.step, **losses, **own, **measures})
        collapsed = self.method.health(self.outcome.history, self.recipe, self.natural_entropy)
        if collapsed:
            raise HopelessError("collapsed", collapsed)
        return metrics

    def _check(self, values: Mapping[str, float], taken: set[str]) -> None:
        """Raises ``InputError`` for a method's values that would make the record unreadable."""
        for name, value in values.items():
            what = f"method {self.method.name}: {name}, which it records,"
            if name in taken:
                raise InputError(f"{what} is a name that the evaluation itself has; rename it")
            if not abs(value) <= MOST:
                raise InputError(
                    f"{what} is {value} at step {self.outcome.step}, no finite number: leave out "
                    "what cannot be told, or mend the method"
                )

    def _predict(self, name: str, network: nn.Module) -> Predictions:
        predictions = evaluate(network, self.streams.validation, self.streams.views, self.runtime)
        if not np.isfinite(predictions.probabilities).all():
            raise self._diverged(f"the {name} predicts no finite probabilities")
        return predictions

    def _diverged(self, problem: str) -> HopelessError:
        return HopelessError(
            "diverged",
            f"up to step {self.outcome.step} the training diverged: {problem}; lower base_lr (it "
            f"is {self.recipe.base_lr:g})",
        )

    def _join_broken(self) -> None:
        """Makes the list of broken images that of all ranks."""
        ranks = self.runtime.gather(self.outcome.broken)
        self.outcome.broken = sorted({image_id for rank in ranks for image_id in rank})

    def save_checkpoint(self) -> None:
        """Saves the whole state; all ranks call it, rank 0 writes."""
        started = time.monotonic()
        averages = self.averages.state(self.runtime.gather)
        self._join_broken()
        if self.runtime.rank == 0:
            self.runtime.checkpoints.save(
                {
                    **self._weights(),
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": self.scaler.state_dict(),
                    # the schedule, random numbers and the streams' positions follow from the step
                    "outcome": vars(self.outcome),
                    "method": None if self.state is None else self.state.state_dict(),
                    **averages,
                },
                self._new_best,
            )
            self._new_best = None
        self.clock += time.monotonic() - started  # checkpoints do not count as training

    @property
    def _networks(self) -> dict[str, nn.Module]:
        return {"student": self.student, "ema": self.teacher.network}

    def _weights(self) -> NetworkStates:
        """What of the networks' states changes in the training: of an adapted one, little."""
        states = {name: network.state_dict() for name, network in self._networks.items()}
        if self.recipe.adapter is None:
            return states
        names = learning(self.student)
        return {network: {n: state[n] for n in names} for network, state in states.items()}

    def best_weights(self) -> bytes:
        """The best weights as a file, after the last step: those of plain timm models.

        An adapter is merged into the weights that it was trained on. The networks change.
        """
        best = self.runtime.checkpoints.best_weights()
        if self.recipe.adapter is None:
            return best
        self._load(decode_weights(best))
        return encode_weights({name: merged(each) for name, each in self._networks.items()})

    def _load(self, states: NetworkStates) -> None:
        for name, network in self._networks.items():
            network.load_state_dict(network.state_dict() | states[name])

    def _resume(self) -> None:
        state = self.runtime.checkpoints.load()
        damaged = self.runtime.checkpoints.damaged
        if state is None:
            self.outcome.damaged = [f"{what}; trained from the start" for what in damaged]
            return
        self._load(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.state is not None:
            self.state.load_state_dict(state["method"])
        self.outcome = Outcome(**state["outcome"])
        step = self.outcome.step
        self.outcome.resumed_at.append(step)
        self.outcome.damaged += [f"{what}; went on from step {step}" for what in damaged]
        self.averages.load(state, self.runtime.rank, self.runtime.device)

    def position(self) -> dict[str, Any]:
        return {"step": self.outcome.step, "total_steps": self.recipe.total_steps}

    def progress(self) -> dict[str, Any]:
        """Position, and speed and this rank's mean loss since the last evaluation."""
        speed = {"images_per_s": self.images_per_s()}
        return self.position() | {"loss": self.averages.of_this_rank("loss")} | speed

    def restart_clock(self) -> None:
        self.timed_images, self.clock = 0, time.monotonic()

    def images_per_s(self) -> float:
        """Images of all ranks per second of training, since the last evaluation."""
        return self.timed_images / (time.monotonic() - self.clock)


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within it torch's random numbers depend on the seed alone; after it they are as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def step_seed(seed: int, step: int, purpose: str) -> int:
    """A 63-bit seed for one purpose in one step."""
    name = f"{seed}/{step}/{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1
