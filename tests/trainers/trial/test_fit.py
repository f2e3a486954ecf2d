"""A trial that fits: killed, on several ranks, and what makes its features others."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.tiny import VIT, VIT_ARGS, Died, SimulatedRank, Watched, on_ranks
from torch import nn

from semigrid.data.catalog import open_dataset
from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints, decode_weights
from semigrid.trainers.execution.progress import Meter
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.features import store
from semigrid.trainers.layout import FEATURES, weights_file
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.methods.probe import ProbeRecipe
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.job import Place, TrialJob
from semigrid.trainers.trial.model import start_model
from semigrid.trainers.trial.run import run_trial

DIGITS = "builtin://digits"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PART_IMAGES", 64)


def job(folder: Path, seed: int = 0) -> TrialJob:
    """All labels of the digits, and a backbone of random weights."""
    spec = TrialSpec(
        dataset=open_dataset(DIGITS).manifest.fingerprint,
        labels="1",
        pool_images=None,
        backbone=VIT,
        backbone_args=VIT_ARGS,
        weights="random",
        method="probe",
        recipe=ProbeRecipe(img_size=16, global_pool="avg"),
        precision="fp32",
        seed=seed,
        parent=None,
    )
    return TrialJob(spec=spec, place=Place(DIGITS, str(folder)))


def left_by(each: TrialJob) -> dict[str, np.ndarray]:
    weights = decode_weights(each.place.storage.read(weights_file(each.spec.id)))
    assert all((weights["ema"][name] == value).all() for name, value in weights["student"].items())
    return {name: value.numpy() for name, value in weights["student"].items()}


def comparable(outcome: Outcome) -> tuple[object, ...]:
    return outcome.status, outcome.best_metrics, outcome.history, outcome.weights_file


def metered(folder: Path) -> Meter:
    return Meter(open_storage(folder), {"cpu": 1.0})


def test_killed_and_run_again_it_makes_no_feature_twice(tmp_path: Path) -> None:
    whole = run_trial(job(tmp_path / "whole"), Runtime(Checkpoints(open_storage(tmp_path))))
    images = len(open_dataset(DIGITS).train_labels)
    assert whole.history[-1]["step"] == whole.best_step == images

    def kill(done: int) -> None:
        if done >= 150:
            raise Died

    dying, checkpoints = job(tmp_path / "killed"), Checkpoints(open_storage(tmp_path / "c"))
    with pytest.raises(Died):
        run_trial(dying, Watched(checkpoints, kill))
    meter = metered(tmp_path / "c")
    resumed = run_trial(dying, Runtime(checkpoints, device="cpu", meter=meter))
    assert meter.steps_run == images - 128  # two parts of 64 were there
    assert comparable(resumed) == comparable(whole)
    meter = metered(tmp_path / "again")
    run_trial(dying, Runtime(checkpoints, device="cpu", meter=meter))
    assert meter.steps_run == 0


def test_ranks_share_the_images_and_leave_the_same_weights(tmp_path: Path) -> None:
    alone = run_trial(job(tmp_path / "alone"), Runtime(Checkpoints(open_storage(tmp_path))))
    shared, made, one_at_a_time = job(tmp_path / "shared"), [], threading.Lock()

    def start(*how: Any) -> nn.Module:
        with one_at_a_time:  # these ranks are threads, with one random generator
            return start_model(*how)

    class Counting(store.FeatureStore):
        def write(self, part: store.Part, features: store.Block) -> None:
            made.append(part.name)
            super().write(part, features)

    def work(rank: SimulatedRank) -> Outcome:
        return run_trial(shared, rank)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("semigrid.trainers.trial.fit.FeatureStore", Counting)
        patch.setattr("semigrid.trainers.trial.fit.start_model", start)
        first, second, third = on_ranks(3, Checkpoints(open_storage(tmp_path / "c")), work)
    assert len(made) == len(set(made)) == -(-len(open_dataset(DIGITS).train_labels) // 64)
    assert first.best_metrics == second.best_metrics == third.best_metrics
    assert comparable(first) == comparable(alone)
    assert second.weights_file is None


def test_random_backbones_of_two_seeds_have_features_of_their_own(tmp_path: Path) -> None:
    for seed in (0, 1):
        run_trial(job(tmp_path, seed), Runtime(Checkpoints(open_storage(tmp_path / "c"))))
    assert len(open_storage(tmp_path).folders(FEATURES)) == 2
    first, second = (left_by(job(tmp_path, seed)) for seed in (0, 1))
    assert (first["head.weight"] != second["head.weight"]).any()
