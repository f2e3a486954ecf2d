"""Makes an image file fit for training, upright and RGB, or gives the reason why it is not."""

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field

# Raise this number when the same source bytes and settings give another image.
CLEAN_VERSION = 1

ORIENTATION = 0x0112  # the EXIF tag


# of JPEGs and shrunk images that are encoded again; others become PNGs
JPEG_QUALITY = 92


class CleanSettings(BaseModel):
    """How images are cleaned.

    ``max_pixels`` protects against decompression bombs. ``shorter_side`` is the length in pixels to
    which larger images are shrunk (None: never).
    """

    model_config = ConfigDict(frozen=True)
    max_pixels: int = Field(50_000_000, gt=0)
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


class UnusableImageError(ValueError):
    """A file that is no usable image, with the reason."""


def clean_image(content: bytes, settings: CleanSettings) -> CleanImage:
    """Decodes a file's first frame to upright RGB, and keeps the bytes if they show just that.

    Raises ``UnusableImageError`` with the reason: not an image, truncated, too many pixels, or
    pixels that have no RGB meaning.
    """
    with _unusable(content):
        rgb, changed, lossy = _upright(content, settings)
        pixels = hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()
        side = settings.shorter_side
        if side is not None and min(rgb.size) > side:
            changed.append("shrunk")
            scale = side / min(rgb.size)
            size = (max(side, round(rgb.width * scale)), max(side, round(rgb.height * scale)))
            rgb = rgb.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
            lossy = True
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
    with _unusable(content):
        return _upright(content, settings)[0]


@contextmanager
def _unusable(content: bytes) -> Iterator[None]:
    """Turns all errors of Pillow into ``UnusableImageError``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (MemoryError, UnusableImageError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnusableImageError(f"too many pixels: {error}") from error
    except Exception as error:  # damaged bytes make Pillow's decoders raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "cannot identify" in reason:
            reason = "not an image" if content else "an empty file"
        raise UnusableImageError(reason) from error


def _upright(content: bytes, settings: CleanSettings) -> tuple[Image.Image, list[str], bool]:
    """The first frame, upright and RGB; the changes made for that; whether it was a JPEG."""
    image: Image.Image = Image.open(io.BytesIO(content))
    width, height = image.size
    if width * height > settings.max_pixels:
        raise UnusableImageError(
            f"too many pixels: {width} × {height}, the limit is {settings.max_pixels:,}"
        )
    lossy = image.format in ("JPEG", "MPO")
    changed = []
    if getattr(image, "is_animated", False):
        changed.append("first of several frames")
    image.load()  # the file may be truncated after its header
    if image.getexif().get(ORIENTATION, 1) != 1:
        changed.append("turned upright")
        image = ImageOps.exif_transpose(image)
    rgb, converted = _to_rgb(image)
    return rgb, changed + ([converted] if converted else []), lossy


def _to_rgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    """The image in RGB, and its former kind if it needed more than ``convert("RGB")``."""
    if image.mode.startswith("I"):  # 16 bits of grey; plain conversion would clip them to white
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise UnusableImageError(f"{values.min()} to {values.max()} is no grey of 16 bits")
        return Image.fromarray((values / 257 + 0.5).astype(np.uint8)).convert("RGB"), "16-bit grey"
    if image.mode == "F":
        raise UnusableImageError("floating-point pixels have no agreed white")
    if image.has_transparency_data:
        over = Image.new("RGBA", image.size, "white")
        over.alpha_composite(image.convert("RGBA"))
        return over.convert("RGB"), "transparency on white"
    if image.mode == "CMYK":
        return image.convert("RGB"), "CMYK"
    return image.convert("RGB"), None
