"""A job in its worker process: what it hands to the training, without Ray."""

from pathlib import Path

import torch
import yaml
from tests.helpers.experiments import SMALL, plan_of
from tests.helpers.in_process import Grid

from semigrid.trainers.execution.checkpoint import decode_weights
from semigrid.trainers.layout import weights_file


def test_adapted_children_of_a_slow_average_start_from_the_student(tmp_path: Path) -> None:
    # a published decay, in a short training: the average stays where it began, and learns nothing
    vit, semi = SMALL["models"]["vit"], SMALL["models"]["semi-vit"]
    slow = {"ema_decay": 0.9999, "steps": 12, "evaluations": 1}
    lora = {"adapter": {"kind": "lora", "rank": 2}, "steps": 2, "warmup_steps": 0}
    models = {
        "vit": vit | {"recipe": vit["recipe"] | slow},
        "semi-vit": semi | {"recipe": semi["recipe"] | lora},
    }
    content = {**SMALL, "models": models, "search": {"trials": 1}, "controls": ["compute"]}
    content |= {"grid": [{"model": "semi-vit", "labels": ["50%"]}], "storage": str(tmp_path)}
    grid = Grid(plan_of(yaml.safe_dump(content)), tmp_path / "small").run()
    assert not grid.problems
    states = {
        record.cell: decode_weights(grid.ledger.storage.read(weights_file(trial)))
        for trial, record in grid.records.items()
    }
    [parent] = (record for record in grid.records.values() if record.spec.parent is None)
    assert parent.best_weights == "student"
    start = states.pop(parent.cell)
    frozen = "blocks.0.mlp.fc1.weight"
    assert not torch.equal(start["student"][frozen], start["ema"][frozen])
    assert len(states) == 2  # the cell and its control
    for left in states.values():
        for network in left.values():
            assert torch.equal(network[frozen], start["student"][frozen])


def test_a_trial_whose_adapter_is_bypassed_fails_with_that_message(tmp_path: Path) -> None:
    # where no step is tried before a run, as for large models
    args = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    vit = SMALL["models"]["vit"]
    beit = {"backbone": "beit_base_patch16_224", "backbone_args": args}
    models = {"beit": vit | beit | {"recipe": vit["recipe"] | {"adapter": {"kind": "lora"}}}}
    content = {**SMALL, "models": models, "search": {"trials": 1}, "storage": str(tmp_path)}
    content |= {"grid": [{"model": "beit", "labels": ["50%"]}]}
    grid = Grid(plan_of(yaml.safe_dump(content)), tmp_path / "small").run()
    [problem] = grid.problems
    assert problem.startswith("BypassedError: an adapter of blocks.0.attn.qkv would learn nothing")
    assert [record.status for record in grid.records.values()] == ["failed"]
