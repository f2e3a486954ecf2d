"""How a published recipe is fitted to few images: batch size, steps, learning rate.

The published batch of 1,024 images and 100 epochs belong to ImageNet: 84 images would give 8
steps, each of which sees every image twelve times. docs/recipes.md has the rule and the
experiments that chose its numbers.
"""

import math

# A batch is at most this share of an epoch's images, in multiples of BATCH_UNIT, and never
# smaller than LEAST_BATCH labelled images.
BATCHES_PER_EPOCH = 5
LEAST_BATCH = 32
BATCH_UNIT = 8  # so that up to eight workers share a batch equally
LEAST_STEPS = 500
# The teacher averages over this share of the run, at most over MOST_AVERAGED steps.
AVERAGED_SHARE = 1 / 5
MOST_AVERAGED = 10_000


def fitted_batch(published: int, epoch_images: int, images_per_labeled: int) -> int:
    """Labelled images in a step: as published, or fewer where an epoch would have under 5 steps.

    Args:
        published: labelled images in a step, as published.
        epoch_images: images of one epoch, of the labelled set or of the pool.
        images_per_labeled: how many of them a step takes for each labelled image, 1 or μ.
    """
    most = epoch_images // (BATCHES_PER_EPOCH * images_per_labeled)
    return min(published, max(LEAST_BATCH, most - most % BATCH_UNIT))


def fitted_steps(epochs: float, published: int, epoch_images: int, images_per_labeled: int) -> int:
    """Steps of the published epochs in batches of the published size, at least 500."""
    steps = round(epochs * epoch_images / (published * images_per_labeled))
    return max(LEAST_STEPS, steps)


def fitted_rate(base_lr: float, published: int, batch: int) -> float:
    """The base learning rate, per 256 images, of a fitted batch: base · √(published / batch).

    The rate of a step falls with the square root of the batch (Krizhevsky 2014, arXiv 1404.5997;
    for Adam, Malladi et al. 2022, 2205.10287). In proportion to the batch, a batch of 32 would
    learn at a 32nd of the rate of 1,024, and some hundred steps would train too little.
    """
    return base_lr * math.sqrt(published / batch)


def ema_decay(steps: int) -> float:
    """d = 1 − 1/(1 + steps/5), at most 0.9999: the teacher averages over a fifth of the run.

    The published 0.9999 averages over the last 10,000 steps. In a run of 500 it would leave the
    teacher where it started. Over a twentieth of them, its share of the published 200,000
    (Semi-ViT, 100 epochs of ImageNet at 640 images a step), the teacher follows what a student of
    few labels has got wrong, and may collapse (docs/recipes.md).
    """
    return 1 - 1 / min(MOST_AVERAGED, 1 + steps * AVERAGED_SHARE)
