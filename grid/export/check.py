"""Compares exported files with the trained model, and the model with its measured predictions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from semigrid.data.errors import InputError
from semigrid.data.schema import Dataset
from semigrid.grid.export.onnx_file import ONNX, run_onnx
from semigrid.grid.export.timm_folder import open_timm_folder
from semigrid.trainers.evaluation.predictions import Predictions

if TYPE_CHECKING:
    from torch import nn

    from semigrid.data.views.augment import ViewSettings

CHECK_IMAGES = 64
# Largest difference of logits and probabilities between two ways to compute the same in float32:
# absolute, or as a share of the largest logit. An inception_v3 from random weights has logits of
# 1e+9, where float32 itself is no finer than 64.
MAX_DIFFERENCE, MAX_OF_LARGEST = 1e-4, 1e-5
# Largest difference from probabilities measured on another processor, and on a GPU, which may
# compute in TF32. Other weights or another view differ by more.
MAX_FROM_CPU, MAX_FROM_GPU = 1e-3, 0.02


@dataclass(frozen=True)
class Check:
    """Largest differences on a number of images.

    ``timm`` and ``onnx`` (None without the file) are those of logits and probabilities between the
    model as timm or ONNX Runtime runs it, and the model in PyTorch. ``measured`` is that of
    probabilities between the model and what was measured on test. ``why_random`` says why there
    were no test images, and random ones were taken.
    """

    images: int
    timm: float
    onnx: float | None
    measured: float | None
    why_random: str | None = None

    @property
    def real_images(self) -> bool:
        return self.why_random is None


def check_files(
    folder: Path,
    model: "nn.Module",
    views: "ViewSettings",
    dataset: Dataset,
    predictions: Predictions,
    onnx: bool,
    measured_on_cpu: bool = True,
) -> Check:
    """Compares the folder's files with the model, and the model with what was measured.

    timm opens the folder and makes the view that its config describes. Raises ``InputError`` where
    a difference is too large; ``measured_on_cpu`` decides on the limit for ``predictions``.
    """
    import torch

    timm_model, timm_view = open_timm_folder(folder)
    ids, images, timm_images, why_random = _check_images(dataset, views, timm_view)
    with torch.inference_mode():
        logits, timm_logits = model(images), timm_model(images)
    ours = (logits.numpy(), logits.softmax(dim=1).numpy())
    theirs = (timm_logits.numpy(), timm_logits.softmax(dim=1).numpy())
    # views apart from models, which may amplify how a view was rounded
    others = "the measured one, in standard deviations of a pixel"
    _difference("timm's evaluation view", others, [images.numpy()], [timm_images.numpy()])
    others = "the trained one in logits or probabilities"
    timm = _difference("the model as timm opens it", others, ours, theirs)
    in_onnx = None
    if onnx:
        others = "PyTorch in logits or probabilities; leave it out with --no-onnx"
        run = run_onnx(folder / ONNX, images.numpy())
        in_onnx = _difference("the ONNX file", others, ours, run)
    measured = None
    if ids:
        row = {image_id: number for number, image_id in enumerate(predictions.ids)}
        known = predictions.probabilities[[row[image_id] for image_id in ids]]
        measured = float(np.abs(known - logits.double().softmax(dim=1).numpy()).max())
        if not measured <= (MAX_FROM_CPU if measured_on_cpu else MAX_FROM_GPU):
            raise InputError(
                f"the weights give other probabilities on test images than were measured, by up to "
                f"{measured:.2g}: weights or predictions of this trial are damaged; nothing was "
                "written"
            )
    return Check(len(images), timm, in_onnx, measured, why_random)


def _difference(
    what: str, others: str, arrays: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> float:
    """Largest difference of two arrays. Raises ``InputError`` where it is too large, or NaN."""
    differences = [
        (float(np.abs(a - b).max()), max(MAX_DIFFERENCE, MAX_OF_LARGEST * float(np.abs(b).max())))
        for a, b in zip(arrays, expected, strict=True)
    ]
    for difference, most in differences:
        if not (difference <= most and math.isfinite(difference)):
            raise InputError(
                f"nothing was written: {what} differs by {difference:.1e}, more than {most:.1g}, "
                f"from {others}"
            )
    return max(difference for difference, _ in differences)


def show_difference(value: float) -> str:
    """``1.2e-06``, or ``0``."""
    return f"{value:.1e}" if value else "0"


def _check_images(
    dataset: Dataset, views: "ViewSettings", timm_view: Any
) -> tuple[list[str], Any, Any, str | None]:
    """Test images spread over the set: their ids, our views (N, 3, H, W), and timm's views.

    Where they cannot be read any more: no ids, random images for both, and the reason.
    """
    import torch

    from semigrid.data.views.augment import make_view, normalize
    from semigrid.data.views.render import decode

    count = dataset.rows_in("test")
    rows = np.unique(np.linspace(0, count - 1, min(count, CHECK_IMAGES)).round().astype(int))
    try:
        table = dataset.read("test", rows)
        pictures = [decode(*each) for each in zip(table.images, table.ids, strict=True)]
    except (OSError, ValueError) as error:  # a shard or an image in it
        shape = (CHECK_IMAGES, 3, views.img_size, views.img_size)
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return [], images, images, f"the test images cannot be read ({error})"
    ours = np.stack([make_view(picture, views, "eval", 0) for picture in pictures])
    theirs = torch.stack([timm_view(picture) for picture in pictures])
    return list(table.ids), normalize(torch.from_numpy(ours), views), theirs, None
