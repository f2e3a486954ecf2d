"""The one training loop: endless batches, a fixed number of steps, exact checkpoints."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Literal

import torch

from semigrid.trainers.evaluation.choose import Cutoffs, falls_behind
from semigrid.trainers.loop.health import HopelessError
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.loop.training import Training
from semigrid.trainers.options import REPORT_SECONDS


def train(
    training: Training, cutoffs: Cutoffs | None = None, report_seconds: float = REPORT_SECONDS
) -> Outcome:
    """Trains to ``recipe.total_steps``, from the latest checkpoint where there is one.

    It ends earlier, as the outcome's status says, when it falls below a cutoff or leads to nothing.

    All randomness in a step is a function of (seed, step) and of the images. A resumed run equals
    an uninterrupted one, bit for bit on the CPU, and neither the number of ranks nor the options
    change more than the order of sums. Checkpoints are written at every evaluation and
    every ``options.checkpoint_seconds``.

    Args:
        cutoffs: what the best evaluation must reach at some steps; below, the training ends.
        report_seconds: time between reports on progress, besides those at evaluations.

    Raises ``OutOfMemoryError`` if not even one image fits.
    """
    outcome = training.outcome
    try:
        with (
            training.runtime.checkpoints.background,
            training.streams.validation.kept(),
            fast_float32(training.runtime.device),
        ):
            outcome.status = _run(training, cutoffs or {}, report_seconds)
    except HopelessError as error:
        outcome.status, outcome.error = error.status, str(error)
    return outcome


@contextlib.contextmanager
def fast_float32(device: torch.device) -> Iterator[None]:
    """Within it a GPU multiplies float32 numbers with 10 bits of their fractions (TF32).

    Features and predictions are made with all bits, and not within it.
    """
    cudnn: Any = torch.backends.cudnn
    settings: list[Any] = [cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul]
    settings = settings if device.type == "cuda" else []
    before = [each.fp32_precision for each in settings]
    try:
        for each in settings:
            each.fp32_precision = "tf32"
        yield
    finally:
        for each, precision in zip(settings, before, strict=True):
            each.fp32_precision = precision


def _run(
    training: Training, cutoffs: Cutoffs, report_seconds: float
) -> Literal["finished", "stopped"]:
    recipe, outcome, runtime = training.recipe, training.outcome, training.runtime
    evaluate_at = set(recipe.evaluation_steps)
    started = time.monotonic() - outcome.seconds
    last_report = time.monotonic()
    # the checkpoint may be of a run without these cutoffs
    if falls_behind(outcome.history, cutoffs, training.metric):
        return "stopped"
    with contextlib.closing(training.feed.steps(outcome.step, recipe.total_steps)) as steps:
        for fed in steps:
            training.step(fed)
            now = time.monotonic()
            outcome.step, outcome.seconds = fed.number + 1, now - started
            runtime.stepped(outcome.step)
            if now - last_report >= report_seconds:
                runtime.progress(training.progress())
                last_report = now
            evaluated = outcome.step in evaluate_at
            if evaluated:
                training.evaluate()
                outcome.seconds = time.monotonic() - started
                runtime.report(training.position() | outcome.speed[-1] | outcome.history[-1])
                if falls_behind(outcome.history, cutoffs, training.metric):
                    return "stopped"  # nothing will resume from here: no checkpoint
            if evaluated or training.timer.due(outcome.step):
                training.save_checkpoint()
    return "finished"
