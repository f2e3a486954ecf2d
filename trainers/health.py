"""How a training is doing: collapse, speed, and the share of the device's peak."""

import copy
import re
import time
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from semigrid.trainers.recipe import Recipe


class CollapsedError(RuntimeError):
    """The training leads to nothing and was stopped; ``outcome`` is where it stood."""

    status: Literal["collapsed", "diverged"] = "collapsed"
    outcome: Any = None


class DivergedError(CollapsedError):
    """The loss, or what the model predicts, is no longer a finite number."""

    status: Literal["collapsed", "diverged"] = "diverged"


def collapse(history: Sequence[dict[str, float]], recipe: Recipe, natural: float) -> str | None:
    """Why a training with pseudo labels has collapsed; None if it has not.

    It has when, for ``collapse_evaluations`` evaluations in a row, hardly any image reaches the
    confidence threshold, or almost all pseudo labels are of one class (docs/methods.md §6).

    Args:
        natural: entropy in nats of the classes of val, to compare the pseudo labels' with.
    """
    count = min(recipe.collapse_evaluations, recipe.evaluations)
    recent = history[-count:] if count else []
    if not recent or len(recent) < count:
        return None
    after = f"at {count} evaluations in a row, the last at step {recent[-1]['step']:g}, "
    if all(record["mask_rate"] < recipe.min_mask_rate for record in recent):
        return (
            f"{after}fewer than {recipe.min_mask_rate:.1%} of the unlabelled images reached the "
            f"confidence threshold ({recipe.confidence_threshold:g}): nothing is learnt from "
            "them; lower confidence_threshold"
        )
    floor = recipe.min_pseudo_entropy * natural
    if all(record["pseudo_entropy"] < floor for record in recent):
        return (
            f"{after}next to all pseudo labels were of one class (entropy "
            f"{recent[-1]['pseudo_entropy']:.3f} nats, the classes of val have {natural:.3f}): "
            "the teacher has collapsed; lower unlabeled_loss_weight or base_lr, or raise "
            "confidence_threshold"
        )
    return None


def flops_per_image(model: nn.Module, img_size: int) -> int | None:
    """Floating-point operations of one forward of one image, counting a multiply-add as two.

    None for a model that torch cannot count (CaiT): the figure is only informative.
    """
    shadow = copy.deepcopy(model).to("meta").eval()
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            shadow(torch.empty(1, 3, img_size, img_size, device="meta"))
    except Exception:  # whatever the model's own code does on tensors without data
        return None
    return int(counter.get_total_flops())


# Dense peak in TFLOP/s by part of the device's name, from NVIDIA's data sheets: float32 without
# TF32, and bfloat16 or float16 on tensor cores. The first match counts.
_PEAK: list[tuple[str, float, float]] = [
    ("B200", 75, 2250),
    ("GH200", 67, 989),
    ("H200", 67, 989),
    ("H100 PCIe", 51, 756),
    ("H100 NVL", 60, 835),
    ("H100", 67, 989),
    ("A100", 19.5, 312),
    ("A10G", 31.2, 70),
    ("A10", 31.2, 125),
    ("L40S", 91.6, 362),
    ("L40", 90.5, 181),
    ("L4", 30.3, 121),
    ("V100", 15.7, 125),
    ("T4", 8.1, 65),
    ("RTX 4090", 82.6, 165),
    ("RTX 3090", 35.6, 71),
]


def peak_flops(device_name: str, precision: str) -> float | None:
    """The device's peak in FLOP/s at a precision; None for a device that is not in the table."""
    for name, single, half in _PEAK:
        if re.search(rf"\b{name}\b", device_name):
            return (single if precision == "fp32" else half) * 1e12
    return None


class Speedometer:
    """Images per second and share of the peak between two evaluations.

    Args:
        forward_flops: FLOPs of one image, from ``flops_per_image``.
        peak: peak of one rank's device in FLOP/s; None where it is not known.
    """

    def __init__(self, forward_flops: int | None, peak: float | None):
        self.forward_flops, self.peak = forward_flops, peak
        self.reset()
        self.restart_clock()

    def reset(self) -> None:
        self.images = self.forwards = 0
        self.seconds = 0.0

    def restart_clock(self) -> None:
        """Excludes the time since the last lap."""
        self.clock = time.monotonic()

    def lap(self, images: int, teacher_rows: int, student_rows: int) -> None:
        """Adds a step that took the time since the last lap."""
        now = time.monotonic()
        self.add(images, teacher_rows, student_rows, now - self.clock)
        self.clock = now

    def add(self, images: int, teacher_rows: int, student_rows: int, seconds: float) -> None:
        """Adds a step: images (all ranks), rows that passed on this rank, and seconds.

        A backward counts as two forwards.
        """
        self.images += images
        self.forwards += teacher_rows + 3 * student_rows
        self.seconds += seconds

    def reading(self) -> dict[str, float]:
        """``images_per_s`` and, where the peak is known, ``flops_utilization`` of this rank."""
        if not self.seconds:
            return {}
        reading = {"images_per_s": self.images / self.seconds}
        if self.peak and self.forward_flops:
            achieved = self.forwards * self.forward_flops / self.seconds
            reading["flops_utilization"] = achieved / self.peak
        return reading
