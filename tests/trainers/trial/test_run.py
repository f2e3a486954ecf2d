"""Trials with an adapter: what they leave, and what starts from it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.tiny import VIT, VIT_ARGS, Died, Watched, die_in_step, tiny_recipe

from semigrid.data.catalog import open_dataset
from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints, NetworkStates, decode_weights
from semigrid.trainers.layout import weights_file
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.job import Place, TrialJob
from semigrid.trainers.trial.model import finished_model, start_model
from semigrid.trainers.trial.run import run_trial

DIGITS = "builtin://digits"
LORA = {"kind": "lora", "rank": 4}
TRAINED = {
    *("blocks.0.attn.qkv.weight", "blocks.1.attn.qkv.weight"),
    *("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"),
}


def job(folder: Path, method: str, parent: TrialJob | None = None, **recipe: Any) -> TrialJob:
    """A quarter of the digits' labels, with these images as the pool of ``semi``, too."""
    spec = TrialSpec(
        dataset=open_dataset(DIGITS).manifest.fingerprint,
        labels="1/4",
        pool="labeled" if method == "semi" else "unlabeled",
        pool_images=63 if method == "semi" else None,
        backbone=VIT,
        backbone_args=VIT_ARGS,
        weights="random",
        method=method,
        recipe=tiny_recipe(method, **{"steps": 3, "evaluations": 1, **recipe}),
        precision="fp32",
        seed=0,
        parent=None if parent is None else parent.spec.id,
    )
    return TrialJob(spec=spec, place=Place(DIGITS, str(folder)))


def train(each: TrialJob, folder: Path, die: int | None = None) -> Outcome:
    on_step = (lambda step: None) if die is None else die_in_step(die)
    return run_trial(each, Watched(Checkpoints(open_storage(folder)), on_step))


def left_by(each: TrialJob) -> NetworkStates:
    return decode_weights(each.place.storage.read(weights_file(each.spec.id)))


def moved(state: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> set[str]:
    assert state.keys() == start.keys()
    return {name for name, each in start.items() if not torch.equal(each, state[name])}


@pytest.fixture
def lora(tmp_path: Path) -> TrialJob:
    each = job(tmp_path, "finetune", adapter=LORA)
    train(each, tmp_path / "lora")
    return each


def test_a_trial_leaves_plain_weights(lora: TrialJob) -> None:
    start = start_model(lora.spec, 10, None).state_dict()
    for name, state in left_by(lora).items():
        assert moved(state, start) == TRAINED
        # what test is evaluated with, and what predict and export open
        assert not moved(state, finished_model(lora.spec, lora.place, 10, name).state_dict())


def test_semi_starts_from_an_adapted_parent(lora: TrialJob, tmp_path: Path) -> None:
    parent = left_by(lora)
    full = job(tmp_path, "semi", lora)
    train(full, tmp_path / "full")
    assert moved(left_by(full)["student"], parent["student"]) > TRAINED  # every weight learns
    own = job(tmp_path, "semi", lora, adapter={"kind": "lora", "rank": 2})
    train(own, tmp_path / "own")
    for state in left_by(own).values():
        assert moved(state, parent["student"]) == TRAINED


@pytest.mark.parametrize("chosen", ["student", "ema"])
def test_an_adapted_child_of_a_full_parent_shares_the_network_that_val_chose(
    tmp_path: Path, chosen: str
) -> None:
    full = job(tmp_path, "finetune")
    train(full, tmp_path / "full")
    parent = left_by(full)
    assert moved(parent["ema"], parent["student"]) > TRAINED
    child = job(tmp_path, "semi", full, adapter=LORA)
    train(child.model_copy(update={"parent_network": chosen}), tmp_path / "child")
    for state in left_by(child).values():
        assert moved(state, parent[chosen]) == TRAINED


def test_a_killed_trial_leaves_the_same_weights(lora: TrialJob, tmp_path: Path) -> None:
    whole = lora.place.storage.read(weights_file(lora.spec.id))
    lora.place.storage.delete(weights_file(lora.spec.id))
    with pytest.raises(Died):
        run_trial(
            lora.model_copy(
                update={"options": lora.options.model_copy(update={"checkpoint_seconds": 0})}
            ),
            Watched(Checkpoints(open_storage(tmp_path / "again")), die_in_step(3)),
        )
    outcome = train(lora, tmp_path / "again")
    assert outcome.resumed_at == [2]
    assert lora.place.storage.read(weights_file(lora.spec.id)) == whole
