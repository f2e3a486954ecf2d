import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.tiny import (
    SimulatedRank,
    Unkept,
    counted,
    first_rows,
    on_ranks,
    tiny_model,
    tiny_recipe,
)
from torch import nn

from semigrid.data.batches import EvalBatches
from semigrid.data.schema import Dataset
from semigrid.data.storage import open_storage
from semigrid.data.views.augment import ViewSettings, make_view, normalize
from semigrid.data.views.render import decode
from semigrid.trainers.evaluation.choose import is_better
from semigrid.trainers.evaluation.evaluate import eval_mode, evaluate, evaluate_all
from semigrid.trainers.evaluation.predictions import Predictions
from semigrid.trainers.evaluation.scores import Metric
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime

VIEWS = ViewSettings(img_size=16)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(open_storage(tmp_path))


def predictions(labels: list[int], probabilities: list[list[float]]) -> Predictions:
    ids = [str(i) for i in range(len(labels))]
    return Predictions(ids, np.array(labels), np.array(probabilities))


def test_metrics_by_hand() -> None:
    rows = [
        [0.5, 0.1, 0.1, 0.1, 0.15, 0.05],  # right
        [0.1, 0.3, 0.4, 0.1, 0.05, 0.05],  # wrong, the truth is second
        [0.3, 0.25, 0.2, 0.15, 0.09, 0.01],  # wrong, the truth is sixth of six
        [0.05, 0.05, 0.1, 0.6, 0.1, 0.1],  # right
    ]
    # on four classes of one image each, with 1, 1, 2 and 4 of 8 labels
    shares = np.array([1, 1, 0, 4, 0, 2]) / 8
    metrics = predictions([0, 1, 5, 3], rows).metrics(shares)
    assert metrics["acc1"] == 50
    assert metrics["acc5"] == 75
    expected = -(math.log(0.5) + math.log(0.3) + math.log(0.01) + math.log(0.6)) / 4
    assert metrics["ce"] == pytest.approx(expected)
    assert metrics["acc1_natural"] == pytest.approx(100 * (1 + 4) / 8)
    assert metrics["acc5_natural"] == pytest.approx(100 * (1 + 1 + 4) / 8)
    logs = math.log(0.5) + math.log(0.3) + 2 * math.log(0.01) + 4 * math.log(0.6)
    assert metrics["ce_natural"] == pytest.approx(-logs / 8)
    assert {type(value) for value in metrics.values()} == {float}  # they go into JSON


def test_five_classes_or_fewer_are_all_in_the_top_five() -> None:
    metrics = predictions([0, 1], [[0.2, 0.8], [0.3, 0.7]]).metrics(np.ones(2))
    assert (metrics["acc1"], metrics["acc5"]) == (50, 100)


def test_a_class_that_does_not_occur_is_still_a_class() -> None:
    metrics = predictions([0, 0], [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]).metrics(np.ones(3))
    assert metrics["ce"] == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_what_predictions_are_worth_as_pseudo_labels() -> None:
    rows = [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]]  # two of them wrong, at 0.7 and 0.8
    found = predictions([0, 0, 0, 0], rows)
    assert found.confident(0.7) == {"pseudo_coverage": 0.75, "pseudo_accuracy": 1 / 3}
    assert found.confident(0.85) == {"pseudo_coverage": 0.25, "pseudo_accuracy": 1.0}
    assert found.confident(0.95) == {"pseudo_coverage": 0.0}  # no score is not a score of 0


class Constant(nn.Module):
    """The same logits for every image."""

    def __init__(self, logits: list[float]):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(images), -1)


def run(model: nn.Module, digits: Dataset, runtime: Any, rows: int = 20) -> Predictions:
    return evaluate(model, val_batches(digits, runtime, rows), VIEWS, runtime)


def val_batches(digits: Dataset, runtime: Any, rows: int) -> EvalBatches:
    table = first_rows(digits, "val", rows)
    return EvalBatches(table, VIEWS, 7, runtime.rank, runtime.world_size)


def two_models() -> dict[str, nn.Module]:
    return {f"seed {seed}": tiny_model(tiny_recipe("finetune"), seed) for seed in range(2)}


def test_a_confident_mistake_has_a_finite_cross_entropy(
    digits: Dataset, checkpoints: Checkpoints
) -> None:
    # in float32 a difference of 110 in the logits is a probability of 0
    runtime = Runtime(checkpoints, device="cpu")
    found = run(Constant([110.0] + [0.0] * 9), digits, runtime)
    wrong = float((found.labels != 0).mean())
    assert found.probabilities[:, 1].min() > 0
    assert 0 < found.metrics(np.ones(10))["ce"] <= 110 * wrong + 1e-6


def test_predictions_are_sorted_by_id_and_each_is_the_models_own(
    digits: Dataset, checkpoints: Checkpoints
) -> None:
    model = tiny_model(tiny_recipe("finetune"))
    found = run(model, digits, Runtime(checkpoints, device="cpu"))
    table = first_rows(digits, "val", 20)
    assert found.ids == sorted(table.ids)
    model.eval()
    for image_id, label, probabilities in zip(
        found.ids, found.labels, found.probabilities, strict=True
    ):
        row = table.ids.index(image_id)
        view = make_view(decode(table.images[row], image_id), VIEWS, "eval", 0)
        with torch.no_grad():
            logits = model(normalize(torch.tensor(view[None]), VIEWS))
        assert label == table.labels[row]
        assert probabilities == pytest.approx(logits.softmax(dim=1)[0].tolist(), abs=1e-5)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_any_number_of_ranks_predicts_every_image_once(
    digits: Dataset, checkpoints: Checkpoints, world_size: int
) -> None:
    models = {name: model.eval() for name, model in two_models().items()}

    def work(rank: SimulatedRank) -> dict[str, Predictions]:
        return evaluate_all(models, val_batches(digits, rank, 19), VIEWS, rank)

    [alone] = on_ranks(1, checkpoints, work)
    for found in on_ranks(world_size, checkpoints, work):  # all ranks know the whole
        assert found.keys() == alone.keys() == models.keys()
        for name, expected in alone.items():
            assert len(expected.ids) == len(set(expected.ids)) == 19  # divides by none of them
            assert found[name].ids == expected.ids
            assert found[name].labels.tolist() == expected.labels.tolist()
            same = np.array_equal(found[name].probabilities, expected.probabilities)
            assert same  # to the last digit


def test_models_in_one_pass_predict_what_each_does_by_itself(
    digits: Dataset, checkpoints: Checkpoints
) -> None:
    models, runtime = two_models(), Runtime(checkpoints, device="cpu")
    table, taken = counted(first_rows(digits, "val", 20))
    found = evaluate_all(models, Unkept(table, VIEWS, 7), VIEWS, runtime)
    assert taken == list(range(20))  # once for both
    order = np.argsort(table.ids)
    for name, model in models.items():
        rows = []
        with eval_mode(model), torch.inference_mode():
            for start in range(0, 20, 7):
                part = first_rows(digits, "val", 20)[start : start + 7]
                images = [decode(*each) for each in zip(part.images, part.ids, strict=True)]
                views = [torch.tensor(make_view(image, VIEWS, "eval", 0)) for image in images]
                logits = model(normalize(torch.stack(views).contiguous(), VIEWS))
                rows.append(logits.double().softmax(dim=1).numpy())
        assert np.array_equal(found[name].probabilities, np.concatenate(rows)[order])
    first, second = (each.probabilities for each in found.values())
    assert not np.array_equal(first, second)


def test_more_ranks_than_images(digits: Dataset, checkpoints: Checkpoints) -> None:
    model = Constant([0.0] * 10)
    found = on_ranks(3, checkpoints, lambda rank: run(model, digits, rank, rows=2))
    assert [len(predictions.ids) for predictions in found] == [2, 2, 2]


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_given_back(
    digits: Dataset, checkpoints: Checkpoints, training: bool
) -> None:
    modes = []
    model = Constant([0.0] * 10).train(training)
    model.register_forward_hook(lambda module, args, output: modes.append(module.training))
    run(model, digits, Runtime(checkpoints, device="cpu"))
    assert model.training is training
    assert set(modes) == {False}


def test_evaluating_does_not_disturb_the_random_generators(
    digits: Dataset, checkpoints: Checkpoints
) -> None:
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    run(Constant([0.0] * 10), digits, Runtime(checkpoints, device="cpu"))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]


def test_equal_scores_are_equal_whatever_was_right() -> None:
    # three classes of 10 images: 7 + 8 + 9 right are as many as 8 + 8 + 8, to the last digit
    labels = list(np.arange(30) % 3)
    found = set()
    for right in ((7, 8, 9), (8, 8, 8), (10, 10, 4), (4, 10, 10)):
        chosen = [c if i // 3 < right[c] else (c + 1) % 3 for i, c in enumerate(labels)]
        found.add(predictions(labels, np.eye(3)[chosen].tolist()).metrics(np.ones(3))["acc1"])
    assert found == {80.0}


@pytest.mark.parametrize(("metric", "suffix"), [("balanced", ""), ("natural", "_natural")])
def test_what_is_better(metric: Metric, suffix: str) -> None:
    def scored(acc1: float, ce: float) -> dict[str, float]:
        # of the other metric nothing counts, not even for ties
        other = "_natural" if metric == "balanced" else ""
        return {f"acc1{suffix}": acc1, f"ce{suffix}": ce, f"acc1{other}": -acc1, f"ce{other}": -ce}

    good = scored(90.0, 0.5)
    assert is_better(good, {}, metric)
    assert is_better(good, scored(80.0, 0.1), metric)
    assert is_better(good, scored(90.0, 0.6), metric)
    assert not is_better(good, good, metric)  # the earlier of equal ones stays
    assert not is_better(good, scored(90.0, 0.4), metric)
