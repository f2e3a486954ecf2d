"""N real worker processes train what one would."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from tests.helpers.distributed import JOBS, TWENTY, streams, trained, work
from tests.helpers.tiny import TEN_CLASSES, tiny_recipe

from semigrid.data.storage import open_storage
from semigrid.trainers.evaluation.evaluate import evaluate
from semigrid.trainers.execution.checkpoint import Checkpoints, decode_weights
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.methods import published, resolve
from semigrid.trainers.models.create import create_model
from semigrid.trainers.options import TrainOptions

METHODS = ["finetune", "semi", "fixmatch", "distill"]


@pytest.fixture(scope="module")
def results(
    quiet_machine: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, dict[str, Any]]:
    """By world size and job: what rank 0 of as many processes found."""
    found: dict[int, dict[str, Any]] = {}
    # one process imports torch and the helpers, and all workers are forked from it
    multiprocessing.set_forkserver_preload(["tests.helpers.distributed"])
    for world_size in JOBS:
        folder = tmp_path_factory.mktemp(f"workers-{world_size}")
        torch.multiprocessing.start_processes(
            work, (world_size, str(folder)), nprocs=world_size, start_method="forkserver"
        )
        found[world_size] = {path.stem: torch.load(path) for path in folder.glob("*.pt")}
    return found


def alone(method: str, folder: Path, **settings: Any) -> list[dict[str, float]]:
    runtime = Runtime(Checkpoints(open_storage(folder)), device="cpu")
    return trained(runtime, method, tiny_recipe(method, **TWENTY), **settings).history


def assert_same_losses(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert len(found) == len(expected) == 20
    for record, other in zip(found, expected, strict=True):
        for name in ("loss", "labeled_loss", "unlabeled_loss", "mask_rate", "pseudo_entropy"):
            assert record.get(name) == pytest.approx(other.get(name), abs=1e-5), record["step"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("world_size", "micro_batch"), [(2, None), (2, 5), (3, None)])
def test_workers_have_the_losses_of_one_process(
    results: dict[int, Any], method: str, world_size: int, micro_batch: int | None, tmp_path: Path
) -> None:
    expected = alone(method, tmp_path)
    found = results[world_size]["twenty_steps"][f"{method} {micro_batch}"]
    assert_same_losses(found, expected)
    if method in ("semi", "fixmatch"):
        assert len({record["mask_rate"] for record in expected}) > 2  # masks take part


def test_workers_have_the_losses_of_one_process_with_an_adapter(
    results: dict[int, Any], tmp_path: Path
) -> None:
    recipe = tiny_recipe("semi", **TWENTY, adapter={"kind": "lora", "rank": 4})
    runtime = Runtime(Checkpoints(open_storage(tmp_path)), device="cpu")
    expected = trained(runtime, "semi", recipe).history
    assert_same_losses(results[2]["adapted"]["history"], expected)
    assert expected[-1]["loss"] != pytest.approx(expected[0]["loss"], abs=0.01)  # it learns


@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_adjust_logits_by_the_shares_of_all_labels(
    results: dict[int, Any], world_size: int, tmp_path: Path
) -> None:
    runtime = Runtime(Checkpoints(open_storage(tmp_path)), device="cpu")
    expected = trained(runtime, "semi", tiny_recipe("semi", **TWENTY, logit_adjustment=1)).history
    assert_same_losses(results[world_size]["twenty_steps"]["semi adjusted"], expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("accumulation", [2, 4])
def test_gradient_accumulation_has_the_losses_of_one_step(
    method: str, accumulation: int, tmp_path: Path
) -> None:
    rows = 12 if method == "finetune" else 12 + 24
    options = TrainOptions(micro_batch=rows // accumulation)
    whole, parts = alone(method, tmp_path / "1"), alone(method, tmp_path / "2", options=options)
    assert_same_losses(parts, whole)


def test_workers_that_die_in_every_step_end_as_if_they_never_did(
    results: dict[int, Any],
) -> None:
    found = results[2]["interrupted"]
    assert found["resumed_at"] == list(range(1, 12)) and found["same"]
    whole, parts = found["states"]
    for part in ("student", "ema"):
        for name, weights in whole[part].items():
            assert torch.equal(weights, parts[part][name]), f"{part} {name}"


def test_all_ranks_say_that_an_adapter_is_bypassed(results: dict[int, Any]) -> None:
    first, second = results[2]["bypassed"]["said"]
    assert first == second and "an adapter of blocks.0.attn.qkv would learn nothing" in first


@pytest.mark.parametrize("job", ["out_of_memory", "out_of_memory_with_buffers"])
def test_a_rank_short_of_memory_changes_no_number(results: dict[int, Any], job: str) -> None:
    found = results[2][job]
    for record, other in zip(found["short"], found["plain"], strict=True):
        assert record["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert record["ema_ce"] == pytest.approx(other["ema_ce"], abs=1e-4)
    assert found["speed"][-1]["micro_batch"] <= 3


def test_what_two_workers_measured_of_a_resnet_is_what_they_saved(
    results: dict[int, Any], tmp_path: Path
) -> None:
    # each rank has batch statistics of its own; val must be measured with those that are saved
    found = results[2]["batch_statistics"]
    settings = {"steps": 4, "batch_size": 12, "img_size": 32, "hflip": 0}
    recipe = resolve(published("finetune", "resnet18", settings), "finetune", 40, 0)
    model = create_model("test_resnet", 10, recipe, {}, False, 0)
    model.load_state_dict(decode_weights(found["weights"])[found["which"]])
    val = streams(recipe, "finetune", 0, 1)
    runtime = Runtime(Checkpoints(open_storage(tmp_path)), device="cpu")
    metrics = evaluate(model, val.validation, val.views, runtime).metrics(TEN_CLASSES)
    assert metrics["ce"] == pytest.approx(found["best"]["ce"], abs=1e-6)
