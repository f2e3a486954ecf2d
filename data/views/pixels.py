"""Image operations on uint8 arrays (H, W, 3) that match Pillow's and run several times as fast.

They do what timm's RandAugment and torchvision's ColorJitter do to Pillow images, with the vector
instructions of OpenCV and torch. Operations that Pillow computes with a lookup table use the same
table here. Blending differs by a rounding, and resizing by at most two levels of 255. Rotations and
shears differ more: their cubic kernel (Keys 1981) has a = −0.75 where Pillow has −1, and they mix
the fill colour into the pixels at the border. The operations of RandAugment have the names of
timm's functions, by which the strong view finds them.
"""

import math
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Resampling

# several processes make images at the same time, so threads within a process only slow them down
cv2.setNumThreads(0)

Pixels = np.ndarray  # uint8 (H, W, 3)
Color = tuple[int, int, int]

_LEVELS = np.arange(256)
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13  # Pillow's SMOOTH
_GREY = np.array([0.299, 0.587, 0.114])  # of red, green and blue, as Pillow weighs them
_INTERPOLATION = {Resampling.BILINEAR: cv2.INTER_LINEAR, Resampling.BICUBIC: cv2.INTER_CUBIC}


def crop_and_resize(
    pixels: Pixels, top: int, left: int, height: int, width: int, size: int, interpolation: str
) -> Pixels:
    """Crops a box, in pixels, and resizes it to (size, size, 3) with antialiasing."""
    part = torch.from_numpy(pixels[top : top + height, left : left + width])
    resized: torch.Tensor = F.interpolate(
        part.permute(2, 0, 1)[None], (size, size), mode=interpolation, antialias=True
    )
    joined: Pixels = cv2.merge(list(resized[0].numpy()))
    return joined


def flip(pixels: Pixels) -> Pixels:
    """Mirrors left and right."""
    return cv2.flip(pixels, 1)


def planes(pixels: Pixels, into: np.ndarray) -> np.ndarray:
    """Writes (H, W, 3) as (3, H, W) into an array, which it returns."""
    cv2.split(pixels, list(into))
    return into


def _by_table(pixels: Pixels, table: np.ndarray) -> Pixels:
    """Maps every level with one table (256,), or with a table per channel (256, 3)."""
    table = np.clip(table, 0, 255).astype(np.uint8)
    return cv2.LUT(pixels, table if table.ndim == 1 else table[None])


# Pillow truncates blended levels where OpenCV rounds them; whole levels must not change
_CUT = -0.499


def _by_matrix(pixels: Pixels, matrix: np.ndarray, level: float) -> Pixels:
    """Makes new channels of the three, and adds a level to all of them."""
    return cv2.transform(pixels, np.column_stack([matrix, np.full(3, level + _CUT)]))


def brightness(pixels: Pixels, factor: float, **_: Any) -> Pixels:
    return _by_matrix(pixels, factor * np.eye(3), 0)


def contrast(pixels: Pixels, factor: float, **_: Any) -> Pixels:
    mean = int(float(_GREY @ cv2.mean(pixels)[:3]) + 0.5)
    return _by_matrix(pixels, factor * np.eye(3), mean * (1 - factor))


def color(pixels: Pixels, factor: float, **_: Any) -> Pixels:
    return _by_matrix(pixels, factor * np.eye(3) + (1 - factor) * _GREY, 0)


def sharpness(pixels: Pixels, factor: float, **_: Any) -> Pixels:
    smooth = cv2.filter2D(pixels, -1, _SMOOTH)
    smooth[[0, -1]], smooth[:, [0, -1]] = pixels[[0, -1]], pixels[:, [0, -1]]  # as Pillow does
    return cv2.addWeighted(smooth, 1 - factor, pixels, factor, _CUT)


def invert(pixels: Pixels, **_: Any) -> Pixels:
    return cv2.bitwise_not(pixels)


def posterize(pixels: Pixels, bits: int, **_: Any) -> Pixels:
    """Keeps the highest ``bits`` of 8. With 0 bits the image is black, as in timm."""
    return _by_table(pixels, _LEVELS & ~(2 ** (8 - bits) - 1)) if bits < 8 else pixels


def solarize(pixels: Pixels, threshold: int, **_: Any) -> Pixels:
    return _by_table(pixels, np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS))


def solarize_add(pixels: Pixels, add: int, **_: Any) -> Pixels:
    return _by_table(pixels, np.where(_LEVELS < 128, _LEVELS + add, _LEVELS))


def auto_contrast(pixels: Pixels, **_: Any) -> Pixels:
    return _by_table(pixels, np.stack([_stretched(counts) for counts in _histogram(pixels)], 1))


def equalize(pixels: Pixels, **_: Any) -> Pixels:
    return _by_table(pixels, np.stack([_equalized(counts) for counts in _histogram(pixels)], 1))


def _histogram(pixels: Pixels) -> list[np.ndarray]:
    """Number of pixels at each level, an array (256,) per channel."""
    counts = [cv2.calcHist([pixels], [channel], None, [256], [0, 256]) for channel in range(3)]
    return [channel.reshape(256).astype(np.int64) for channel in counts]


def _stretched(counts: np.ndarray) -> np.ndarray:
    """The table that maps the lowest level in use to 0 and the highest to 255."""
    (used,) = np.nonzero(counts)
    low, high = int(used[0]), int(used[-1])
    if low == high:
        return _LEVELS
    scale = 255.0 / (high - low)
    table: np.ndarray = np.trunc(_LEVELS * scale - low * scale)
    return table


def _equalized(counts: np.ndarray) -> np.ndarray:
    """The table that makes all levels about equally frequent, with Pillow's integer arithmetic."""
    (used,) = np.nonzero(counts)
    step = int(counts.sum() - counts[used[-1]]) // 255
    if len(used) <= 1 or step == 0:
        return _LEVELS
    table: np.ndarray = (step // 2 + np.cumsum(counts) - counts) // step
    return table


def translate_x_rel(pixels: Pixels, share: float, **how: Any) -> Pixels:
    return _translate(pixels, 1, share * pixels.shape[1], **how)


def translate_y_rel(pixels: Pixels, share: float, **how: Any) -> Pixels:
    return _translate(pixels, 0, share * pixels.shape[0], **how)


def _translate(
    pixels: Pixels, axis: int, shift: float, fillcolor: Color, resample: Resampling
) -> Pixels:
    """Moves the image by ``−shift`` pixels along an axis, with a filter: far faster than a warp."""
    whole = math.floor(shift)
    kernel = _taps(shift - whole, resample)
    kernel, anchor = (kernel[None], (1, 0)) if axis == 1 else (kernel[:, None], (0, 1))
    moved = cv2.filter2D(
        pixels, -1, kernel, anchor=anchor, delta=_CUT, borderType=cv2.BORDER_REPLICATE
    )
    gap = min(abs(whole), pixels.shape[axis] - 1)
    kept = slice(gap, None) if whole >= 0 else slice(None, pixels.shape[axis] - gap)
    before, after = (0, gap) if whole >= 0 else (gap, 0)
    if axis == 1:
        moved, borders = moved[:, kept], (0, 0, before, after)
    else:
        moved, borders = moved[kept], (before, after, 0, 0)
    return cv2.copyMakeBorder(moved, *borders, cv2.BORDER_CONSTANT, value=fillcolor)


def _taps(fraction: float, resample: Resampling) -> np.ndarray:
    """Weights of the four pixels around a point that lies ``fraction`` after the second."""
    if resample == Resampling.BILINEAR:
        return np.array([0, 1 - fraction, fraction, 0], dtype=np.float32)
    near, far = np.array([fraction, 1 - fraction]), np.array([1 + fraction, 2 - fraction])
    near = near**3 - 2 * near**2 + 1  # Keys' cubic kernel with Pillow's a = −1
    far = -(far**3) + 5 * far**2 - 8 * far + 4
    return np.array([far[0], near[0], near[1], far[1]], dtype=np.float32)


def shear_x(pixels: Pixels, factor: float, **how: Any) -> Pixels:
    return _affine(pixels, (1, factor, 0, 0, 1, 0), **how)


def shear_y(pixels: Pixels, factor: float, **how: Any) -> Pixels:
    return _affine(pixels, (1, 0, 0, factor, 1, 0), **how)


def rotate(pixels: Pixels, degrees: float, **how: Any) -> Pixels:
    """Rotates counter-clockwise about the centre."""
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    x, y = pixels.shape[1] / 2, pixels.shape[0] / 2
    matrix = (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)
    return _affine(pixels, matrix, **how)


def _affine(
    pixels: Pixels,
    matrix: tuple[float, float, float, float, float, float],
    fillcolor: Color,
    resample: Resampling,
) -> Pixels:
    """Fills the pixel at (x, y) from (a·x + b·y + c, d·x + e·y + f), like Pillow's ``transform``.

    Pillow's coordinates refer to the corners of pixels, OpenCV's to their centres.
    """
    a, b, c, d, e, f = matrix
    centers = np.array([[a, b, c + (a + b - 1) / 2], [d, e, f + (d + e - 1) / 2]])
    return cv2.warpAffine(
        pixels,
        centers,
        (pixels.shape[1], pixels.shape[0]),
        flags=_INTERPOLATION[resample] | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=fillcolor,
    )
