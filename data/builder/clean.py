"""Makes an image file fit for training, upright and RGB, or gives the reason why it is not."""

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from semigrid.data.decoding import (
    MOST_PIXELS,
    USUAL_PIXELS,
    UnusableImageError,
    load_image,
    unusable,
)

# Raise this number when the same source bytes and settings give another image.
CLEAN_VERSION = 1

ORIENTATION = 0x0112  # the EXIF tag
TURNS: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# of JPEGs and shrunk images that are encoded again; others become PNGs
JPEG_QUALITY = 92


class CleanSettings(BaseModel):
    """How images are cleaned.

    ``max_pixels`` protects against decompression bombs. ``shorter_side`` is the length in pixels to
    which larger images are shrunk (None: never).
    """

    model_config = ConfigDict(frozen=True)
    max_pixels: int = Field(USUAL_PIXELS, gt=0)
    shorter_side: int | None = Field(None, gt=0)


@dataclass(frozen=True)
class CleanImage:
    """File bytes that any decoder reads as an upright RGB image.

    ``pixels`` is the SHA-256 of the source's size and RGB pixels: exact duplicates have the same
    one, whatever their file format. ``changed`` gives the reasons why the bytes differ from the
    source's; it is empty where they do not.
    """

    content: bytes
    pixels: str
    changed: tuple[str, ...] = ()


def clean_image(content: bytes, settings: CleanSettings) -> CleanImage:
    """Decodes a file's first frame to upright RGB, and keeps the bytes if they show just that.

    Raises ``UnusableImageError`` with the reason: not an image, truncated, too many pixels, or
    pixels that have no RGB meaning.
    """
    with unusable(content):
        rgb, changed, lossy = _upright(content, settings)
        pixels = hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()
        side = settings.shorter_side
        if side is not None and min(rgb.size) > side:
            changed.append("shrunk")
            scale = side / min(rgb.size)
            size = (max(side, round(rgb.width * scale)), max(side, round(rgb.height * scale)))
            rgb = rgb.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
            lossy = True
        if rgb.width * rgb.height > MOST_PIXELS:
            raise UnusableImageError(
                f"too many pixels to train on: {rgb.width} × {rgb.height}, the limit is "
                f"{MOST_PIXELS:,}; shrink such images by shorter_side"
            )
        if changed:
            buffer = io.BytesIO()
            if lossy:
                rgb.save(buffer, "jpeg", quality=JPEG_QUALITY, subsampling=0)
            else:
                rgb.save(buffer, "png")
            content = buffer.getvalue()
        return CleanImage(content, pixels, tuple(changed))


def decode_upright(content: bytes, settings: CleanSettings) -> Image.Image:
    """The upright RGB image that ``clean_image`` would keep, in full size and not encoded.

    Raises ``UnusableImageError`` like ``clean_image``.
    """
    with unusable(content):
        return _upright(content, settings)[0]


def _upright(content: bytes, settings: CleanSettings) -> tuple[Image.Image, list[str], bool]:
    """The first frame, upright and RGB; the changes made for that; whether it was a JPEG."""
    image, _, damaged = load_image(content, settings.max_pixels)
    lossy = image.format in ("JPEG", "MPO")
    changed = ["damage outside the pixels"] if damaged else []
    if getattr(image, "is_animated", False):
        changed.append("first of several frames")
    if (turn := _turn(image)) is not None:
        changed.append("turned upright")
        image = image.transpose(turn)
    rgb, converted = _to_rgb(image)
    return rgb, changed + ([converted] if converted else []), lossy


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What the image's EXIF asks for; None where it asks for nothing, or is damaged."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION))
    except MemoryError:
        raise
    except Exception:  # the pixels are whole: cameras and programs write all kinds of EXIF
        return None


def _to_rgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    """The image in RGB, and its former kind if it needed more than ``convert("RGB")``."""
    if image.mode.startswith("I"):  # 16 bits of grey; plain conversion would clip them to white
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise UnusableImageError(f"{values.min()} to {values.max()} is no grey of 16 bits")
        table = (np.arange(0x10000) / 257 + 0.5).astype(np.uint8)
        return Image.fromarray(table[values]).convert("RGB"), "16-bit grey"
    if image.mode == "F":
        raise UnusableImageError("floating-point pixels have no agreed white")
    if image.has_transparency_data:
        over = Image.new("RGBA", image.size, "white")
        over.alpha_composite(image.convert("RGBA"))
        return over.convert("RGB"), "transparency on white"
    if image.mode == "CMYK":
        return image.convert("RGB"), "CMYK"
    return image.convert("RGB"), None
