"""Weak, strong and evaluation views. A random view depends only on the image and a seed."""

import copy
import hashlib
import math
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment, create_transform, transforms
from timm.data.auto_augment import RandAugment
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import ColorJitter

from semigrid.data.views import pixels as operations
from semigrid.data.views.pixels import Pixels

ViewName = Literal["weak", "strong", "eval"]


class _ThreadsOwn(threading.local):
    """A generator like Python's, another one in each thread."""

    def __init__(self) -> None:
        self.generator = random.Random()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)


# timm draws from Python's global generator, and so does any thread at any time, like a client that
# waits for its bucket: then the view would be another one. So timm gets generators of its own, and
# threads can make views beside each other.
GENERATOR = _ThreadsOwn()
for _module in (auto_augment, transforms):
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

    It makes the evaluation views. ``make_view`` makes random views of the same distribution.
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


# an operation on pixels, and what it is called with besides
Operation = tuple[Callable[..., Pixels], tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Drawn:
    """What was drawn for a random view: its crop, flip, and operations on colours and shape.

    ``box`` is in the pixels of the image: top, left, height, width.
    """

    box: tuple[int, int, int, int]
    flipped: bool
    operations: list[Operation]


def draw(settings: ViewSettings, view: ViewName, seed: int, size: tuple[int, int]) -> Drawn:
    """Draws a random view of an image of (width, height) pixels, with timm's distributions."""
    GENERATOR.seed(seed)
    scale = settings.crop_scale if view == "strong" else settings.weak_crop_scale
    # timm reads only the size of the image
    image = torch.empty(size[1], size[0], device="meta")
    box = RandomResizedCropAndInterpolation.get_params(image, scale, settings.crop_ratio)
    flipped = GENERATOR.random() < settings.hflip
    return Drawn(box, flipped, _operations(settings, view)())


@lru_cache(maxsize=16)
def _operations(settings: ViewSettings, view: ViewName) -> Callable[[], list[Operation]]:
    """Draws what timm's RandAugment or colour jitter would do."""
    for step in timm_transform(settings, view).transforms:
        if isinstance(step, RandAugment):
            augment = copy.deepcopy(step)
            for each in augment.ops:
                each.aug_fn = partial(_noted, getattr(operations, each.aug_fn.__name__))
            return partial(_draw_augment, augment)
        if isinstance(step, ColorJitter):
            return partial(_draw_jitter, step)
    return list


def _noted(operation: Callable[..., Pixels], _: None, *args: Any, **how: Any) -> Operation:
    return operation, args, how


def _draw_augment(augment: RandAugment) -> list[Operation]:
    """RandAugment's operations and their magnitudes; those are left out that are not applied."""
    if augment.choice_weights is None:
        chosen = GENERATOR.choices(augment.ops, k=augment.num_layers)
    else:
        numpys = np.random.default_rng(GENERATOR.getrandbits(64))
        chosen = numpys.choice(augment.ops, augment.num_layers, False, augment.choice_weights)
    return [noted for each in chosen if (noted := each(None)) is not None]


def _draw_jitter(jitter: ColorJitter) -> list[Operation]:
    """The jitter's factors in random order. No view changes the hue."""
    ranges = [
        (operations.brightness, jitter.brightness),
        (operations.contrast, jitter.contrast),
        (operations.color, jitter.saturation),
    ]
    GENERATOR.shuffle(ranges)
    return [(change, (GENERATOR.uniform(*factors),), {}) for change, factors in ranges if factors]


def _random_view(
    pixels: Pixels, settings: ViewSettings, drawn: Drawn, size: tuple[int, int]
) -> Pixels:
    """The view that was drawn, (H, W, 3). ``size`` is (width, height) before reduction."""
    top, left, height, width = drawn.box
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
    if drawn.flipped:
        made = operations.flip(made)
    for operation, args, how in drawn.operations:
        made = operation(made, *args, **how)
    return made


def view_seed(seed: int, pass_number: int, image_id: str, view: str) -> int:
    """The 63-bit seed for a view of an image in a pass over the data."""
    name = f"{seed}/{pass_number}/{view}/{image_id}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1


def make_view(
    image: Image.Image | Pixels,
    settings: ViewSettings,
    view: ViewName,
    seed: int,
    size: tuple[int, int] | None = None,
    into: np.ndarray | None = None,
) -> np.ndarray:
    """One view of an RGB image, uint8 (3, H, W). Threads may make views beside each other.

    Args:
        image: a Pillow image, or pixels, uint8 (H, W, 3), which are faster for random views.
        size: the (width, height) before reduction, if the image was decoded smaller.
        into: an array of the view's shape that takes a random view, a new one if None.
    """
    if view == "eval":
        if isinstance(image, Image.Image) and max(image.size) > THIN * min(image.size):
            return _center_of_thin(image, settings)
        return np.asarray(timm_transform(settings, view)(image))
    pixels = np.array(image) if isinstance(image, Image.Image) else image
    size = size or (pixels.shape[1], pixels.shape[0])
    made = _random_view(pixels, settings, draw(settings, view, seed, size), size)
    if into is None:
        into = np.empty((3, settings.img_size, settings.img_size), np.uint8)
    return operations.planes(made, into)


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

    ``size`` is the image's (width, height); ``seeds`` holds the seed of each view.
    """
    needed = SPARE * settings.img_size
    if min(size) < REDUCTIONS[-1] * needed:
        return 1
    boxes = [draw(settings, view, seed, size).box for view, seed in seeds.items()]
    side = min(min(height, width) for _, _, height, width in boxes)
    return next((n for n in REDUCTIONS if side >= n * needed), 1)


@lru_cache(maxsize=16)
def _scale(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of uint8 levels, (1, 3, 1, 1) each; on the device once."""
    with torch.inference_mode(False):  # else they would be of no use outside of it
        both = torch.tensor([mean, std], device=device) * 255
        return both[0].view(1, 3, 1, 1), both[1].view(1, 3, 1, 1)


def normalize(views: torch.Tensor, settings: ViewSettings) -> torch.Tensor:
    """Converts uint8 (B, 3, H, W) to float32, normalised by the settings' mean and deviation."""
    mean, std = _scale(settings.mean, settings.std, views.device)
    return (views - mean).div_(std)


# An image's random erasing: top, left, height and width of its box in pixels, all 0 where nothing
# is erased, and the 32-bit seed of the noise in it.
Erasure = tuple[int, int, int, int, int]
NO_ERASURE: Erasure = (0, 0, 0, 0, 0)


def draw_erasure(settings: ViewSettings, seed: int) -> Erasure:
    """Draws what timm's ``RandomErasing`` would erase of a view (Zhong et al. 2017, 1708.04896).

    The area is 2 % to a third of the view's, the ratio of height to width 0.3 to 1/0.3. A box that
    the view does not hold is drawn anew, nine times at most.
    """
    generator, size = random.Random(seed), settings.img_size
    if settings.erase_prob == 0 or generator.random() > settings.erase_prob:
        return NO_ERASURE
    for _ in range(10):
        area = generator.uniform(0.02, 1 / 3) * size * size
        ratio = math.exp(generator.uniform(math.log(0.3), math.log(1 / 0.3)))
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if height < size and width < size:
            top = generator.randint(0, size - height)
            left = generator.randint(0, size - width)
            return top, left, height, width, seed & 0xFFFFFFFF
    return NO_ERASURE


def erase(images: torch.Tensor, erasures: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Fills boxes of some images with standard normal noise, in place and without a loop.

    A pixel's noise depends on its image's seed and on its place alone, whatever is beside it.

    Args:
        images: normalised, (B, 3, H, W).
        erasures: of all images, (B, 5), each an ``Erasure``.
        rows: the numbers of the images that have a box, (R,); others may be among them.
    """
    if len(rows) == 0:
        return images
    top, left, height, width, seed = erasures[rows].unbind(1)
    y = torch.arange(images.shape[2], device=images.device)
    x = torch.arange(images.shape[3], device=images.device)
    tall = (y >= top[:, None]) & (y < (top + height)[:, None])
    wide = (x >= left[:, None]) & (x < (left + width)[:, None])
    box = tall[:, None, :, None] & wide[:, None, None, :]
    noise = pixel_noise(seed, images[0].numel()).view(len(rows), *images.shape[1:])
    return images.index_copy_(0, rows, torch.where(box, noise, images[rows]))


def pixel_noise(seeds: torch.Tensor, count: int) -> torch.Tensor:
    """Standard normal noise (R, count), each a function of its row's seed (R,) and its column.

    A hash of both is a uniform number of 24 bits, and the inverse of the normal distribution makes
    it normal: up to 5.4 deviations from 0.
    """
    places = _hash(torch.arange(count, device=seeds.device))
    uniform = _hash(places ^ seeds[:, None]) >> 8
    # odd multiples of 2^-24 between −1 and 1: exact in float32, and symmetric
    centred = ((uniform << 1) - (2**24 - 1)).float().mul_(2.0**-24)
    return centred.erfinv_().mul_(math.sqrt(2))


def _hash(numbers: torch.Tensor) -> torch.Tensor:
    """A bijection of 32-bit numbers in int64 that looks random: Wellons' ``lowbias32``."""
    mask = 0xFFFFFFFF
    numbers = (numbers >> 16) ^ numbers
    numbers = numbers.mul_(0x7FEB352D).bitwise_and_(mask)
    numbers = (numbers >> 15) ^ numbers
    # 0x846CA68B less 2^32: the same 32 bits, and no product leaves 64 bits
    numbers = numbers.mul_(0x846CA68B - 2**32).bitwise_and_(mask)
    return (numbers >> 16) ^ numbers
