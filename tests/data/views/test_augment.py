import io
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from timm.data import auto_augment
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as pillow

from semigrid.data.views.augment import (
    ViewName,
    ViewSettings,
    draw,
    draw_erasure,
    erase,
    make_view,
    normalize,
    pixel_noise,
    reduction,
    timm_transform,
    view_seed,
)
from semigrid.data.views.render import decode_smaller

SETTINGS = ViewSettings(img_size=32)


@pytest.fixture
def image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("view", ["weak", "strong"])
def test_a_view_depends_on_its_seed_alone(image: Image.Image, view: str) -> None:
    first = make_view(image, SETTINGS, view, seed=7)
    random.random(), np.random.rand(), torch.rand(1)
    random.gauss(0, 1), np.random.randn()  # these two keep a second draw for later
    assert np.array_equal(make_view(image, SETTINGS, view, seed=7), first)
    assert not np.array_equal(make_view(image, SETTINGS, view, seed=8), first)
    assert (first.shape, first.dtype) == ((3, 32, 32), np.uint8)


def test_weak_and_strong_views_differ(image: Image.Image) -> None:
    # without a crop, a flip and a jitter the weak view is the image: all that changes is strong
    plain = replace(
        SETTINGS,
        weak_crop_scale=(1, 1),
        crop_scale=(1, 1),
        crop_ratio=(1, 1),
        hflip=0,
        color_jitter=0,
    )
    square = image.crop((0, 0, 32, 32))
    weak = make_view(square, plain, "weak", seed=0)
    assert np.array_equal(weak, np.asarray(square).transpose(2, 0, 1))
    strong = [make_view(square, plain, "strong", seed=seed) for seed in range(40)]
    # one in four has no operation
    assert sum(not np.array_equal(view, weak) for view in strong) > 20


def test_a_strong_view_without_rand_augment_is_jittered_like_a_weak_one(image: Image.Image) -> None:
    settings = replace(SETTINGS, rand_augment="")
    strong = make_view(image, settings, "strong", seed=3)
    assert np.array_equal(strong, make_view(image, settings, "weak", seed=3))


def test_the_evaluation_view_is_not_random(image: Image.Image) -> None:
    first = make_view(image, SETTINGS, "eval", seed=0)
    random.random(), torch.rand(1)
    assert np.array_equal(make_view(image, SETTINGS, "eval", seed=1), first)


def test_the_evaluation_view_is_the_center_of_the_resized_image() -> None:
    # 56 px: the image is resized to 56 · 256/224 = 64, and 4 px are cut from each border
    image = Image.new("RGB", (128, 128), (255, 255, 255))
    image.paste((0, 0, 0), (8, 8, 120, 120))
    view = make_view(image, replace(SETTINGS, img_size=56), "eval", seed=0)
    assert view.shape == (3, 56, 56)
    assert (view[:, 2:-2, 2:-2] == 0).all()  # bicubic blurs the edge by a pixel or two
    assert view.max() < 128


def test_views_are_made_beside_other_views_and_draws(image: Image.Image) -> None:
    # as in a thread that makes the next batch, and by a client that waits for its storage
    def made(_: int = 0) -> list[np.ndarray]:
        return [make_view(image, SETTINGS, "strong", seed) for seed in range(200)]

    expected, over, interval = made(), threading.Event(), sys.getswitchinterval()

    def draw_on() -> None:
        while not over.is_set():
            random.random()

    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=draw_on)
    thread.start()
    try:
        beside = made()
        with ThreadPoolExecutor(2) as threads:
            views = [list(found)[:-1] for found in threads.map(made, range(2))]
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert all(map(np.array_equal, beside, expected))
    assert all(map(np.array_equal, views[0] + views[1], 2 * expected[:-1]))


def test_views_leave_the_global_generators_alone(image: Image.Image) -> None:
    def drawn() -> list[float]:
        return [random.random(), np.random.rand(), float(torch.rand(1))]

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = drawn()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    for seed in range(20):
        make_view(image, SETTINGS, "strong", seed), make_view(image, SETTINGS, "weak", seed)
    assert drawn() == expected


def test_view_seeds_differ_in_everything_they_are_made_of() -> None:
    seeds = {
        view_seed(seed, number, image_id, view)
        for seed in (0, 1)
        for number in (0, 1, 11)
        for image_id in ("1", "11", "1/1")
        for view in ("weak", "strong", "erase")
    }
    assert len(seeds) == 2 * 3 * 3 * 3
    assert all(0 <= seed < 2**63 for seed in seeds)
    # changing this changes the numbers of every training: raise RECIPE_VERSION then
    assert view_seed(0, 0, "digit-0000", "weak") == 4983280107065750832


def test_normalize_by_hand() -> None:
    settings = ViewSettings(mean=(0.5, 0.0, 1.0), std=(0.5, 1.0, 0.25))
    views = torch.tensor([[[[255]], [[51]], [[0]]]], dtype=torch.uint8)
    # (1 − 0.5)/0.5, (0.2 − 0)/1, (0 − 1)/0.25
    expected = torch.tensor([[[[1.0]], [[0.2]], [[-4.0]]]])
    torch.testing.assert_close(normalize(views, settings), expected)


def erasures_of(seeds: range, probability: float = 1.0, size: int = 64) -> torch.Tensor:
    settings = ViewSettings(img_size=size, erase_prob=probability)
    return torch.tensor([draw_erasure(settings, seed) for seed in seeds])


def erased(images: torch.Tensor, erasures: torch.Tensor) -> torch.Tensor:
    (rows,) = erasures[:, 2].nonzero(as_tuple=True)
    return erase(images.clone(), erasures, rows)


@pytest.mark.parametrize("size", [4, 16, 224])
def test_boxes_are_timms(size: int) -> None:
    eraser = RandomErasing(0.6, mode="const", device="cpu")
    found = 0
    for seed in range(2**62, 2**62 + 300):
        random.seed(seed)
        expected = eraser(torch.ones(3, size, size))
        top, left, height, width, _ = draw_erasure(ViewSettings(size, erase_prob=0.6), seed)
        ours = torch.ones(3, size, size)
        ours[:, top : top + height, left : left + width] = 0
        assert torch.equal(ours, expected)
        found += height > 0
    assert 150 < found < 210


def test_erasing_fills_the_box_and_nothing_else() -> None:
    erasures = erasures_of(range(50), probability=0.5)
    images = erased(torch.full((50, 3, 64, 64), 9.0), erasures)
    hit = 0
    for image, (top, left, height, width, _) in zip(images, erasures.tolist(), strict=True):
        box = torch.zeros(64, 64, dtype=torch.bool)
        box[top : top + height, left : left + width] = True
        assert torch.equal((image != 9.0).all(dim=0), box)
        assert torch.equal((image != 9.0).any(dim=0), box)
        hit += height > 0
    assert 0 < hit < 50


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_an_images_noise_is_the_same_whatever_is_beside_it(layout: torch.memory_format) -> None:
    erasures = erasures_of(range(13), probability=0.7, size=33)
    images = torch.zeros(13, 3, 33, 33).contiguous(memory_format=layout)
    together = erased(images, erasures)
    for parts in ([1] * 13, [6, 7], [2, 11]):
        pairs = zip(images.split(parts), erasures.split(parts), strict=True)
        assert torch.equal(torch.cat([erased(*pair) for pair in pairs]), together)
    # rows without a box do no harm
    assert torch.equal(erase(images.clone(), erasures, torch.arange(13)), together)
    assert torch.equal(erased(images, torch.zeros_like(erasures)), images)


def test_noise_is_normal_and_independent() -> None:
    seeds = erasures_of(range(40), size=8)[:, 4]
    noise = pixel_noise(seeds, 3 * 64 * 64).double()
    count = noise.numel()
    # five deviations of each mean over so many independent numbers
    for power, expected, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs(float((noise**power).mean()) - expected) < 5 * (spread / count) ** 0.5
    at = torch.linspace(-3, 3, 25, dtype=torch.double)
    below = (noise.flatten()[:, None] < at).double().mean(dim=0)
    assert (below - torch.special.ndtr(at)).abs().max() < 2.5 / count**0.5  # Kolmogorov, 1e-5
    assert 4 < noise.abs().max() < 5.5
    # neither neighbours, nor rows, nor channels, nor images are alike; also of adjacent seeds
    for lag in (1, 2, 64, 4096):
        assert abs(float((noise[:, lag:] * noise[:, :-lag]).mean())) < 5 / count**0.5
    assert abs(float((noise[1:] * noise[:-1]).mean())) < 5 / count**0.5
    adjacent = pixel_noise(torch.arange(40), 3 * 64 * 64).double()
    for shift in (1, 2, 16):
        same_place = (adjacent[shift:] * adjacent[:-shift]).mean()
        assert abs(float(same_place)) < 5 / adjacent[shift:].numel() ** 0.5
        assert len(adjacent[0].unique()) > 12_000


def test_an_erasures_noise_seed_is_of_32_bits() -> None:
    seeds = erasures_of(range(2**62, 2**62 + 9))[:, 4]
    assert seeds.tolist() == list(range(9))
    assert (pixel_noise(torch.tensor([2**32 - 1]), 100).isfinite()).all()


def photograph(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Smooth colours, edges and grain: what a photograph has at every scale."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(float)
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    pixels += 40 * ((x // 9 + y // 13) % 2)[..., None] + rng.normal(0, 8, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


VIEWS_OF_TIMM = [
    ("weak", SETTINGS, 0.1),
    ("strong", SETTINGS, 2.0),  # shears and rotations have another cubic kernel
    ("strong", replace(SETTINGS, rand_augment=""), 0.1),
    ("strong", replace(SETTINGS, rand_augment="rand-m15-n3-mmax20-p0.9"), 3.0),
    ("weak", replace(SETTINGS, hflip=0, color_jitter=0, weak_crop_scale=(0.5, 0.5)), 0.1),
]


@pytest.mark.parametrize(("view", "settings", "most"), VIEWS_OF_TIMM)
def test_what_is_drawn_is_what_timm_and_torchvision_make_of_it(
    view: str, settings: ViewSettings, most: float
) -> None:
    image = photograph((57, 48))
    mode = pillow.InterpolationMode(settings.interpolation)
    differences = []
    for seed in range(200):
        drawn = draw(settings, view, seed, image.size)
        expected = pillow.resized_crop(image, *drawn.box, [32, 32], mode)
        expected = pillow.hflip(expected) if drawn.flipped else expected
        for operation, args, how in drawn.operations:
            expected = getattr(auto_augment, operation.__name__)(expected, *args, **how)
        found = make_view(image, settings, view, seed).astype(int)
        differences.append(np.abs(found - np.asarray(expected).transpose(2, 0, 1)).mean())
    assert np.mean(differences) < most and np.median(differences) < 0.1 * max(1, 4 * most)
    # not one is another view: two views of this image are some 50 levels apart
    assert max(differences) < max(1, 5 * most)


def test_crops_and_flips_are_drawn_as_timm_draws_them() -> None:
    settings = replace(SETTINGS, crop_scale=(0.5, 0.6), weak_crop_scale=(0.1, 0.2), hflip=0.3)
    for view, low, high in (("weak", 0.1, 0.2), ("strong", 0.5, 0.6)):
        drawn = [draw(settings, view, seed, (4000, 3000)) for seed in range(2000)]
        boxes = np.array([each.box for each in drawn])
        assert min(boxes.min(0)) >= 0
        assert (boxes[:, 0] + boxes[:, 2]).max() <= 3000 < (boxes[:, 1] + boxes[:, 3]).max() <= 4000
        uniform = np.linspace(low, high, 2000)
        assert ks_2samp(boxes[:, 2] * boxes[:, 3] / 12e6, uniform).pvalue > 1e-3
        shapes = np.log(boxes[:, 3] / boxes[:, 2])
        assert ks_2samp(shapes, np.linspace(np.log(3 / 4), np.log(4 / 3), 2000)).pvalue > 1e-3
        # 600 expected, standard deviation 20
        assert 500 < sum(each.flipped for each in drawn) < 700


Named = list[tuple[str, tuple[Any, ...]]]


def timms_operations(config: str, times: int) -> list[Named]:
    """Names and arguments of what timm's RandAugment does."""
    augment = rand_augment_transform(config, {})

    def noting(name: str) -> Any:
        return lambda done, *args, **_: [*done, (name, args)]

    for each in augment.ops:
        each.aug_fn = noting(each.aug_fn.__name__)
    return [augment([]) for _ in range(times)]


def operations_of(settings: ViewSettings, view: ViewName, times: int) -> list[Named]:
    drawn = [draw(settings, view, seed, (40, 40)).operations for seed in range(times)]
    return [[(each.__name__, args) for each, args, _ in done] for done in drawn]


@pytest.mark.parametrize(
    "config", ["rand-m9-mstd0.5-inc1", "rand-m15-n3-mmax20-p0.9", "rand-m5-n4-p1-tweights"]
)
def test_rand_augment_is_drawn_as_timm_draws_it(config: str) -> None:
    times = 2000
    np.random.seed(0)
    both = [
        operations_of(replace(SETTINGS, rand_augment=config), "strong", times),
        timms_operations(config, times),
    ]
    for number in range(5):  # how many are applied, and how many different ones
        assert abs(np.diff([sum(len(set(done)) == number for done in of) for of in both])) < 160
    ours, timms = ([each for done in of for each in done] for of in both)
    for name in {name for name, _ in timms}:
        args = [[sum(args) for also, args in of if also == name] for of in (ours, timms)]
        expected = len(args[1])
        assert abs(len(args[0]) - expected) < 5 * (2 * expected) ** 0.5
        assert ks_2samp(*args, method="asymp").pvalue > 1e-3


def test_jitter_is_drawn_as_torchvision_draws_it() -> None:
    settings = replace(SETTINGS, color_jitter=0.8)
    found = operations_of(settings, "weak", 3000)
    orders = [tuple(name for name, _ in done) for done in found]
    for order in set(orders):  # 500 expected of each of six, standard deviation 20
        assert 400 < orders.count(order) < 600
    assert len(set(orders)) == 6
    jitter = ColorJitter(*3 * [0.8])
    torch.manual_seed(0)
    get = (jitter.brightness, jitter.contrast, jitter.saturation, None)
    timms = np.array([jitter.get_params(*get)[1:4] for _ in range(3000)])
    for number, name in enumerate(("brightness", "contrast", "color")):
        factors = [dict(done)[name][0] for done in found]
        assert ks_2samp(factors, timms[:, number]).pvalue > 1e-3


def crop_sides(settings: ViewSettings, size: tuple[int, int], seed: int) -> list[int]:
    sides = [draw(settings, view, seed, size).box[2:] for view in ("weak", "strong")]
    return [side for both in sides for side in both]


def test_an_image_is_decoded_no_smaller_than_its_crops_need() -> None:
    found = []
    for seed in range(300):
        size = (800, 600)
        times = reduction(SETTINGS, {"weak": seed, "strong": seed}, size)
        side = min(crop_sides(SETTINGS, size, seed))
        assert side >= times * 64 or times == 1
        assert times == 8 or side < 2 * times * 64
        found.append(times)
    assert set(found) == {2, 4, 8}  # crops of 170 px and more for views of 32
    large = ViewSettings(img_size=224)
    assert reduction(large, {"weak": 0, "strong": 0}, (895, 2000)) == 1


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=95)
    return buffer.getvalue()


def views_of(content: bytes, view: str, seeds: range, smaller: bool) -> list[np.ndarray]:
    made = []
    for seed in seeds:

        def times(size: tuple[int, int], seed: int = seed) -> int:
            return reduction(SETTINGS, {view: seed}, size) if smaller else 1

        image, size = decode_smaller(content, "the-id", times)
        if smaller and times(size) > 1:
            assert image.size[0] < size[0]
        made.append(make_view(np.array(image), SETTINGS, view, seed, size))
    return made


@pytest.mark.parametrize("view", ["weak", "strong"])
def test_a_view_of_a_smaller_decoded_image_is_nearly_the_same(view: str) -> None:
    content = encoded(photograph((803, 599)), "jpeg")
    whole = views_of(content, view, range(60), smaller=False)
    smaller = views_of(content, view, range(60), smaller=True)
    off = [np.abs(a.astype(int) - b).mean() for a, b in zip(whole, smaller, strict=True)]
    apart = np.mean([np.abs(a.astype(int) - b).mean() for a, b in pairwise(whole)])
    assert np.mean(off) < apart / 10


def test_only_jpegs_are_decoded_smaller() -> None:
    image, size = decode_smaller(encoded(photograph((403, 299)), "png"), "the-id", lambda size: 4)
    assert image.size == size == (403, 299)
    for mode in ("L", "RGB", "CMYK"):
        content = encoded(photograph((403, 299)).convert(mode), "jpeg")
        image, size = decode_smaller(content, "the-id", lambda size: 4)
        assert (image.size, image.mode, size) == ((101, 75), "RGB", (403, 299))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 500), (500, 1)])
@pytest.mark.parametrize("view", ["weak", "strong"])
def test_the_smallest_images_have_views(size: tuple[int, int], view: str) -> None:
    image = Image.new("RGB", size, (200, 100, 50))
    for seed in range(200):
        assert make_view(image, SETTINGS, view, seed).shape == (3, 32, 32)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(3, 97), (100, 3), (1, 250), (33, 1)])
def test_the_view_of_a_thin_image_is_the_part_that_timm_keeps(
    size: tuple[int, int], interpolation: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    settings = ViewSettings(img_size=32, interpolation=interpolation)
    found = make_view(Image.fromarray(pixels), settings, "eval", 0)
    expected = np.asarray(timm_transform(settings, "eval")(Image.fromarray(pixels)))
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert np.abs(found.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("view", ["weak", "strong", "eval"])
@pytest.mark.parametrize("size", [(2_000_000, 1), (1, 2_000_000)])
def test_a_spacer_of_web_pages_takes_no_more_memory_than_others(
    size: tuple[int, int], view: ViewName
) -> None:
    # resized as a whole it would have more pixels than Pillow can count
    found = make_view(Image.new("RGB", size, "red"), SETTINGS, view, 0)
    assert found.shape == (3, SETTINGS.img_size, SETTINGS.img_size)
    if view == "eval":
        assert (found == np.array([255, 0, 0]).reshape(3, 1, 1)).all()


def test_no_view_posterises_by_pillow() -> None:
    settings = replace(SETTINGS, rand_augment="rand-m10-n8-mstd0-inc1")
    drawn = [
        each for seed in range(30) for each in draw(settings, "strong", seed, (4, 4)).operations
    ]
    names = {operation.__name__: operation for operation, _, _ in drawn}
    assert {function.__module__ for function in names.values()} == {"semigrid.data.views.pixels"}
    # 0 bits, which Pillow 13 refuses
    assert (names["posterize"](np.full((4, 4, 3), 255, np.uint8), 0) == 0).all()
