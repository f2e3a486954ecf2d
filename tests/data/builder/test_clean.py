import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.helpers import nasty

from semigrid.data.builder.clean import CleanImage, CleanSettings, clean_image
from semigrid.data.decoding import UnusableImageError
from semigrid.data.views.render import decode

SETTINGS = CleanSettings()


def seen(found: CleanImage) -> np.ndarray:
    """The pixels as a training decodes them."""
    return np.asarray(decode(found.content, "image")).astype(int)


@pytest.mark.parametrize("name", nasty.good())
def test_every_good_image_is_kept_as_it_should_look(name: str) -> None:
    found = clean_image(nasty.good()[name], SETTINGS)
    pixels = seen(found)
    assert pixels.shape == (nasty.SIZE[1], nasty.SIZE[0], 3)
    if name == "alpha.png":
        assert (pixels == 255).all()  # wholly transparent: white
    elif name == "grey16.png":
        assert pixels[0, 0].tolist() == [0, 0, 0] and pixels[-1, -1].tolist() == [255] * 3
        assert abs(pixels.mean() - 127.5) < 1  # not clipped
    elif name not in ("grey.jpg", "onebit.png", "transparent.png"):
        difference = np.abs(pixels - np.asarray(nasty.picture()).astype(int))
        assert difference.mean() < 12, difference.mean()  # palettes and JPEG cost a little
    again = clean_image(found.content, SETTINGS)
    assert again.content == found.content and again.changed == ()  # nothing is left to do


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("plain.jpg", ()),
        ("palette.png", ()),
        ("grey.jpg", ()),
        ("rotated.jpg", ("turned upright",)),
        ("alpha.png", ("transparency on white",)),
        ("transparent.png", ("transparency on white",)),
        ("grey16.png", ("16-bit grey",)),
        ("cmyk.jpg", ("CMYK",)),
        ("animated.gif", ("first of several frames",)),
    ],
)
def test_bytes_are_kept_unless_they_would_be_seen_otherwise(
    name: str, changed: tuple[str, ...]
) -> None:
    content = nasty.good()[name]
    found = clean_image(content, SETTINGS)
    assert found.changed == changed
    assert (found.content == content) == (not changed)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.jpg", "an empty file"),
        ("text.jpg", "not an image"),
        ("truncated.jpg", "truncated"),
        ("truncated.png", "truncated"),
        ("header-only.jpg", "a damaged JPEG"),
        ("bomb.png", "too many pixels"),
        ("float.tiff", "floating-point"),
    ],
)
def test_every_bad_image_has_its_reason(name: str, reason: str) -> None:
    with pytest.raises(UnusableImageError, match=reason):
        clean_image(nasty.bad()[name], SETTINGS)


def test_the_limit_of_pixels_is_the_settings() -> None:
    content = nasty.good()["plain.png"]
    assert clean_image(content, CleanSettings(max_pixels=40 * 24)).content == content
    with pytest.raises(UnusableImageError, match=r"40 × 24, the limit is 959 \(max_pixels\)"):
        clean_image(content, CleanSettings(max_pixels=959))


def test_shrinking_keeps_the_shape_and_never_enlarges() -> None:
    content = nasty.saved(nasty.picture((200, 100)), "png")
    found = clean_image(content, CleanSettings(shorter_side=50))
    assert Image.open(io.BytesIO(found.content)).size == (100, 50)
    assert found.changed == ("shrunk",)
    assert clean_image(content, CleanSettings(shorter_side=100)).content == content
    assert clean_image(content, CleanSettings(shorter_side=300)).content == content


def test_the_same_pixels_are_the_same_whatever_wraps_them() -> None:
    png, bmp, webp = (
        clean_image(nasty.good()[name], SETTINGS).pixels
        for name in ("plain.png", "plain.bmp", "lossless.webp")
    )
    assert png == bmp == webp
    assert clean_image(nasty.saved(nasty.picture(seed=1), "png"), SETTINGS).pixels != png
    # 2 × 3 and 3 × 2 pixels of one colour hold the same bytes
    flat = [nasty.saved(Image.new("RGB", size, "red"), "png") for size in ((2, 3), (3, 2))]
    assert len({clean_image(content, SETTINGS).pixels for content in flat}) == 2


@given(content=st.binary(max_size=300), at=st.integers(0, 400), value=st.integers(0, 255))
def test_no_bytes_at_all_make_it_fall_over(content: bytes, at: int, value: int) -> None:
    damaged = bytearray(nasty.good()["plain.png"])
    damaged[at % len(damaged)] = value
    for candidate in (content, bytes(damaged), nasty.good()["plain.jpg"][:60] + content):
        try:
            assert decode(clean_image(candidate, SETTINGS).content, "image").mode == "RGB"
        except UnusableImageError as error:
            assert str(error)
