import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SimulatedRank, on_ranks
from torch import nn

from data.storage import Storage
from trainers.checkpoint import Checkpoints
from trainers.losses import masked_mean, soft_cross_entropy
from trainers.methods import Sharing, StepInput, finetune, semi
from trainers.mixup import draw_pseudo_mix
from trainers.recipe import Recipe

PLAIN = {"mixup": 0, "cutmix": 0, "label_smoothing": 0.2, "unlabeled_loss_weight": 3.0}


def recipe(**overrides: Any) -> Recipe:
    return Recipe(**{**PLAIN, **overrides})


def reader() -> nn.Module:
    """Of an image of 1×1 pixels, the first two channels are the two logits."""
    linear = nn.Linear(3, 2, bias=False)
    linear.weight.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    return nn.Sequential(nn.Flatten(), linear)


def images(*logits: tuple[float, float]) -> torch.Tensor:
    return torch.tensor([[a, b, 0.0] for a, b in logits]).view(-1, 3, 1, 1)


def alone() -> Sharing:
    return Sharing(lambda rows, permutation: rows[permutation], 0, 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cross_entropy(logits: list[float], target: list[float]) -> float:
    total = math.log(sum(math.exp(z) for z in logits))
    return sum(t * (total - z) for z, t in zip(logits, target, strict=True))


def test_soft_cross_entropy_by_hand() -> None:
    # softmax of (ln 3, 0) is (¾, ¼)
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]])
    losses = soft_cross_entropy(logits, torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    expected = [-math.log(3 / 4), -0.5 * math.log(3 / 4) - 0.5 * math.log(1 / 4)]
    assert losses.tolist() == pytest.approx(expected)


def test_masked_mean_divides_by_all_images() -> None:
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert float(masked_mean(losses, torch.tensor([True, False, False, True]))) == 1.25
    assert float(masked_mean(losses, torch.zeros(4, dtype=torch.bool))) == 0


def test_finetune_without_mixing_is_smoothed_cross_entropy() -> None:
    logits = [(1.0, -1.0), (0.5, 2.0)]
    step = StepInput(images(*logits), torch.tensor([0, 0]))
    loss, parts = finetune(reader(), step, recipe(), 2, generator(), alone())
    expected = sum(cross_entropy(list(z), [0.9, 0.1]) for z in logits) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert parts["loss"].item() == loss.item()


def test_finetune_mixes_what_the_student_sees_and_its_targets() -> None:
    # mixup of two mirrored images gives both the same λ-weighted pair; a linear student's mixed
    # logits are the mix of logits
    step = StepInput(images((4.0, 0.0), (0.0, 4.0)), torch.tensor([0, 1]))
    seen: list[torch.Tensor] = []
    student = reader()
    student.register_forward_hook(lambda module, args, output: seen.append(output))
    loss, _ = finetune(student, step, recipe(mixup=0.8, label_smoothing=0), 2, generator(), alone())
    lam = seen[0][0, 0].item() / 4
    assert 0 < lam < 1
    expected = cross_entropy([4 * lam, 4 * (1 - lam)], [lam, 1 - lam])
    assert loss.item() == pytest.approx(expected, rel=1e-5)


WEAK = [(math.log(3), 0.0), (0.0, math.log(9)), (math.log(1.5), 0.0), (0.0, math.log(4))]
# the teacher's softmax of the weak views: confidences and pseudo labels
CONFIDENCE, PSEUDO = [0.75, 0.9, 0.6, 0.8], [0, 1, 0, 1]
STRONG = [(0.3, -0.2), (1.0, 0.4), (-0.7, 0.1), (0.2, 0.2)]
LABELED = [(2.0, 0.0), (1.0, 1.0)]


def semi_input() -> StepInput:
    return StepInput(images(*LABELED), torch.tensor([0, 1]), images(*WEAK), images(*STRONG))


def semi_by_hand(seed: int, threshold: float) -> tuple[float, float, float]:
    """Labelled loss, unlabelled loss and mask rate, from method.md §4 one image at a time."""
    mix = draw_pseudo_mix(generator(seed), 4)
    smooth = [[0.9, 0.1], [0.1, 0.9]]
    kept = []
    for i, j in enumerate(mix.permutation.tolist()):
        lam = CONFIDENCE[i] / (CONFIDENCE[i] + CONFIDENCE[j])
        if mix.use_cutmix[i]:
            lam = 1.0  # a part of a single pixel cannot be pasted
        u = [lam * a + (1 - lam) * b for a, b in zip(STRONG[i], STRONG[j], strict=True)]
        pair = zip(smooth[PSEUDO[i]], smooth[PSEUDO[j]], strict=True)
        y = [lam * a + (1 - lam) * b for a, b in pair]
        if max(CONFIDENCE[i], CONFIDENCE[j]) >= threshold:
            kept.append(cross_entropy(u, y))
    labeled = sum(cross_entropy(list(z), smooth[y]) for z, y in zip(LABELED, [0, 1], strict=True))
    return labeled / 2, sum(kept) / 4, len(kept) / 4


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("threshold", [0.0, 0.7, 0.85, 0.95])
def test_semi_by_hand(seed: int, threshold: float) -> None:
    settings = recipe(confidence_threshold=threshold)
    loss, parts = semi(reader(), reader(), semi_input(), settings, 2, generator(seed), alone())
    labeled, unlabeled, mask_rate = semi_by_hand(seed, threshold)
    assert float(parts["labeled_loss"]) == pytest.approx(labeled, rel=1e-5)
    assert float(parts["unlabeled_loss"]) == pytest.approx(unlabeled, rel=1e-5)
    assert float(parts["mask_rate"]) == mask_rate
    assert loss.item() == pytest.approx(labeled + 3 * unlabeled, rel=1e-5)


def test_a_confidence_that_reaches_the_threshold_counts() -> None:
    # softmax of (0, 0) is exactly ½
    step = StepInput(
        images((0, 0)), torch.tensor([0]), images((0, 0), (0, 0)), images((1, 0), (0, 1))
    )
    at, above = (
        semi(reader(), reader(), step, recipe(confidence_threshold=t), 2, generator(), alone())[1]
        for t in (0.5, 0.5001)
    )
    assert float(at["mask_rate"]) == 1 and float(at["unlabeled_loss"]) > 0
    assert float(above["mask_rate"]) == 0 and float(above["unlabeled_loss"]) == 0


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = reader(), reader()
    loss, _ = semi(student, teacher, semi_input(), recipe(), 2, generator(), alone())
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in student.parameters())


def test_the_teacher_sees_the_weak_and_the_student_the_strong_views() -> None:
    seen: dict[str, torch.Tensor] = {}
    student, teacher = reader(), reader()
    student.register_forward_hook(lambda module, args, output: seen.update(student=args[0]))
    teacher.register_forward_hook(lambda module, args, output: seen.update(teacher=args[0]))
    step = semi_input()
    semi(student, teacher, step, recipe(), 2, generator(), alone())
    assert torch.equal(seen["teacher"], step.weak)
    assert len(seen["student"]) == 2 + 4
    assert torch.equal(seen["student"][:2], step.x)


@pytest.mark.parametrize("method", ["finetune", "semi"])
@pytest.mark.parametrize("seed", range(4))
def test_the_mean_loss_of_two_ranks_is_the_loss_of_one(
    method: str, seed: int, tmp_path: Path
) -> None:
    # so DDP's mean of gradients is the gradient of the global batch, however the mask falls
    settings = recipe(mixup=0.8, cutmix=1.0, confidence_threshold=0.85)
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    everything = torch.randn(2, 8, 3, 8, 8, generator=generator(seed))
    labels = torch.arange(8) % 2

    def loss_of(rank: SimulatedRank) -> float:
        size = 8 // rank.world_size
        local = slice(rank.rank * size, (rank.rank + 1) * size)
        weak, strong = everything[:, local]
        step = StepInput(strong, labels[local], weak, strong)
        sharing = Sharing(rank.permute, rank.rank, rank.world_size)
        if method == "finetune":
            return finetune(student, step, settings, 2, generator(seed), sharing)[0].item()
        return semi(student, student, step, settings, 2, generator(seed), sharing)[0].item()

    checkpoints = Checkpoints(Storage(tmp_path))
    [one] = on_ranks(1, checkpoints, loss_of)
    two = on_ranks(2, checkpoints, loss_of)
    assert sum(two) / 2 == pytest.approx(one, rel=1e-5)
    assert two[0] != pytest.approx(two[1])  # else the test would not notice a rank's share
