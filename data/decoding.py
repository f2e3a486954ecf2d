"""Decodes image files: the one place that chooses which of Pillow's decoders may see a file."""

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from PIL import Image

# Pillow knows some fifty formats: EPS starts Ghostscript on the file's program, and few of the
# others are well tested. Stereo photographs (MPO) are opened as JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
# Largest image of a dataset: telephones make 200 million pixels, of 8 bytes each while decoding.
MOST_PIXELS = 250_000_000
# Above, a file must be as large as one of its pixels can be: an image of one color as a PNG of one
# bit for each pixel, the densest there is, has a byte for 8,000 of them.
USUAL_PIXELS, PIXELS_OF_BYTE = 50_000_000, 10_000
# Pillow's own limit, which it warns of, and refuses twice as many pixels
Image.MAX_IMAGE_PIXELS = MOST_PIXELS
# what is wrong with a file is said by an error
logging.getLogger("PIL").setLevel(logging.CRITICAL)

HEAD_BYTES = 64  # first bytes of a file that tell its format
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_STARTS = (
    *((_PNG, "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"GIF87a", "GIF"), (b"GIF89a", "GIF")),
    *((b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"II+\0", "TIFF"), (b"MM\0+", "TIFF")),
    *((b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"), (b"\xff\x4f\xff\x51", "JPEG2000")),
    # and those that are not decoded
    *((b"%!PS", "PostScript"), (b"\xc5\xd0\xd3\xc6", "PostScript"), (b"%PDF", "PDF")),
    *((b"8BPS", "Photoshop"), (b"\xff\x0a", "JPEG XL"), (b"\0\0\0\x0cJXL ", "JPEG XL")),
    *((b"<svg", "SVG"), (b"\0\0\1\0", "icon"), (b"version https://git-lfs", "Git LFS pointer")),
)


class UnusableImageError(ValueError):
    """A file that is no usable image, with the reason."""


def format_of(head: bytes) -> str | None:
    """The image format that a file's first ``HEAD_BYTES`` tell, also one that is not decoded."""
    if head[4:8] == b"ftyp":
        brands = head[8 : min(int.from_bytes(head[:4], "big"), HEAD_BYTES)]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        return "HEIC" if any(b in brands for b in (b"mif1", b"msf1", b"heic", b"heix")) else None
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    # two letters are too few to tell these from text
    if head[:2] == b"BM" and head[14:18] in [bytes((n, 0, 0, 0)) for n in (12, 40, 52, 108, 124)]:
        return "BMP"
    if head[:1] == b"P" and head[1:2].isdigit() and head[2:3].isspace():
        return "PPM" if head[3:4].isdigit() or head[3:4] == b"#" else None
    return next((name for start, name in _STARTS if head.startswith(start)), None)


def load_image(
    content: bytes,
    most_pixels: int = MOST_PIXELS,
    reduction: Callable[[tuple[int, int]], int] = lambda size: 1,
) -> tuple[Image.Image, tuple[int, int], bool]:
    """Decodes the first frame of an image file, as it is stored.

    Args:
        most_pixels: limit of width × height.
        reduction: tells for a (width, height) how many times smaller (1, 2, 4, 8) will do; JPEG's
            decoder can make it so at once, others decode all of it.

    Returns:
        the image, its true (width, height), and whether damage outside the pixels, as in texts and
        color profiles, was passed over.

    Raises:
        UnusableImageError: with the reason.
    """
    try:
        return *_load(content, most_pixels, reduction), False
    except UnusableImageError as error:
        bare = _without_texts(content)
        if bare == content:
            raise
        try:
            return *_load(bare, most_pixels, reduction), True
        except UnusableImageError:
            raise error from error.__cause__


def _load(
    content: bytes, most_pixels: int, reduction: Callable[[tuple[int, int]], int]
) -> tuple[Image.Image, tuple[int, int]]:
    with unusable(content):
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
        width, height = size = image.size
        if width * height > most_pixels:
            key = " (max_pixels)" if most_pixels < MOST_PIXELS else ""
            raise UnusableImageError(
                f"too many pixels: {width} × {height}, the limit is {most_pixels:,}{key}"
            )
        if width * height > max(USUAL_PIXELS, len(content) * PIXELS_OF_BYTE):
            raise UnusableImageError(
                f"too many pixels: {width} × {height} in a file of {len(content):,} bytes"
            )
        if image.format == "JPEG" and (times := reduction(size)) > 1:
            image.draft(None, (width // times, height // times))
        image.load()  # the file may be truncated after its header
        return image, size


@contextmanager
def unusable(content: bytes) -> Iterator[None]:
    """Turns all errors of Pillow into ``UnusableImageError``, without its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MemoryError, UnusableImageError):
        raise  # a full machine is no fault of the image
    except Image.DecompressionBombError as error:
        raise UnusableImageError(f"too many pixels: more than {2 * MOST_PIXELS:,}") from error
    except Exception as error:  # damaged bytes make Pillow's decoders raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "cannot identify" in reason:
            kind = format_of(content[:HEAD_BYTES])
            reason = "not an image" if content else "an empty file"
            if kind in FORMATS:
                reason = f"a damaged {kind}"
            elif kind:
                reason = f"{kind}, which is not decoded; convert it to JPEG or PNG"
        raise UnusableImageError(reason) from error


def _without_texts(content: bytes) -> bytes:
    """A PNG or JPEG without the parts that pixels and orientation do not need."""
    with_parts = {_PNG: _png_parts, _JPEG: _jpeg_parts}
    start = next((start for start in with_parts if content.startswith(start)), None)
    return content if start is None else start + b"".join(with_parts[start](content))


def _png_parts(content: bytes) -> Iterator[bytes]:
    at = len(_PNG)
    while at + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, at)
        part = content[at : at + 12 + size]
        is_whole = struct.pack(">I", zlib.crc32(part[4:-4])) == part[-4:]
        kind = part[4:8]
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS") or kind == b"eXIf" and is_whole:
            yield part
        at += len(part)


def _jpeg_parts(content: bytes) -> Iterator[bytes]:
    at = len(_JPEG)
    while content[at : at + 1] == b"\xff" and at + 4 <= len(content):
        marker, size = struct.unpack_from(">xBH", content, at)
        part = content[at : at + 2 + size]
        # APP1 holds the orientation, APP14 how colors are stored in 12 bytes
        kept = not 0xE0 <= marker <= 0xEF or marker == 0xE1 or marker == 0xEE and size >= 14
        if kept and marker != 0xFE:
            yield part
        at += len(part)
        if marker == 0xDA:  # the pixels follow
            break
    yield content[at:]
