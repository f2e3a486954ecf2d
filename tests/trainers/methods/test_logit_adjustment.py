"""Logit adjustment, by hand: what is learnt, what the teacher answers, what is scored."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers.tiny import (
    TEN_CLASSES,
    run_tiny,
    tiny_model,
    tiny_recipe,
    tiny_streams,
)

from semigrid.data.schema import Dataset
from semigrid.data.storage import open_storage
from semigrid.trainers.evaluation.predictions import Predictions
from semigrid.trainers.evaluation.scores import natural_view
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.loop.training import Training
from semigrid.trainers.methods.losses import LogitAdjustment, soft_cross_entropy

CPU = torch.device("cpu")
THREE_TO_ONE = np.array([0, 0, 1, 0])


def adjusted(tau: float, labels: np.ndarray = THREE_TO_ONE) -> LogitAdjustment:
    return LogitAdjustment(labels, 2, tau, CPU)


@pytest.mark.parametrize(
    ("tau", "frequent"), [(1, 3 / 4), (2, 9 / 10), (0.5, 3**0.5 / (1 + 3**0.5))]
)
def test_a_network_that_tells_nothing_apart_predicts_the_shares(
    tau: float, frequent: float
) -> None:
    losses = soft_cross_entropy(adjusted(tau)(torch.zeros(2, 2)), torch.eye(2))
    assert losses.tolist() == pytest.approx([-math.log(frequent), -math.log(1 - frequent)])


def test_a_class_without_labels_counts_as_if_it_had_one() -> None:
    logits = adjusted(1, np.array([0, 0, 0]))(torch.zeros(1, 2))
    assert logits.softmax(dim=1).tolist()[0] == pytest.approx([3 / 4, 1 / 4])


def test_rare_classes_pull_harder_and_shares_alone_teach_nothing() -> None:
    def gradient(tau: float) -> torch.Tensor:
        """Of each label's loss, (4, K)."""
        z = torch.zeros(4, 2, requires_grad=True)
        targets = torch.eye(2)[torch.from_numpy(THREE_TO_ONE)]
        soft_cross_entropy(adjusted(tau)(z), targets).sum().backward()
        assert z.grad is not None
        return z.grad

    torch.testing.assert_close(gradient(0)[1:3], torch.tensor([[-0.5, 0.5], [0.5, -0.5]]))
    torch.testing.assert_close(gradient(1)[1:3], torch.tensor([[-0.25, 0.25], [0.75, -0.75]]))
    # without it the labels' shares push the logits apart, with it they do not
    torch.testing.assert_close(gradient(0).sum(dim=0), torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(gradient(1).sum(dim=0), torch.zeros(2))


def test_mixed_targets_mix_the_losses() -> None:
    logits = adjusted(1)(torch.tensor([[0.3, -1.2]]))
    mixed = soft_cross_entropy(logits, torch.tensor([[0.7, 0.3]]))
    one, other = (soft_cross_entropy(logits, torch.eye(2)[[number]]) for number in (0, 1))
    torch.testing.assert_close(mixed, 0.7 * one + 0.3 * other)


def test_off_is_untouched() -> None:
    logits = torch.randn(2, 2)
    assert adjusted(0)(logits) is logits


def prepared(digits: Dataset, folder: Path, tau: float, **settings: float) -> Training:
    recipe = tiny_recipe("semi", logit_adjustment=tau, **settings)
    labels = np.repeat(np.arange(10), np.arange(1, 11))  # 1 to 10 of a class
    streams = replace(tiny_streams(digits, recipe, "semi"), labels=labels)
    runtime = Runtime(Checkpoints(open_storage(folder)), device="cpu")
    return Training(
        recipe, "semi", tiny_model(recipe), None, streams, runtime,
        class_shares=TEN_CLASSES, seed=0,
    )  # fmt: skip


def test_the_teacher_answers_as_the_student_is_trained(digits: Dataset, tmp_path: Path) -> None:
    images = torch.randn(3, 3, 16, 16)
    plain = prepared(digits, tmp_path / "0", 0).teach(images)
    found = prepared(digits, tmp_path / "1", 1.5).teach(images)
    log_shares = torch.log(torch.arange(1, 11) / 55)
    torch.testing.assert_close(found, plain + 1.5 * log_shares)


def test_a_step_learns_from_adjusted_logits(digits: Dataset, tmp_path: Path) -> None:
    training = prepared(digits, tmp_path, 1)
    [fed] = training.feed.steps(0, 1)
    targets = training.method.step_targets(fed.input, training.context)
    training.networks.drop_paths.step(fed.kept)
    losses = training.stepper.learn(targets)
    log_shares = torch.log(torch.arange(1, 11) / 55)
    for loss, rows in zip(losses, targets.rows, strict=True):
        training.networks.drop_paths.use(rows.numbers)
        logits = training.networks.student(rows.images) + log_shares
        expected = (rows.weights * soft_cross_entropy(logits, rows.targets)).sum()
        torch.testing.assert_close(loss, expected.detach())


def test_pseudo_labels_are_measured_as_they_are_trained(digits: Dataset, tmp_path: Path) -> None:
    training = prepared(digits, tmp_path, 8, base_lr=1e-9, confidence_threshold=0.5, head_std=2e-5)
    [fed] = training.feed.steps(0, 1)
    training.step(fed)
    training.evaluate()
    # a head that says nothing yet answers by the train labels: 10^8 / Σ n^8 = 0.6 for the last
    [record] = training.outcome.history
    last = np.asarray(training.streams.validation.table.labels) == 9
    assert record["pseudo_coverage"] == 1
    assert record["pseudo_accuracy"] == pytest.approx(last.mean())


def test_equal_shares_change_nothing(digits: Dataset, tmp_path: Path) -> None:
    def history(tau: float) -> list[dict[str, float]]:
        recipe = tiny_recipe("semi", logit_adjustment=tau)
        model = tiny_model(recipe)
        streams = replace(tiny_streams(digits, recipe, "semi"), labels=np.arange(10))
        checkpoints = Checkpoints(open_storage(tmp_path / f"{tau}"))
        return run_tiny(digits, "semi", recipe, checkpoints, model=model, streams=streams).history

    for plain, found in zip(history(0), history(1), strict=True):
        assert found == pytest.approx(plain, rel=1e-4)


def test_natural_scores_are_of_the_natural_view_by_hand() -> None:
    table = Predictions(["a", "b"], np.array([0, 1]), np.array([[0.6, 0.4], [0.55, 0.45]]))
    shares = np.array([0.2, 0.8])
    # 0.6 · 0.2 to 0.4 · 0.8 is 3 to 8, and 0.55 · 0.2 to 0.45 · 0.8 is 11 to 36
    natural = table.natural(shares, 1)
    assert natural.probabilities.tolist() == pytest.approx(
        np.array([[3 / 11, 8 / 11], [11 / 47, 36 / 47]])
    )
    metrics = table.metrics(shares, 1)
    # the first image is right where both classes are equally frequent, the second one in nature
    assert (metrics["acc1"], metrics["acc1_natural"]) == (50, 80)
    assert metrics["ce"] == pytest.approx(-(math.log(0.6) + math.log(0.45)) / 2)
    expected = -(0.2 * math.log(3 / 11) + 0.8 * math.log(36 / 47))
    assert metrics["ce_natural"] == pytest.approx(expected)
    # a model without an adjustment has learnt the shares already: they do not count twice
    plain = table.metrics(shares)
    assert (plain["acc1"], plain["acc1_natural"]) == (50, 20)
    assert natural_view(table.probabilities, shares, 0) is table.probabilities


def test_the_natural_view_is_bayes_rule() -> None:
    likelihoods = np.array([[0.5, 0.1, 0.2], [0.1, 0.3, 0.3]])  # of two images in three classes
    uniform = likelihoods / likelihoods.sum(axis=1, keepdims=True)
    shares = np.array([0.7, 0.2, 0.1])
    joint = likelihoods * shares
    posterior = joint / joint.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(natural_view(uniform, shares, 1), posterior)
