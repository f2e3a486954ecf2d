"""Weak, strong and evaluation views; the randomness of a view depends on its seed alone."""

import copy
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import RandAugment
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import ColorJitter

from semigrid.data.views.pixels import (
    RAND_AUGMENT,
    Pixels,
    brightness,
    contrast,
    crop_and_resize,
    flip,
    planes,
    saturation,
)

ViewName = Literal["weak", "strong", "eval"]


@dataclass(frozen=True)
class ViewSettings:
    """Settings of the views; the defaults are those published for ViT-B at 224 px.

    The strong view is timm's RandomResizedCrop, flip and RandAugment (or colour jitter where
    ``rand_augment`` is empty), then random erasing in pixel mode; the weak view is crop, flip and
    colour jitter; the evaluation view resizes to ``img_size·256/224`` and crops the centre.
    """

    img_size: int = 224
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    weak_crop_scale: tuple[float, float] = (0.08, 1.0)
    hflip: float = 0.5
    color_jitter: float = 0.4
    rand_augment: str = "rand-m9-mstd0.5-inc1"
    erase_prob: float = 0.25
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@lru_cache(maxsize=16)
def timm_transform(settings: ViewSettings, view: ViewName) -> Any:
    """timm's transform from a Pillow image to an uint8 array of shape (3, H, W).

    Evaluation views are made by it; the random ones are what it would make from the same seed.
    """
    common = {
        "input_size": settings.img_size,
        "interpolation": settings.interpolation,
        "mean": settings.mean,
        "std": settings.std,
        "use_prefetcher": True,  # uint8 out: normalising and erasing are done by the batch
    }
    if view == "eval":
        return create_transform(is_training=False, crop_pct=224 / 256, **common)
    strong = view == "strong"
    return create_transform(
        is_training=True,
        scale=settings.crop_scale if strong else settings.weak_crop_scale,
        ratio=settings.crop_ratio,
        hflip=settings.hflip,
        color_jitter=settings.color_jitter or None,
        auto_augment=(settings.rand_augment or None) if strong else None,
        **common,
    )


class RandomView:
    """timm's random transform with its draws, in their order, on fast pixel operations.

    timm's and torchvision's own code draws crop, flip, colour factors, operations and magnitudes
    from the global generators, so a seed stands for the same view here and there.
    """

    def __init__(self, settings: ViewSettings, view: ViewName):
        self.settings = settings
        self.scale = settings.crop_scale if view == "strong" else settings.weak_crop_scale
        self.colors: Callable[[Pixels], Pixels] | None = None
        steps = timm_transform(settings, view).transforms
        for step in steps:
            if isinstance(step, RandAugment):
                self.colors = _on_arrays(step)
            elif isinstance(step, ColorJitter):
                self.colors = partial(_jitter, step)

    def box(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Draws the crop of an image of (width, height): top, left, height, width."""
        # timm asks an image for its size, and this one has nothing else
        image = torch.empty(size[1], size[0], device="meta")
        box: tuple[int, int, int, int] = RandomResizedCropAndInterpolation.get_params(
            image, self.scale, self.settings.crop_ratio
        )
        return box

    def __call__(self, pixels: Pixels, size: tuple[int, int]) -> np.ndarray:
        """The view (3, H, W) of an image of (width, height), or of it decoded smaller."""
        top, left, height, width = self.box(size)
        if size != (pixels.shape[1], pixels.shape[0]):
            y, x = pixels.shape[0] / size[1], pixels.shape[1] / size[0]
            top, height = round(top * y), round(height * y)
            left, width = round(left * x), round(width * x)
        # timm may draw an empty crop of an image of one or two pixels
        height, width = max(1, height), max(1, width)
        top, left = min(top, pixels.shape[0] - height), min(left, pixels.shape[1] - width)
        img_size, interpolation = self.settings.img_size, self.settings.interpolation
        made = crop_and_resize(pixels, top, left, height, width, img_size, interpolation)
        if self.settings.hflip > 0 and torch.rand(1) < self.settings.hflip:
            made = flip(made)
        if self.colors is not None:
            made = self.colors(made)
        return planes(made)


def _on_arrays(augment: RandAugment) -> RandAugment:
    """The same operations, probabilities and magnitudes, on arrays."""
    augment = copy.deepcopy(augment)
    for operation in augment.ops:
        operation.aug_fn = RAND_AUGMENT[operation.aug_fn.__name__]
    return augment


def _jitter(jitter: ColorJitter, pixels: Pixels) -> Pixels:
    """torchvision's colour jitter without hue, which no view has."""
    order, *factors = jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, None)
    for number in order.tolist():
        if factors[number] is not None:
            pixels = (brightness, contrast, saturation)[number](pixels, factors[number])
    return pixels


@lru_cache(maxsize=16)
def _random_view(settings: ViewSettings, view: ViewName) -> RandomView:
    return RandomView(settings, view)


def view_seed(seed: int, pass_number: int, image_id: str, view: str) -> int:
    """A 63-bit seed for one view of one image in one pass over the data."""
    name = f"{seed}/{pass_number}/{view}/{image_id}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1


def seed_generators(seed: int) -> None:
    # timm's and torchvision's transforms draw from all three global generators
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


@contextmanager
def isolated_random() -> Iterator[None]:
    """Gives the global generators back as they were: views must not disturb the training."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def make_view(
    image: Image.Image | Pixels,
    settings: ViewSettings,
    view: ViewName,
    seed: int,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """One view of an RGB image, uint8 (3, H, W). Call it inside ``isolated_random``.

    Args:
        image: a Pillow image, or its pixels, uint8 (H, W, 3); random views take pixels faster.
        size: the image's true (width, height), where it was decoded smaller.
    """
    if view == "eval":
        return np.asarray(timm_transform(settings, view)(image))
    pixels = np.array(image) if isinstance(image, Image.Image) else image
    seed_generators(seed)
    return _random_view(settings, view)(pixels, size or (pixels.shape[1], pixels.shape[0]))


# Factors by which a JPEG decoder can shrink at hardly any cost, and how many times the pixels of a
# view must remain: with just as many, edges are 3 % weaker than in an image decoded whole.
REDUCTIONS, SPARE = (8, 4, 2), 2


def reduction(settings: ViewSettings, seeds: Mapping[ViewName, int], size: tuple[int, int]) -> int:
    """How many times smaller an image may be decoded for its random views: 1, 2, 4 or 8.

    ``size`` is the image's (width, height), ``seeds`` are those of its views. Call it inside
    ``isolated_random``.
    """
    needed = SPARE * settings.img_size
    if min(size) < REDUCTIONS[-1] * needed:
        return 1
    sides = []
    for view, seed in seeds.items():
        seed_generators(seed)
        sides.append(min(_random_view(settings, view).box(size)[2:]))
    return next((n for n in REDUCTIONS if min(sides) >= n * needed), 1)


def normalize(views: torch.Tensor, settings: ViewSettings) -> torch.Tensor:
    """uint8 (B, 3, H, W) to float32 with the mean and standard deviation of the weights."""
    mean = torch.tensor(settings.mean, device=views.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(settings.std, device=views.device).view(1, 3, 1, 1) * 255
    return (views.float() - mean) / std


def erase(images: torch.Tensor, seeds: torch.Tensor, probability: float) -> torch.Tensor:
    """Random erasing in pixel mode, in place, each image of (B, 3, H, W) from its own seed."""
    if probability == 0:
        return images
    # the noise is drawn on the CPU, whose generator is the one that is seeded here
    eraser = RandomErasing(probability, mode="pixel", device="cpu")
    with isolated_random():
        for image, seed in zip(images, seeds.tolist(), strict=True):
            random.seed(seed)
            torch.default_generator.manual_seed(seed)
            eraser(image)
    return images
