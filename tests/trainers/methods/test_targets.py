import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.tiny import SimulatedRank, on_ranks
from torch import nn

from semigrid.data.storage import open_storage
from semigrid.data.views.augment import ViewSettings, draw_erasure, erase, normalize
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.methods import find_method
from semigrid.trainers.methods.losses import entropy, soft_cross_entropy
from semigrid.trainers.methods.mixup import draw_pseudo_mix
from semigrid.trainers.methods.step import RankShard, StepContext, StepInput, StepTargets, Views
from semigrid.trainers.recipe import SteppedRecipe

PLAIN = {"mixup": 0, "cutmix": 0, "label_smoothing": 0.2, "unlabeled_loss_weight": 3.0}


def recipe(method: str = "semi", **overrides: Any) -> SteppedRecipe:
    page, values = find_method(method).recipe, {**PLAIN, **overrides}
    return page(**{name: value for name, value in values.items() if name in page.model_fields})


def reader() -> nn.Module:
    """Of an image of 1×1 pixels, the first two channels are the two logits."""
    linear = nn.Linear(3, 2, bias=False)
    linear.weight.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    return nn.Sequential(nn.Flatten(), linear)


def images(*logits: tuple[float, float]) -> torch.Tensor:
    return torch.tensor([[a, b, 0.0] for a, b in logits]).view(-1, 3, 1, 1)


ALONE = RankShard(lambda rows, wanted: rows[wanted[0]], 0, 1)


def losses(student: nn.Module, targets: StepTargets) -> list[float]:
    """L_x and, of ``semi``, L_u as the student's passes find them."""
    return [
        (soft_cross_entropy(student(rows.images), rows.targets) * rows.weights).sum().item()
        for rows in targets.rows
    ]


def targets_of(
    method: str,
    step: StepInput,
    settings: SteppedRecipe,
    seed: int = 0,
    teacher: Any = None,
    shard: RankShard = ALONE,
    batch_norm: bool = False,
) -> StepTargets:
    context = StepContext(settings, 2, shard, teacher or reader(), batch_norm)
    page, pool = find_method(method), [] if step.pool is None else step.pool["strong"]
    images = len(step.y) * shard.world_size, len(pool) * shard.world_size
    drawn = page.draws(settings, *images, generator(seed))
    return page.step_targets(replace(step, draws=drawn), context)


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


def test_entropy_by_hand() -> None:
    assert entropy(torch.tensor([5, 5, 0])) == pytest.approx(math.log(2))
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert entropy(torch.tensor([3.0, 1.0])) == pytest.approx(expected)
    assert entropy(torch.tensor([7, 0])) == 0
    assert entropy(torch.zeros(3)) == 0


def test_finetune_without_mixing_is_smoothed_cross_entropy() -> None:
    logits = [(1.0, -1.0), (0.5, 2.0)]
    step = StepInput(Views({"strong": images(*logits)}), torch.tensor([0, 0]))
    targets = targets_of("finetune", step, recipe("finetune"))
    expected = sum(cross_entropy(list(z), [0.9, 0.1]) for z in logits) / 2
    assert losses(reader(), targets) == pytest.approx([expected], rel=1e-5)
    assert len(targets.rows) == 1


def test_finetune_mixes_what_the_student_sees_and_its_targets() -> None:
    # mixup of two mirrored images gives both the same λ-weighted pair
    step = StepInput(Views({"strong": images((4.0, 0.0), (0.0, 4.0))}), torch.tensor([0, 1]))
    settings = recipe("finetune", mixup=0.8, label_smoothing=0)
    [rows] = targets_of("finetune", step, settings).rows
    lam = rows.images[0, 0].item() / 4
    assert 0 < lam < 1
    torch.testing.assert_close(rows.targets, torch.tensor([[lam, 1 - lam], [1 - lam, lam]]))


WEAK = [(math.log(3), 0.0), (0.0, math.log(9)), (math.log(1.5), 0.0), (0.0, math.log(4))]
# the teacher's softmax of the weak views: confidences and pseudo labels
CONFIDENCE, PSEUDO = [0.75, 0.9, 0.6, 0.8], [0, 1, 0, 1]
STRONG = [(0.3, -0.2), (1.0, 0.4), (-0.7, 0.1), (0.2, 0.2)]
LABELED = [(2.0, 0.0), (1.0, 1.0)]


def semi_input() -> StepInput:
    return step_of(images(*LABELED), torch.tensor([0, 1]), images(*WEAK), images(*STRONG))


def step_of(
    x: torch.Tensor, y: torch.Tensor, weak: torch.Tensor, strong: torch.Tensor
) -> StepInput:
    labeled, pool = Views({"strong": x, "weak": x}), Views({"weak": weak, "strong": strong})
    return StepInput(labeled, y, pool)


def semi_by_hand(seed: int, threshold: float) -> tuple[float, float, float]:
    """L_x, L_u and the mask rate, from docs/methods.md §4, one image at a time."""
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
@pytest.mark.parametrize("skip", [True, False])
def test_semi_by_hand(seed: int, threshold: float, skip: bool) -> None:
    settings = recipe(confidence_threshold=threshold, skip_masked=skip)
    targets = targets_of("semi", semi_input(), settings, seed)
    labeled, unlabeled, mask_rate = semi_by_hand(seed, threshold)
    assert losses(reader(), targets) == pytest.approx([labeled, unlabeled], rel=1e-5)
    assert float(targets.averages["mask_rate"]) == mask_rate
    # L = L_x + λ_u L_u
    assert [rows.factor for rows in targets.rows] == [1, 3]
    assert len(targets.rows[1]) == (mask_rate * 4 if skip else 4)
    assert targets.averages["pseudo_counts"].tolist() == [2, 2]  # PSEUDO, masked or not


def test_a_confidence_that_reaches_the_threshold_counts() -> None:
    # softmax of (0, 0) is exactly ½
    step = step_of(
        images((0, 0)), torch.tensor([0]), images((0, 0), (0, 0)), images((1, 0), (0, 1))
    )
    at, above = (targets_of("semi", step, recipe(confidence_threshold=t)) for t in (0.5, 0.5001))
    assert float(at.averages["mask_rate"]) == 1 and losses(reader(), at)[1] > 0
    assert float(above.averages["mask_rate"]) == 0 and losses(reader(), above)[1] == 0


def test_the_teacher_sees_the_weak_and_the_student_the_strong_views() -> None:
    seen = []
    teacher = reader()
    teacher.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    step = semi_input()
    settings = recipe(confidence_threshold=0)
    targets = targets_of("semi", step, settings, teacher=teacher)
    assert len(seen) == 1 and torch.equal(seen[0], step.pool["weak"])
    assert torch.equal(targets.rows[0].images, step.labeled["strong"])
    # CutMix of single pixels pastes nothing: some rows are strong views as they were
    unmixed = draw_pseudo_mix(generator(), 4).use_cutmix
    assert unmixed.any()
    assert torch.equal(targets.rows[1].images[unmixed], step.pool["strong"][unmixed])


def test_rows_are_numbered_over_the_whole_step() -> None:
    # drop paths are drawn by these numbers: labelled images first, then the unlabelled
    targets = targets_of("semi", semi_input(), recipe(confidence_threshold=0.85), seed=3)
    mix = draw_pseudo_mix(generator(3), 4)
    kept = [i for i, j in enumerate(mix.permutation) if max(CONFIDENCE[i], CONFIDENCE[j]) >= 0.85]
    labeled, unlabeled = targets.rows
    assert labeled.numbers.tolist() == [0, 1]
    assert unlabeled.numbers.tolist() == [2 + i for i in kept]


@pytest.mark.parametrize("method", ["finetune", "semi", "fixmatch"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("world_size", [2, 4])
def test_the_rows_do_not_depend_on_how_many_ranks_share_the_batch(
    method: str, seed: int, world_size: int, tmp_path: Path
) -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2, bias=False))
    teacher[1].weight.data = torch.randn(2, 3 * 8 * 8, generator=generator(9)) / 40
    everything = torch.randn(2, 8, 3, 8, 8, generator=generator(seed))
    labels = torch.arange(8) % 2
    with torch.no_grad():
        confidence = teacher(everything[0]).softmax(dim=1).max(dim=1).values.sort().values
    # the second best: two to four of the eight count
    threshold = float(confidence[-2])
    settings = recipe(method, mixup=0.8, cutmix=1.0, confidence_threshold=threshold)

    def targets_on(rank: SimulatedRank) -> StepTargets:
        size = 8 // rank.world_size
        local = slice(rank.rank * size, (rank.rank + 1) * size)
        weak, strong = everything[:, local]
        step = step_of(strong, labels[local], weak, strong)
        shard = RankShard(rank.fetch, rank.rank, rank.world_size)
        with torch.no_grad():
            return targets_of(method, step, settings, seed, teacher, shard)

    checkpoints = Checkpoints(open_storage(tmp_path))
    [whole] = on_ranks(1, checkpoints, targets_on)
    parts = on_ranks(world_size, checkpoints, targets_on)
    assert len(whole.rows) == (1 if method == "finetune" else 2)
    for number, expected in enumerate(whole.rows):
        found = [part.rows[number] for part in parts]
        for of in ("images", "targets", "numbers"):
            joined = torch.cat([getattr(rows, of) for rows in found])
            assert torch.equal(joined, getattr(expected, of)), (number, of)
        # the mean over ranks of Σ weight · CE is the whole batch's
        weights = torch.cat([rows.weights for rows in found]) / world_size
        torch.testing.assert_close(weights, expected.weights)
        sizes = [len(rows) for rows in found]
        assert max(sizes) - min(sizes) <= 1  # no rank waits for one with more to do
    if method != "finetune":
        assert 0 < len(whole.rows[1]) < 8  # the threshold takes part
        for part in parts:
            assert part.averages["pseudo_counts"].equal(whole.averages["pseudo_counts"])


@pytest.mark.parametrize(("world_size", "moves"), [(2, False), (4, False), (3, True), (8, True)])
def test_ranks_that_have_whole_groups_exchange_no_images(
    world_size: int, moves: bool, tmp_path: Path
) -> None:
    # 96 images are mixed in 4 groups of 24: 8 of 12 would be too small
    x, weak, strong = torch.randn(3, 96, 3, 4, 4, generator=generator())
    labels, teacher = torch.arange(96) % 2, lambda weak: weak[:, :2, 0, 0]
    settings = recipe(mixup=0.8, cutmix=1.0, confidence_threshold=0.0)
    moved: list[int] = []

    def targets_on(rank: SimulatedRank) -> StepTargets:
        size = 96 // rank.world_size
        mine = slice(rank.rank * size, (rank.rank + 1) * size)

        def fetch(rows: torch.Tensor, wanted: Any) -> torch.Tensor:
            if rows.ndim == 4:
                moved.append(int((wanted[rank.rank] // size != rank.rank).sum()))
            return rank.fetch(rows, wanted)

        step = step_of(x[mine], labels[mine], weak[mine], strong[mine])
        shard = RankShard(fetch, rank.rank, rank.world_size)
        return targets_of("semi", step, settings, 1, teacher, shard)

    checkpoints = Checkpoints(open_storage(tmp_path))
    [whole] = on_ranks(1, checkpoints, targets_on)
    moved.clear()
    parts = on_ranks(world_size, checkpoints, targets_on)
    assert (sum(moved) > 0) == moves
    for number, expected in enumerate(whole.rows):
        for of in ("images", "targets", "numbers"):
            joined = torch.cat([getattr(part.rows[number], of) for part in parts])
            assert torch.equal(joined, getattr(expected, of)), (number, of)


def test_what_ranks_exchange_travels_as_bytes_and_is_erased_alike(tmp_path: Path) -> None:
    pixels = torch.randint(256, (8, 3, 16, 16), generator=generator(), dtype=torch.uint8)
    settings = ViewSettings(16, erase_prob=0.6)
    erasures = torch.tensor([draw_erasure(settings, seed) for seed in range(8)])
    wanted = torch.randperm(8, generator=generator())
    travelled: list[torch.dtype] = []

    def finish(images: torch.Tensor, erasures: torch.Tensor, rows: Any) -> torch.Tensor:
        rows = torch.arange(len(images)) if rows is None else rows
        return erase(normalize(images, settings), erasures, rows)

    def fetched(rank: SimulatedRank) -> torch.Tensor:
        def fetch(rows: torch.Tensor, wanted: Any) -> torch.Tensor:
            travelled.append(rows.dtype)
            return rank.fetch(rows, wanted)

        shard = RankShard(fetch, rank.rank, rank.world_size)
        mine = shard.deal(torch.arange(8))[rank.rank]
        (erased,) = erasures[mine, 2].nonzero(as_tuple=True)
        views = Views({"strong": pixels[mine]}, {"strong": finish}, erasures[mine], erased)
        return views.fetch("strong", shard.deal(wanted), shard)

    checkpoints = Checkpoints(open_storage(tmp_path))
    [whole] = on_ranks(1, checkpoints, fetched)
    travelled.clear()
    assert torch.equal(torch.cat(on_ranks(2, checkpoints, fetched)), whole)
    assert set(travelled) == {torch.uint8, torch.int64}
    assert 0 < len(erasures[:, 2].nonzero()) < 8


def test_a_single_image_that_counts_leaves_no_rank_without_one(tmp_path: Path) -> None:
    # synchronised batch normalisation would wait for a rank that has no forward to make
    confident = torch.zeros(4, 2)
    confident[2, 0] = 9.0

    def targets_on(rank: SimulatedRank) -> StepTargets:
        mine = slice(rank.rank, rank.rank + 1)
        step = step_of(*(noise[mine] for noise in (x, y, weak, strong)))
        shard = RankShard(rank.fetch, rank.rank, 4)
        settings = recipe(confidence_threshold=0.9, skip_masked=True)

        def teacher(weak: torch.Tensor) -> torch.Tensor:
            return confident[mine]

        return targets_of("semi", step, settings, 0, teacher, shard, batch_norm=True)

    x, weak, strong = torch.randn(3, 4, 3, 8, 8, generator=generator())
    y = torch.arange(4) % 2
    shards = on_ranks(4, Checkpoints(open_storage(tmp_path)), targets_on)
    assert [len(targets.rows[1]) for targets in shards] == [1, 1, 1, 1]  # all there are
    # the image itself, and the one it is the partner of
    assert sum(float(targets.rows[1].weights.sum()) for targets in shards) in (1, 2)
