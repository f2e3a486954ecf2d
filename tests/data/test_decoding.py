import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from tests.helpers import nasty

from semigrid.data.builder.clean import CleanSettings, clean_image
from semigrid.data.decoding import FORMATS, UnusableImageError, format_of, load_image
from semigrid.data.views.render import BrokenImageError, decode

SETTINGS = CleanSettings()
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def jpeg(*parts: tuple[int, bytes]) -> bytes:
    """A JPEG with parts (marker, content) before all others."""
    plain = nasty.saved(nasty.picture(), "jpeg", quality=95)
    made = [b"\xff" + struct.pack(">BH", m, len(part) + 2) + part for m, part in parts]
    return plain[:2] + b"".join(made) + plain[2:]


def png(kind: bytes, part: bytes, crc: int | None = None) -> bytes:
    """A PNG with one more chunk after its header."""
    plain = nasty.saved(nasty.picture(), "png")
    crc = zlib.crc32(kind + part) if crc is None else crc
    return (
        plain[:33]
        + struct.pack(">I", len(part))
        + kind
        + part
        + struct.pack(">I", crc)
        + plain[33:]
    )


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """An EXIF block of tags: number, type, count, value."""
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + b"\0\0\0\0"


def turned(orientation: int) -> tuple[int, int, int, bytes]:
    return 0x112, 3, 1, struct.pack("<I", orientation)


@pytest.mark.parametrize("format", FORMATS)
def test_the_formats_that_are_decoded_are_told_by_their_first_bytes(format: str) -> None:
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    content = nasty.saved(nasty.picture(), format)
    assert load_image(content)[0].format == format
    assert format_of(content[:64]) == format


def test_other_formats_are_refused_by_name_and_start_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for content, reason in [
        (POSTSCRIPT, "PostScript, which is not decoded; convert it to JPEG or PNG"),
        (
            b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(POSTSCRIPT)) + bytes(20) + POSTSCRIPT,
            "PostScript",
        ),
        (b"8BPS\0\1" + bytes(60), "Photoshop"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (nasty.saved(nasty.picture(), "ico"), "icon"),
        (nasty.saved(nasty.picture(), "tga"), "not an image"),
        (nasty.saved(nasty.picture(), "pcx"), "not an image"),
    ]:
        with pytest.raises(UnusableImageError, match=reason):
            clean_image(content, SETTINGS)
        with pytest.raises(BrokenImageError, match=reason):
            decode(content, "image")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    "content",
    [
        jpeg((0xE1, b"Exif\0\0" + exif(turned(1)))),  # its beginning twice
        jpeg((0xE1, b"Exif\0\0")),
        jpeg((0xE1, b"Exif\0\0" + repr(exif(turned(1))).encode())),
        jpeg((0xE1, exif(turned(6))[:20])),
        jpeg((0xE1, exif(turned(0)))),
        jpeg((0xE1, exif(turned(9)))),
        jpeg((0xE1, exif((0x112, 2, 4, b"six\0")))),
        png(b"eXIf", b"\0\x08\0\x02\x01\x12\0\x03"),
    ],
)
def test_damaged_exif_leaves_a_photograph_as_it_is(content: bytes) -> None:
    found = clean_image(content, SETTINGS)
    assert found.changed == () and found.content == content
    assert decode(content, "image").size == nasty.SIZE


@pytest.mark.parametrize(
    "beside",
    [
        (0x11A, 2, 4, b"72\0\0"),  # a resolution as text
        (0x11A, 10, 1, struct.pack("<I", 38)),  # −1 / 0
        (0x8769, 4, 1, b"\xff\xff\xff\xff"),
    ],
)
def test_a_photograph_is_turned_upright_whatever_stands_beside(
    beside: tuple[int, int, int, bytes],
) -> None:
    content = jpeg((0xE1, exif(turned(6), beside) + struct.pack("<ii", -1, 0)))
    found = clean_image(content, SETTINGS)
    assert found.changed == ("turned upright",)
    assert decode(found.content, "image").size == nasty.SIZE[::-1]


@pytest.mark.parametrize(
    "content",
    [
        png(b"zTXt", b"a\0\0" + zlib.compress(bytes(5_000_000))),
        png(b"iCCP", b"a\0\0" + zlib.compress(bytes(5_000_000))),
        png(b"tEXt", b"Comment\0an umlaut", crc=7),
        png(b"gAMA", b""),
        png(b"pHYs", b"\0"),
        jpeg((0xE0, b"JFXX")),
        jpeg((0xE2, b"MPF\0MM\0*\0\0\0")),
        jpeg((0xED, b"Photoshop 3.0\x008BIM\x03\xed")),
        jpeg((0xEE, b"Adobe\0")),
    ],
)
def test_damage_outside_the_pixels_costs_no_photograph(content: bytes) -> None:
    found = clean_image(content, SETTINGS)
    expected = np.asarray(
        decode(jpeg() if content[:2] == b"\xff\xd8" else nasty.good()["plain.png"], "image")
    )
    assert np.array_equal(np.asarray(decode(content, "image")), expected)
    difference = np.asarray(decode(found.content, "image")).astype(int) - expected
    assert np.abs(difference).max() <= 8  # a JPEG was encoded once more
    if found.changed:
        Image.open(io.BytesIO(found.content)).load()  # other programs can read it, too


def test_the_limit_of_pixels_may_be_above_pillows() -> None:
    content = nasty.saved(Image.new("1", (20_000, 10_000)), "png")
    with pytest.raises(UnusableImageError, match="20000 × 10000, the limit is 50,000,000"):
        clean_image(content, SETTINGS)
    image, size, _ = load_image(content, 200_000_000)
    assert image.size == size == (20_000, 10_000)


def test_a_small_file_has_no_more_pixels_than_it_can_hold() -> None:
    content = nasty.saved(Image.new("L", (15_000, 16)), "webp")
    bomb = content.replace(struct.pack("<HH", 15_000, 16), struct.pack("<HH", 15_000, 15_000))
    with pytest.raises(UnusableImageError, match="15000 × 15000 in a file of"):
        load_image(bomb)


def test_a_dataset_holds_no_image_that_no_training_decodes() -> None:
    content = nasty.bomb()
    with pytest.raises(UnusableImageError, match="too many pixels"):
        clean_image(content, CleanSettings(max_pixels=10**12))
    with pytest.raises(BrokenImageError, match="too many pixels"):
        decode(content, "image")


@pytest.mark.parametrize("format", ["gif", "tiff", "webp"])
def test_the_first_of_several_frames_is_the_image(format: str) -> None:
    found = clean_image(nasty.animated(format), SETTINGS)
    assert found.changed == ("first of several frames",)
    difference = np.asarray(decode(found.content, "i")).astype(int) - np.asarray(nasty.picture())
    assert np.abs(difference).mean() < 12
