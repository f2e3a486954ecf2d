"""The files that real folders hold: good ones in every disguise, and bad ones of every kind."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

SIZE = (40, 24)


def picture(size: tuple[int, int] = SIZE, seed: int = 0) -> Image.Image:
    """Red at the top left, blue at the bottom right, smooth between: JPEG hardly changes it."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    red, blue = 255 * (1 - (x + y) / 2), 255 * (x + y) / 2
    pixels = np.stack([red, np.full_like(red, 40 + seed), blue], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def rotated_jpeg() -> bytes:
    """Stored lying on its side, with the EXIF tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise to see it upright
    return saved(picture().rotate(90, expand=True), "jpeg", quality=95, exif=exif)


def with_alpha() -> bytes:
    image = picture().convert("RGBA")
    image.putalpha(Image.new("L", SIZE, 0))
    return saved(image, "png")


def transparent_palette() -> bytes:
    return saved(picture().quantize(8), "png", transparency=0)


def grey16() -> bytes:
    values = np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE[1], SIZE[0])
    return saved(Image.fromarray(values.astype(np.uint16)), "png")


def animated(format: str) -> bytes:
    frames = [picture(), Image.new("RGB", SIZE, "green")]
    return saved(frames[0], format, save_all=True, append_images=frames[1:], duration=100)


def bomb() -> bytes:
    """A PNG of a few bytes whose header promises 60,000 × 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def good() -> dict[str, bytes]:
    return {
        "plain.jpg": saved(picture(), "jpeg", quality=95),
        "grey.jpg": saved(picture().convert("L"), "jpeg"),
        "progressive.jpeg": saved(picture(), "jpeg", progressive=True),
        "plain.png": saved(picture(), "png"),
        "palette.png": saved(picture().quantize(64), "png"),
        "onebit.png": saved(picture().convert("1"), "png"),
        "lossless.webp": saved(picture(), "webp", lossless=True),
        "plain.bmp": saved(picture(), "bmp"),
        "plain.tiff": saved(picture(), "tiff"),
        "rotated.jpg": rotated_jpeg(),
        "alpha.png": with_alpha(),
        "transparent.png": transparent_palette(),
        "grey16.png": grey16(),
        "cmyk.jpg": saved(picture().convert("CMYK"), "jpeg", quality=95),
        "animated.gif": animated("gif"),
        "animated.webp": animated("webp"),
        "wrong-name.png": saved(picture(), "jpeg", quality=95),
        "UPPER.JPG": saved(picture(), "jpeg", quality=95),
    }


def bad() -> dict[str, bytes]:
    whole = saved(picture((200, 200)), "jpeg", quality=95)
    return {
        "empty.jpg": b"",
        "text.jpg": b"<html>404 not found</html>",
        "truncated.jpg": whole[: len(whole) // 2],
        "truncated.png": saved(picture((200, 200)), "png")[:100],
        "header-only.jpg": whole[:20],
        "bomb.png": bomb(),
        "float.tiff": saved(Image.fromarray(np.ones((8, 8), np.float32)), "tiff"),
    }
