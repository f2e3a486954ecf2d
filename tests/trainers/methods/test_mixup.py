import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data.mixup import Mixup

from semigrid.trainers.methods.mixup import (
    LabeledMix,
    PseudoMix,
    boxes,
    draw_labeled_mix,
    draw_pseudo_mix,
    group_count,
    mix_labeled,
    pseudo_mix,
    smooth_one_hot,
)

unit = st.floats(0, 1, exclude_max=True, width=32)


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def mirrored(
    images: torch.Tensor, targets: torch.Tensor, mix: LabeledMix
) -> tuple[torch.Tensor, torch.Tensor]:
    return mix_labeled(images, targets, images.flip(0), targets.flip(0), mix)


def mixed_pairs(
    images: torch.Tensor, targets: torch.Tensor, confidence: torch.Tensor, mix: PseudoMix
) -> tuple[torch.Tensor, torch.Tensor]:
    j = mix.permutation
    return pseudo_mix(
        *(images, images[j], targets, targets[j], confidence, confidence[j]),
        mix.use_cutmix,
        mix.centers,
    )


def test_smooth_one_hot_by_hand() -> None:
    # ε = 0.2 over K = 4: 0.8 + 0.05 for the class, 0.05 for the others
    expected = torch.tensor([[0.05, 0.85, 0.05, 0.05], [0.05, 0.05, 0.05, 0.85]])
    torch.testing.assert_close(smooth_one_hot(torch.tensor([1, 3]), 4, 0.2), expected)
    assert smooth_one_hot(torch.tensor([1]), 3, 0.0).tolist() == [[0, 1, 0]]


@given(area=unit, y=unit, x=unit, height=st.integers(1, 40), width=st.integers(1, 40))
def test_covered_is_the_masks_true_share(
    area: float, y: float, x: float, height: int, width: int
) -> None:
    mask, covered = boxes(height, width, torch.tensor([area]), torch.tensor([[y, x]]))
    assert mask.shape == (1, 1, height, width)
    assert float(covered) == pytest.approx(float(mask.float().mean()), abs=1e-6)
    # clipping and whole pixels make a box smaller, never larger
    assert float(covered) <= area + 1e-6


def test_a_box_by_hand() -> None:
    # a quarter of 8×8 is 4×4; centred on (4, 4) it reaches from 2 to 6
    mask, covered = boxes(8, 8, torch.tensor([0.25, 0.25]), torch.tensor([[0.5, 0.5], [0.0, 0.5]]))
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:6, 2:6] = True
    assert torch.equal(mask[0, 0], expected)
    # centred on the upper border, half of it is clipped
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[0:2, 2:6] = True
    assert torch.equal(mask[1, 0], expected)
    assert covered.tolist() == [0.25, 0.125]


def test_a_box_of_odd_sides_keeps_its_area() -> None:
    # 25 of 81 pixels are a box of 5×5; halving 5 twice and rounding down makes it 4×4
    _, covered = boxes(9, 9, torch.tensor([25.01 / 81]), torch.tensor([[0.5, 0.5]]))
    assert float(covered) == pytest.approx(25 / 81)


def timm_mixed(
    images: torch.Tensor, labels: torch.Tensor, seed: int, **alphas: float
) -> tuple[torch.Tensor, torch.Tensor]:
    np.random.seed(seed)
    mixup = Mixup(**alphas, label_smoothing=0.1, num_classes=5)
    mixed, targets = mixup(images.clone(), labels)
    return mixed, targets


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("use_cutmix", [False, True])
def test_labeled_mixing_is_timms(seed: int, use_cutmix: bool) -> None:
    images, labels = noise(4, 3, 16, 16), torch.tensor([0, 1, 2, 4])
    alphas = {"mixup_alpha": 0.0 if use_cutmix else 0.8, "cutmix_alpha": float(use_cutmix)}
    expected, expected_targets = timm_mixed(images, labels, seed, **alphas)

    # timm draws whether to mix, λ and, for CutMix, the box's centre, in this order
    np.random.seed(seed)
    np.random.rand()
    lam = float(np.random.beta(1.0, 1.0) if use_cutmix else np.random.beta(0.8, 0.8))
    center = (0.0, 0.0)
    if use_cutmix:
        center = ((np.random.randint(0, 16) + 0.5) / 16, (np.random.randint(0, 16) + 0.5) / 16)

    mix = LabeledMix(torch.tensor(use_cutmix), torch.tensor(lam), torch.tensor(center))
    mixed, targets = mirrored(images, smooth_one_hot(labels, 5, 0.1), mix)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(targets, expected_targets)


def test_no_mixing_changes_nothing() -> None:
    assert draw_labeled_mix(torch.Generator(), mixup=0, cutmix=0) is None


def test_the_draw_chooses_mixup_or_cutmix_with_their_own_alpha() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [draw_labeled_mix(generator, mixup=0.8, cutmix=1.0) for _ in range(4000)]
    cutmix = np.array([float(draw.lam) for draw in draws if draw.use_cutmix])
    mixup = np.array([float(draw.lam) for draw in draws if not draw.use_cutmix])
    assert 1850 < len(cutmix) < 2150  # half, give or take five standard deviations
    # Beta(α, α) has mean ½ and variance 1 / (4 (2α + 1))
    assert cutmix.mean() == pytest.approx(0.5, abs=0.03)
    assert mixup.mean() == pytest.approx(0.5, abs=0.03)
    assert cutmix.var() == pytest.approx(1 / 12, abs=0.008)
    assert mixup.var() == pytest.approx(1 / 10.4, abs=0.008)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0)])
def test_one_of_the_two_alone(mixup: float, cutmix: float) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [draw_labeled_mix(generator, mixup, cutmix) for _ in range(50)]
    assert {bool(draw.use_cutmix) for draw in draws} == {cutmix > 0}


def test_pseudo_mixup_of_two_images_by_hand() -> None:
    # confidences 0.6 and 0.2: λ is 0.6/0.8 = ¾ for the first, ¼ for the second
    images = torch.stack([torch.full((3, 2, 2), 8.0), torch.full((3, 2, 2), 4.0)])
    mix = PseudoMix(torch.tensor([1, 0]), torch.tensor([False, False]), torch.zeros(2, 2))
    smooth = smooth_one_hot(torch.tensor([0, 1]), 2, 0.2)
    mixed, targets = mixed_pairs(images, smooth, torch.tensor([0.6, 0.2]), mix)
    # ¾·8 + ¼·4 = 7 and ¼·4 + ¾·8 = 7: the two weigh the same pair alike
    torch.testing.assert_close(mixed, torch.full((2, 3, 2, 2), 7.0))
    # smooth labels (0.9, 0.1) and (0.1, 0.9): ¾·0.9 + ¼·0.1 = 0.7
    torch.testing.assert_close(targets, torch.tensor([[0.7, 0.3], [0.7, 0.3]]))


def test_pseudo_cutmix_of_two_images_by_hand() -> None:
    # confidences 0.75 and 0.25 on 8×8: image 0 takes a quarter, 4×4, of image 1 at (2..6, 2..6)
    images = torch.stack([torch.full((3, 8, 8), 1.0), torch.zeros(3, 8, 8)])
    mix = PseudoMix(torch.tensor([1, 0]), torch.tensor([True, False]), torch.full((2, 2), 0.5))
    mixed, targets = mixed_pairs(images, torch.eye(2), torch.tensor([0.75, 0.25]), mix)
    expected = torch.ones(3, 8, 8)
    expected[:, 2:6, 2:6] = 0
    assert torch.equal(mixed[0], expected)
    torch.testing.assert_close(targets[0], torch.tensor([0.75, 0.25]))
    # image 1 is mixed with the unmixed image 0, not with what image 0 has become
    torch.testing.assert_close(mixed[1], torch.full((3, 8, 8), 0.75))


def drawn_mix(size: int, seed: int) -> PseudoMix:
    return draw_pseudo_mix(torch.Generator().manual_seed(seed), size)


@given(seed=st.integers(0, 10_000))
def test_pseudo_mix_keeps_its_promises(seed: int) -> None:
    size = 8
    draws = torch.Generator().manual_seed(seed + 1)
    # image i is i everywhere: a mixed pixel tells where it is from
    images = torch.arange(size).float().view(-1, 1, 1, 1).expand(size, 3, 16, 16).clone()
    confidence = torch.rand(size, generator=draws) * 0.9 + 0.1
    # every image its own class, so that λ can be read from the targets
    mix = drawn_mix(size, seed)
    mixed, targets = mixed_pairs(images, torch.eye(size), confidence, mix)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(size))
    for i in range(size):
        j = int(mix.permutation[i])
        if i == j:
            assert torch.equal(mixed[i], images[i])
            continue
        lam = float(targets[i, i])
        assert float(targets[i, j]) == pytest.approx(1 - lam, abs=1e-6)
        if mix.use_cutmix[i]:
            assert set(mixed[i].unique().tolist()) <= {float(i), float(j)}
            assert lam == pytest.approx(float((mixed[i] == i).float().mean()), abs=1e-6)
        else:
            share = float(confidence[i] / (confidence[i] + confidence[j]))
            assert lam == pytest.approx(share, abs=1e-6)
            torch.testing.assert_close(mixed[i], images[i] * share + images[j] * (1 - share))


@pytest.mark.parametrize(
    ("images", "groups", "expected"),
    [
        (640, 8, 8),
        (128, 8, 8),
        (96, 8, 4),
        (96, 3, 3),
        (100, 8, 4),
        (31, 8, 1),
        (16, 1, 1),
        (4, 8, 1),
    ],
)
def test_partners_are_of_one_group(images: int, groups: int, expected: int) -> None:
    assert group_count(images, groups) == expected
    size = images // expected
    mix = draw_pseudo_mix(torch.Generator().manual_seed(3), images, groups)
    assert torch.equal(mix.permutation.sort().values, torch.arange(images))
    assert torch.equal(mix.permutation // size, torch.arange(images) // size)
    others = mix.permutation % size
    # each group has a permutation of its own
    assert expected == 1 or len({tuple(part.tolist()) for part in others.split(size)}) == expected


def test_half_of_the_pseudo_mixes_are_cutmix_and_partners_are_a_permutation() -> None:
    mix = drawn_mix(4000, seed=0)
    assert torch.equal(mix.permutation.sort().values, torch.arange(4000))
    assert 1850 < int(mix.use_cutmix.sum()) < 2150
    assert mix.centers.shape == (4000, 2)
    assert float(mix.centers.min()) >= 0 and float(mix.centers.max()) < 1
