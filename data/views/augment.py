"""Weak, strong and evaluation views. A random view depends only on the image and a seed."""

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
from timm.data import auto_augment, create_transform, random_erasing, transforms
from timm.data.auto_augment import RandAugment
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import ColorJitter

from semigrid.data.views import pixels as operations
from semigrid.data.views.pixels import Pixels

ViewName = Literal["weak", "strong", "eval"]

# timm draws from Python's global generator, and so does any thread at any time, like a client that
# waits for its bucket: then the view would be another one. So timm gets a generator of its own.
GENERATOR = random.Random()
for _module in (auto_augment, random_erasing, transforms):
    _module.random = GENERATOR


@dataclass(frozen=True)
class ViewSettings:
    """Settings of the views; the defaults are those published for ViT-B at 224 pixels.

    The strong view is timm's RandomResizedCrop, flip and RandAugment, then random erasing in pixel
    mode; an empty ``rand_augment`` means colour jitter. The weak view is crop, flip and colour
    jitter. The evaluation view resizes to ``img_size·256/224`` and crops the centre.
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
    """timm's transform from a Pillow image to a uint8 array (3, H, W).

    It makes the evaluation views. ``make_view`` makes the views that it would make from a seed.
    """
    common = {
        "input_size": settings.img_size,
        "interpolation": settings.interpolation,
        "mean": settings.mean,
        "std": settings.std,
        "use_prefetcher": True,  # uint8 output: batches are normalised and erased
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


@lru_cache(maxsize=16)
def _colors(settings: ViewSettings, view: ViewName) -> Callable[[Pixels], Pixels]:
    """timm's RandAugment or colour jitter, with the same draws, on arrays."""
    for step in timm_transform(settings, view).transforms:
        if isinstance(step, RandAugment):
            augment = copy.deepcopy(step)
            for operation in augment.ops:
                operation.aug_fn = getattr(operations, operation.aug_fn.__name__)
            on_arrays: Callable[[Pixels], Pixels] = augment
            return on_arrays
        if isinstance(step, ColorJitter):
            return partial(_jitter, step)
    return lambda pixels: pixels


def _jitter(jitter: ColorJitter, pixels: Pixels) -> Pixels:
    """Applies torchvision's colour jitter. No view changes the hue."""
    order, *factors = jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, None)
    for number in order.tolist():
        if factors[number] is not None:
            apply = (operations.brightness, operations.contrast, operations.color)[number]
            pixels = apply(pixels, factors[number])
    return pixels


def crop_box(
    settings: ViewSettings, view: ViewName, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Draws the crop of an image of (width, height) pixels: top, left, height, width."""
    scale = settings.crop_scale if view == "strong" else settings.weak_crop_scale
    # timm reads only the size of the image
    image = torch.empty(size[1], size[0], device="meta")
    box: tuple[int, int, int, int] = RandomResizedCropAndInterpolation.get_params(
        image, scale, settings.crop_ratio
    )
    return box


def _random_view(
    pixels: Pixels, settings: ViewSettings, view: ViewName, size: tuple[int, int]
) -> np.ndarray:
    """timm's random view on fast pixel operations, uint8 (3, H, W).

    The code of timm and torchvision draws crop, flip, colour factors, operations and magnitudes
    from their generators in their order, so a seed gives the same view here and in timm.
    ``size`` is the (width, height) before reduction.
    """
    top, left, height, width = crop_box(settings, view, size)
    if size != (pixels.shape[1], pixels.shape[0]):
        y, x = pixels.shape[0] / size[1], pixels.shape[1] / size[0]
        top, height = round(top * y), round(height * y)
        left, width = round(left * x), round(width * x)
    # timm may draw an empty crop from an image of one or two pixels
    height, width = max(1, height), max(1, width)
    top, left = min(top, pixels.shape[0] - height), min(left, pixels.shape[1] - width)
    made = operations.crop_and_resize(
        pixels, top, left, height, width, settings.img_size, settings.interpolation
    )
    if settings.hflip > 0 and torch.rand(1) < settings.hflip:
        made = operations.flip(made)
    return operations.planes(_colors(settings, view)(made))


def view_seed(seed: int, pass_number: int, image_id: str, view: str) -> int:
    """The 63-bit seed for a view of an image in a pass over the data."""
    name = f"{seed}/{pass_number}/{view}/{image_id}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1


def seed_generators(seed: int) -> None:
    """Seeds the three generators from which timm's and torchvision's transforms draw."""
    GENERATOR.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


@contextmanager
def isolated_random() -> Iterator[None]:
    """Restores the global generators afterwards, so that views do not change a training."""
    states = np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        np.random.set_state(states[0])
        torch.set_rng_state(states[1])


def make_view(
    image: Image.Image | Pixels,
    settings: ViewSettings,
    view: ViewName,
    seed: int,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """One view of an RGB image, uint8 (3, H, W). Call it inside ``isolated_random``.

    Args:
        image: a Pillow image, or pixels, uint8 (H, W, 3), which are faster for random views.
        size: the (width, height) before reduction, if the image was decoded smaller.
    """
    if view == "eval":
        if isinstance(image, Image.Image) and max(image.size) > THIN * min(image.size):
            return _center_of_thin(image, settings)
        return np.asarray(timm_transform(settings, view)(image))
    pixels = np.array(image) if isinstance(image, Image.Image) else image
    seed_generators(seed)
    return _random_view(pixels, settings, view, size or (pixels.shape[1], pixels.shape[0]))


# Longer side over shorter side from which an image is not resized as a whole: one of 1 × 20,000
# pixels would become 256 × 5,120,000. Below, views are timm's to the last bit.
THIN = 32


def _center_of_thin(image: Image.Image, settings: ViewSettings) -> np.ndarray:
    """timm's evaluation view, computed for the part that it keeps; at most two levels apart."""
    shorter, crop = timm_transform(settings, "eval").transforms[0].size, settings.img_size
    box: list[float] = []
    for side in image.size:
        resized = int(shorter * side / min(image.size))
        start = round((resized - crop) / 2)
        box += [start * side / resized, (start + crop) * side / resized]
    left, right, top, bottom = box
    kernel = Image.Resampling[settings.interpolation.upper()]
    view = image.resize((crop, crop), kernel, box=(left, top, right, bottom))
    return np.asarray(view).transpose(2, 0, 1)


# Factors by which JPEG decoders shrink images at little cost, and the smallest ratio between the
# sides of a reduced crop and of its view: with a ratio of 1, edges would be 3 % weaker.
REDUCTIONS, SPARE = (8, 4, 2), 2


def reduction(settings: ViewSettings, seeds: Mapping[ViewName, int], size: tuple[int, int]) -> int:
    """The factor by which an image may be decoded smaller for its random views: 1, 2, 4 or 8.

    ``size`` is the image's (width, height); ``seeds`` holds the seed of each view. Call it inside
    ``isolated_random``.
    """
    needed = SPARE * settings.img_size
    if min(size) < REDUCTIONS[-1] * needed:
        return 1
    sides = []
    for view, seed in seeds.items():
        seed_generators(seed)
        sides.append(min(crop_box(settings, view, size)[2:]))
    return next((n for n in REDUCTIONS if min(sides) >= n * needed), 1)


def normalize(views: torch.Tensor, settings: ViewSettings) -> torch.Tensor:
    """Converts uint8 (B, 3, H, W) to float32, normalised by the settings' mean and deviation."""
    mean = torch.tensor(settings.mean, device=views.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(settings.std, device=views.device).view(1, 3, 1, 1) * 255
    return (views.float() - mean) / std


def erase(images: torch.Tensor, seeds: torch.Tensor, probability: float) -> torch.Tensor:
    """Erases random boxes of images (B, 3, H, W) in place, in pixel mode, with a seed for each."""
    if probability == 0:
        return images
    # the noise is drawn on the CPU, whose generator is seeded below
    eraser = RandomErasing(probability, mode="pixel", device="cpu")
    with isolated_random():
        for image, seed in zip(images, seeds.tolist(), strict=True):
            GENERATOR.seed(seed)
            torch.default_generator.manual_seed(seed)
            eraser(image)
    return images
