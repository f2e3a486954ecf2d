"""The one training loop: endless batches, a fixed number of steps, exact checkpoints."""

import time

from semigrid.trainers.evaluation.choose import Cutoffs, falls_behind
from semigrid.trainers.execution.background import all_done
from semigrid.trainers.loop.health import CollapsedError
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.loop.training import Training
from semigrid.trainers.options import REPORT_SECONDS


def train(
    training: Training, cutoffs: Cutoffs | None = None, report_seconds: float = REPORT_SECONDS
) -> Outcome:
    """Trains to ``recipe.total_steps``, from the latest checkpoint where there is one.

    All randomness in a step is a function of (seed, step) and of the images. A resumed run equals
    an uninterrupted one, bit for bit on the CPU, and neither the number of ranks nor the options
    change more than the order of sums. Checkpoints are written at every evaluation and every
    ``options.checkpoint_steps``.

    Args:
        cutoffs: what the best evaluation must reach at some steps; below, the training ends.
        report_seconds: time between reports on progress, besides those at evaluations.

    Raises:
        CollapsedError: the training leads to nothing; ``DivergedError`` if a loss or a prediction
            is not finite.
        OutOfMemoryError: not even one image fits.
    """
    try:
        with all_done(training.runtime.checkpoints.background):
            _run(training, cutoffs or {}, report_seconds)
    except CollapsedError as error:
        error.outcome = training.outcome
        raise
    return training.outcome


def _run(training: Training, cutoffs: Cutoffs, report_seconds: float) -> None:
    recipe, outcome, runtime = training.recipe, training.outcome, training.runtime
    evaluate_at = set(recipe.evaluation_steps)
    started = time.monotonic() - outcome.seconds
    last_report = time.monotonic()
    if falls_behind(outcome.history, cutoffs):  # the checkpoint is of a run without these cutoffs
        outcome.fell_behind = True
        return
    for step, labeled, pool in training.streams.batches(outcome.step, recipe.total_steps):
        training.step(step, labeled, pool)
        now = time.monotonic()
        outcome.step, outcome.seconds = step + 1, now - started
        runtime.stepped(outcome.step)
        if now - last_report >= report_seconds:
            runtime.progress(training.progress())
            last_report = now
        stop = runtime.should_stop()
        evaluated = outcome.step in evaluate_at
        if evaluated:
            training.evaluate()
            outcome.seconds = time.monotonic() - started
            runtime.report(training.position() | outcome.speed[-1] | outcome.history[-1])
            if falls_behind(outcome.history, cutoffs):
                outcome.fell_behind = True
                return  # nothing will resume from here: no checkpoint
        if evaluated or stop or outcome.step % training.options.checkpoint_steps == 0:
            training.save_checkpoint()
        if stop:
            return
    outcome.finished = True
