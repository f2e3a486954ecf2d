"""Weak, strong and evaluation views; what is random in a view is a function of its seed alone."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing

View = Literal["weak", "strong", "eval"]


@dataclass(frozen=True)
class ViewSettings:
    """What the views are made of; the defaults are the published ones for ViT-B at 224 px.

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
def view_transform(settings: ViewSettings, view: View) -> Any:
    """timm's transform from a PIL image to an uint8 array of shape (3, H, W)."""
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


def view_seed(seed: int, pass_number: int, image_id: str, view: str) -> int:
    """A 63-bit seed for one view of one image in one pass over the data."""
    name = f"{seed}/{pass_number}/{view}/{image_id}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1


def _seed_everything(seed: int) -> None:
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


def make_view(image: Image.Image, settings: ViewSettings, view: View, seed: int) -> np.ndarray:
    """One view of an RGB image, uint8 (3, H, W). Call it inside ``isolated_random``."""
    transform = view_transform(settings, view)
    if view != "eval":
        _seed_everything(seed)
    return np.asarray(transform(image))


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
