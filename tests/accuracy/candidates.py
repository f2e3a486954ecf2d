"""The comparisons behind docs/recipes.md: candidates that see the same number of images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Candidates that cost the same, on some numbers of labels.

    Attributes:
        candidates: by name, their values over the published recipe; the first one is the reference.
        parent: of ``semi``, the values of the fine-tuning that all candidates start from.
    """

    labels: tuple[int, ...]
    candidates: Mapping[str, Values]
    parent: Values | None = None
    sets: tuple[str, ...] = ("digits", "emoji", "solar-cells")


def _averaging(share: float, steps: int) -> float:
    """The decay with which the teacher averages over a share of the steps."""
    return 1 - 1 / (1 + steps * share)


def _of(batch: int, steps: int, base_lr: float, **other: Any) -> Values:
    # a twentieth was the rule until "decay-long" had been compared
    decay = _averaging(1 / 20, steps)
    return {"batch_size": batch, "steps": steps, "base_lr": base_lr, "ema_decay": decay, **other}


# Lite0 with the optimiser of the recipe for transformers
_ADAMW = {"optimizer": "adamw", "weight_decay": 0.05, "layer_decay": 0.65}
_ADAMW |= {"decay_one_dimensional": False}
_RULE = _of(32, 250, 0.03)
_TWO = ("digits", "emoji")
# in the 1×1 convolutions of Lite0's blocks
_LORA = {"kind": "lora", "targets": ("conv_pw", "conv_pwl")}

COMPARISONS = {
    # 16,000 images, the least that the rule trains, also in batches as published
    "rule": Comparison(
        (60, 250),
        {
            "500 × 32 at 0.01": _of(32, 500, 0.01),
            "500 × 32 at 0.03": _of(32, 500, 0.03),
            "62 × 256 at 0.01": _of(256, 62, 0.01),
        },
    ),
    # 8,000 images: in proportion to the batch, by its square root, and the published rate itself
    "rate": Comparison(
        (60, 250, 1000),
        {"0.01": _of(32, 250, 0.01), "0.03": _RULE, "0.08": _of(32, 250, 0.08)},
    ),
    "rate-adamw": Comparison(
        (60, 1000),
        {
            "0.0005": _of(32, 250, 5e-4, **_ADAMW),
            "0.0028": _of(32, 250, 2.8e-3, **_ADAMW),
            "0.016": _of(32, 250, 1.6e-2, **_ADAMW),
        },
    ),
    # 8,000 images: all weights, LoRA or the head alone; at the rule's rate and ten times that
    "adapter": Comparison(
        (60, 1000),
        {
            "all weights": _RULE,
            "LoRA": _of(32, 250, 0.03, adapter=_LORA),
            "LoRA × 10": _of(32, 250, 0.3, adapter=_LORA),
            "head × 10": _of(32, 250, 0.3, adapter=_LORA | {"targets": ()}),
        },
        sets=_TWO,
    ),
    # 8,000 images, each at the rate of the rule
    "batch": Comparison(
        (60, 1000),
        {"250 × 32": _RULE, "500 × 16": _of(16, 500, 0.042), "62 × 128": _of(128, 62, 0.015)},
    ),
    # 4,000, 8,000 and 16,000 images
    "steps": Comparison(
        (60, 1000),
        {"250": _RULE, "125": _of(32, 125, 0.03), "500": _of(32, 500, 0.03)},
    ),
    # 100 steps of 32 labelled and 160 unlabelled images
    "decay": Comparison(
        (60,),
        {
            "1/20": _of(32, 100, 0.02, ema_decay=_averaging(1 / 20, 100)),
            "1/5": _of(32, 100, 0.02, ema_decay=_averaging(1 / 5, 100)),
            "1/100": _of(32, 100, 0.02, ema_decay=_averaging(1 / 100, 100)),
        },
        parent=_RULE,
        sets=_TWO,
    ),
    # the same in the rule's own number of steps
    "decay-long": Comparison(
        (60,),
        {
            "1/20": _of(32, 500, 0.02, ema_decay=_averaging(1 / 20, 500)),
            "1/5": _of(32, 500, 0.02, ema_decay=_averaging(1 / 5, 500)),
            "1/2": _of(32, 500, 0.02, ema_decay=_averaging(1 / 2, 500)),
        },
        parent=_RULE,
        sets=_TWO,
    ),
    # as many images, one of them at the published base rate
    "semi-batch": Comparison(
        (60,),
        {
            "100 × 32": _of(32, 100, 0.02),
            "100 × 32 at 0.01": _of(32, 100, 0.01),
            "400 × 8": _of(8, 400, 0.04),
        },
        parent=_RULE,
        sets=_TWO,
    ),
}
