"""The fast operations against Pillow's, by way of timm's and torchvision's functions."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment
from torchvision.transforms import functional as pillow

from semigrid.data.views import pixels

SIZE = (60, 44)  # width and height differ, so that axes cannot be taken for each other
FILL = (124, 116, 104)


def photograph(seed: int = 0, noise: float = 6.0, size: tuple[int, int] = SIZE) -> Image.Image:
    """Smooth colours with some grain, every level of every channel in use."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(float)
    return Image.fromarray(
        np.clip(smooth + rng.normal(0, noise, smooth.shape), 0, 255).astype("u1")
    )


def plain(color: int) -> Image.Image:
    return Image.new("RGB", SIZE, (color, color, color))


def difference(name: str, image: Image.Image, *args: Any, **how: Any) -> np.ndarray:
    """Absolute differences in levels (H, W, 3) of an operation and timm's of that name."""
    how = {"fillcolor": FILL, "resample": Image.Resampling.BICUBIC, **how}
    expected = getattr(auto_augment, name)(image, *args, **how)
    found = getattr(pixels, name)(np.array(image), *args, **how)
    assert (found.shape, found.dtype) == ((SIZE[1], SIZE[0], 3), np.uint8)
    return np.abs(np.asarray(expected).astype(int) - found)


@pytest.mark.parametrize("image", [photograph(), photograph(1, noise=60), plain(7), plain(255)])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("auto_contrast", [()]),
        ("equalize", [()]),
        ("invert", [()]),
        ("posterize", [(bits,) for bits in range(1, 9)]),
        ("solarize", [(threshold,) for threshold in (0, 1, 128, 255, 256)]),
        ("solarize_add", [(add,) for add in (0, 37, 110, 128)]),
    ],
)
def test_what_pillow_does_by_a_table_is_the_same(
    image: Image.Image, name: str, arguments: list[Any]
) -> None:
    for args in arguments:
        assert difference(name, image, *args).max() == 0


@pytest.mark.parametrize("image", [photograph(), photograph(1, noise=60), plain(7), plain(255)])
@pytest.mark.parametrize("name", ["brightness", "color", "contrast", "sharpness"])
@pytest.mark.parametrize("factor", [0.01, 0.1, 0.5, 1.0, 1.3, 1.9])
def test_blends_differ_by_a_rounding(image: Image.Image, name: str, factor: float) -> None:
    found = difference(name, image, factor)
    assert found.max() <= 1 and found.mean() < 0.3


@pytest.mark.parametrize("name", ["translate_x_rel", "translate_y_rel"])
@pytest.mark.parametrize("share", [-1.3, -0.45, -0.0917, -0.001, 0.0, 0.013, 0.25, 0.45, 0.99])
@pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR])
def test_translations_differ_by_a_rounding(name: str, share: float, resample: int) -> None:
    found = difference(name, photograph(), share, resample=resample)
    across = found if name == "translate_y_rel" else found.transpose(1, 0, 2)
    # one line beside the border may be taken for the outside
    wrong = (across > 1).any(axis=(1, 2))
    assert wrong.sum() <= 1


@pytest.mark.parametrize(
    ("name", "values"),
    [("rotate", (-30.0, -3.7, 11.0, 30.0)), ("shear_x", (-0.3, 0.017)), ("shear_y", (0.3, -0.2))],
)
@pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR])
def test_warps_lie_where_pillows_lie(name: str, values: tuple[float, ...], resample: int) -> None:
    smooth = photograph(noise=0)
    # what half a pixel beside it would make
    image = np.asarray(smooth).astype(int)
    beside = np.abs(np.diff(image, axis=1)).mean() / 2
    for value in values:
        found = difference(name, smooth, value, resample=resample)
        assert np.quantile(found, 0.9) <= 2 and found.mean() < beside / 3


def test_warps_fill_with_the_color_given() -> None:
    moved = pixels.shear_x(
        np.array(plain(255)), 0.3, fillcolor=FILL, resample=Image.Resampling.BICUBIC
    )
    assert tuple(moved[-1, -1]) == FILL
    moved = pixels.translate_x_rel(
        np.array(plain(255)), 0.2, fillcolor=FILL, resample=Image.Resampling.BICUBIC
    )
    assert tuple(moved[0, -1]) == FILL and tuple(moved[0, 0]) == (255, 255, 255)


def test_all_operations_of_rand_augment_are_there() -> None:
    for name in ("rand-m9-mstd0.5-inc1", "rand-m9"):
        augment = auto_augment.rand_augment_transform(name, {})
        assert {op.aug_fn.__name__ for op in augment.ops} <= set(vars(pixels))


@pytest.mark.parametrize("box", [(0, 0, 44, 60), (5, 9, 30, 20), (40, 50, 4, 10), (43, 59, 1, 1)])
@pytest.mark.parametrize("size", [16, 32, 96])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crops_are_resized_as_pillow_does(
    box: tuple[int, int, int, int], size: int, interpolation: str
) -> None:
    image = photograph(noise=40)
    mode = pillow.InterpolationMode(interpolation)
    expected = pillow.resized_crop(image, *box, [size, size], mode)
    found = pixels.crop_and_resize(np.array(image), *box, size, interpolation)
    off = np.abs(np.asarray(expected).astype(int) - found)
    assert off.max() <= 2 and off.mean() < 0.05


def test_planes_and_flip() -> None:
    image = np.array(photograph())
    batch = np.zeros((3, 3, SIZE[1], SIZE[0]), np.uint8)
    pixels.planes(image, batch[1])
    assert np.array_equal(batch[1], image.transpose(2, 0, 1))
    assert not batch[[0, 2]].any()
    assert np.array_equal(pixels.flip(image), image[:, ::-1])


OPERATIONS = {operation.__name__ for operation in auto_augment.NAME_TO_OP.values()} & set(
    vars(pixels)
)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_operations_leave_their_input_alone(name: str) -> None:
    operation = getattr(pixels, name)
    image = np.array(photograph())
    before = image.copy()
    # rotations, bits, thresholds and factors alike take 1
    args = () if operation in (pixels.invert, pixels.equalize, pixels.auto_contrast) else (1,)
    operation(image, *args, fillcolor=FILL, resample=Image.Resampling.BICUBIC)
    assert np.array_equal(image, before)
