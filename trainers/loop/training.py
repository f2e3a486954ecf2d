"""The moving parts of one training, and the three things done to them: step, evaluate, save."""

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from semigrid.trainers.evaluation.choose import is_better
from semigrid.trainers.evaluation.scores import Metric
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.execution.timer import CheckpointTimer
from semigrid.trainers.loop.assess import Assessor
from semigrid.trainers.loop.feed import KEPT, Fed, Feed
from semigrid.trainers.loop.networks import Networks
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.loop.schedule import create_optimizer, create_schedule
from semigrid.trainers.loop.seeds import seeded, step_generator, step_seed
from semigrid.trainers.loop.stepper import MicroBatchStepper
from semigrid.trainers.loop.streams import Streams
from semigrid.trainers.methods import Stepped, find_method
from semigrid.trainers.methods.losses import LogitAdjustment, StepAverages
from semigrid.trainers.methods.method import NetworkName
from semigrid.trainers.methods.step import MethodState, RankShard, StepContext
from semigrid.trainers.models.adapter import check_learning
from semigrid.trainers.options import Precision, TrainOptions
from semigrid.trainers.recipe import SteppedRecipe

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
        recipe: SteppedRecipe,
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
        num_classes, page = len(class_shares), find_method(method)
        assert isinstance(page, Stepped)
        self.recipe, self.method, self.streams = recipe, page, streams
        self.runtime, self.seed, self.options, self.metric = runtime, seed, options, metric
        device = runtime.device
        self.networks = Networks(
            page, recipe, model, teacher_state, seed=seed, precision=precision, device=device
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.optimizer = create_optimizer(self.networks.student, recipe)
        self.schedule = create_schedule(self.optimizer, recipe)
        self.state: MethodState | None = None
        if page.state is not None:
            with seeded(step_seed(seed, 0, "state"), device):
                self.state = page.state(recipe, num_classes, device)
        shard = RankShard(runtime.fetch, runtime.rank, runtime.world_size, device)
        self.context = StepContext(
            recipe, num_classes, shard, self.teach, self.networks.batch_norm, self.state
        )
        tau = recipe.logit_adjustment
        assert streams.labels is not None or not tau, "a logit adjustment needs the labels"
        of_labels = np.arange(num_classes) if streams.labels is None else streams.labels
        self.adjustment = LogitAdjustment(of_labels, num_classes, tau, device)
        self.assessor = Assessor(
            page, recipe, self.networks, streams, runtime, self.adjustment, class_shares, metric
        )
        self.outcome = Outcome()
        self._new_best = False  # whether the next checkpoint has the best weights so far
        self.averages = StepAverages()
        self.rows_per_step = page.rows_per_step(recipe, streams.pool is not None)
        self.feed = Feed(streams, self._draw, device, self.networks.channels_last)
        self._resume()
        runtime.began(self.outcome.step)
        if device.type == "cuda" if options.compile is None else options.compile:
            self.networks.compile()
        self.stepper = MicroBatchStepper(
            runtime.wrap(self.networks.student),
            self.adjustment,
            self.networks.drop_paths,
            runtime,
            self.networks.autocast,
            self.scaler,
            options.micro_batch,
        )
        self.timer = CheckpointTimer(options.checkpoint_seconds, self.outcome.step, runtime.gather)
        self.restart_clock()

    def _draw(self, number: int, labeled: int, pool: int) -> dict[str, torch.Tensor]:
        """A step's random numbers; each rank has so many labelled and unlabelled images."""
        ranks, seed, drop_paths = self.runtime.world_size, self.seed, self.networks.drop_paths
        mix = step_generator(seed, number, "mix")
        drawn = self.method.draws(self.recipe, labeled * ranks, pool * ranks, mix)
        kept = drop_paths.draw(self.rows_per_step, step_generator(seed, number, "drop path"))
        return {**drawn, KEPT: kept}

    def step(self, fed: Fed) -> None:
        """One optimiser step, and the teacher's update.

        Raises ``BypassedError`` in the first step, for an adapter of layers that learn nothing.
        """
        runtime, networks = self.runtime, self.networks
        # only what a model draws for itself (dropout) may differ between ranks
        torch.manual_seed(step_seed(self.seed, fed.number, f"rank {runtime.rank}"))
        networks.drop_paths.step(fed.kept)
        self.schedule.step_update(fed.number)
        targets = self.method.step_targets(fed.input, self.context)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.stepper.learn(targets)
        if fed.number == 0 and self.recipe.adapter is not None:
            check_learning(networks.student)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        networks.teacher.update(networks.student)
        if networks.batch_norm:
            runtime.share_buffers(networks.student, networks.teacher.network)
        self.averages.add(targets, losses)
        self.timed_images += self.rows_per_step
        self.outcome.broken += sorted(set(fed.broken) - set(self.outcome.broken))

    def teach(self, weak: torch.Tensor) -> torch.Tensor:
        """The teacher's logits (N, K) of weak views; no more pass at once than in the student.

        They are adjusted as the student's are: of what is trained, not of equally frequent classes.
        """
        return self.adjustment(self.networks.teach(weak, self.stepper.micro_batch))

    def evaluate(self) -> None:
        """Evaluates student and teacher on val, and notes whether they are the best so far.

        A checkpoint must follow before the next step: it keeps the best weights. Raises as
        ``assess`` does.
        """
        metrics = self.assess()
        ema_is_better = is_better(metrics["ema"], metrics["student"], self.metric)
        better: NetworkName = "ema" if ema_is_better else "student"
        if is_better(metrics[better], self.outcome.best_metrics, self.metric):
            self.outcome.best_metrics = metrics[better]
            self.outcome.best_weights, self.outcome.best_step = better, self.outcome.step
            self._new_best = True
        self.restart_clock()

    def assess(self) -> dict[NetworkName, dict[str, float]]:
        """Evaluates student and teacher on val, and adds an evaluation to the history.

        Returns their metrics. Raises as ``Assessor.assess`` does.
        """
        losses = self.averages.take(self.runtime.gather)
        # the losses have been read: a GPU has finished the last steps by now
        speed = {"step": self.outcome.step, "images_per_s": self.images_per_s()}
        if self.stepper.micro_batch is not None:
            speed["micro_batch"] = self.stepper.micro_batch
        self.outcome.speed.append(speed)
        self._join_broken()
        return self.assessor.assess(losses, self.outcome)

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
                    **self.networks.states(),
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": self.scaler.state_dict(),
                    # the schedule, random numbers and the streams' positions follow from the step
                    "outcome": vars(self.outcome),
                    "method": None if self.state is None else self.state.state_dict(),
                    **averages,
                },
                self._new_best,
            )
        self._new_best = False
        self.timer.saved()
        self.clock += time.monotonic() - started  # checkpoints do not count as training

    def best_weights(self) -> bytes:
        """The best weights as a file of plain timm models, after the last step."""
        return self.networks.plain(self.runtime.checkpoints.best_weights())

    def _resume(self) -> None:
        state = self.runtime.checkpoints.load()
        damaged = self.runtime.checkpoints.damaged
        if state is None:
            self.outcome.damaged = [f"{what}; trained from the start" for what in damaged]
            return
        self.networks.load(state)
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
