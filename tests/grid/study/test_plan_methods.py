"""Plans ask a method what it needs: a pool or none, a parent or none, and who its control is."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helpers.experiments import SMALL, SMALL_VIT, changed, plan_of
from tests.helpers.packages import from_document, on_path

from semigrid.data.errors import InputError
from semigrid.grid.study.ledger import Record, start_record
from semigrid.grid.study.plan import Plan
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.methods import registry
from semigrid.trainers.methods.fixmatch import FIXMATCH, FixmatchRecipe
from semigrid.trainers.methods.method import Method
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.job import Place, TrialJob
from semigrid.trainers.trial.run import run_trial

OPTIONAL = replace(FIXMATCH, name="maybe", pool="optional", version=7)


class ListRecipe(FixmatchRecipe):
    frozen_layers: list[str] = ["patch_embed"]


@pytest.fixture(autouse=True)
def optional(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, OPTIONAL))
    registry.forget()
    yield
    registry.forget()


def add_method(monkeypatch: pytest.MonkeyPatch, method: Method[Any]) -> None:
    monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, method))
    registry.forget()


def with_net(
    method: str, entry: dict[str, Any], own: dict[str, Any] | None = None, **changes: Any
) -> Plan:
    content = copy.deepcopy(SMALL)
    net = content["models"].pop("vit")
    recipe = {**SMALL_VIT, "batch_size": 4, "unlabeled_ratio": 3, **(own or {})}
    content["models"] = {"net": net | {"method": method, "recipe": recipe}}
    content["grid"] = [{"model": "net", "labels": ["100%"], **entry}]
    return plan_of(yaml.safe_dump({**content, **changes}))


def spec_of(plan: Plan, name: str) -> TrialSpec:
    [search] = [search for search in plan.searches if search.name == name]
    return plan.spec(search, {}, 0, None)


def test_a_method_with_a_pool_may_start_from_a_backbone() -> None:
    plan = with_net("fixmatch", {}, controls=["compute", "labeled-pool"])
    names = ["digits/net/100%/100%" + end for end in ("", "/compute", "/labeled-pool")]
    assert [cell.name for cell in plan.cells] == names == [s.name for s in plan.searches]
    spec, control, labeled = (spec_of(plan, name) for name in names)
    assert (spec.method, spec.parent, spec.pool_images) == ("fixmatch", None, 300)
    assert isinstance(spec.recipe, FixmatchRecipe)
    # 3·4 + 4·12 = 60 forwards a step, 6 steps: 360; the published batch of finetune, fitted
    assert (control.method, control.pool_images) == ("finetune", None)
    batch = control.recipe.batch_size
    assert control.recipe.total_steps == max(1, round(360 / (3 * batch)))
    assert control.recipe.img_size == 16 and control.recipe.hflip == 0  # the same images
    assert labeled.method == "fixmatch" and labeled.pool == "labeled"
    assert plan.baseline_of(plan.cells[0]) == plan.cells[1]
    spaces = [plan.space(search) for search in plan.searches]
    assert set(spaces[1]) == {"base_lr", "weight_decay"} and "confidence_threshold" in spaces[0]


def test_an_optional_pool_is_there_where_the_cell_asks_for_it() -> None:
    without, with_pool = with_net("maybe", {}), with_net("maybe", {"unlabeled": ["100%", "200%"]})
    assert [cell.name for cell in without.cells] == ["digits/net/100%"]
    spec = spec_of(without, "digits/net/100%")
    assert spec.pool_images is None and spec.forwards == 6 * OPTIONAL.forwards_per_step(
        spec.recipe, False
    )
    assert [cell.name for cell in with_pool.cells] == [
        "digits/net/100%/100%",
        "digits/net/100%/200%",
    ]
    assert spec_of(with_pool, "digits/net/100%/200%").pool_images == 600
    both = [{"model": "net", "labels": ["100%"], **pool} for pool in ({}, {"unlabeled": ["100%"]})]
    assert [cell.name for cell in with_net("maybe", {}, grid=both).cells] == [
        "digits/net/100%",
        "digits/net/100%/100%",
    ]
    for entry in both:
        with pytest.raises(InputError, match="grid.1: the cell digits/net/100% is in the grid twi"):
            with_net("maybe", {}, grid=[entry, entry])
    with pytest.raises(InputError, match="controls: no model of grid uses unlabelled images"):
        with_net("maybe", {}, controls=["compute"])


def test_cells_share_a_control_though_a_setting_is_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    add_method(monkeypatch, replace(FIXMATCH, name="listed", recipe=ListRecipe))
    plan = with_net("listed", {"unlabeled": ["100%", "200%"]}, controls=["compute"])
    control = "digits/net/100%/100%/compute"
    assert [cell.name for cell in plan.cells if cell.control] == [control]
    larger = next(cell for cell in plan.cells if cell.unlabeled == 2)
    assert plan.baseline_of(larger) == next(cell for cell in plan.cells if cell.name == control)


def test_a_parent_is_trained_without_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    add_method(monkeypatch, replace(FIXMATCH, name="after", parents=("fixmatch", "maybe")))
    content = copy.deepcopy(SMALL)
    content["models"]["vit"] |= {"method": "fixmatch"}
    content["models"] = {
        "vit": content["models"]["vit"],
        "second": {"from": "vit", "method": "after", "recipe": SMALL_VIT},
    }
    content["grid"] = [{"model": "second", "labels": ["100%"]}]
    with pytest.raises(InputError) as refused:
        plan_of(yaml.safe_dump(content))
    assert refused.value.problems == (
        "file.yaml: models.second.from: 'vit' is of method fixmatch, which cannot do without "
        "unlabelled images; start from a model that learns from labels alone",
    )
    content["models"]["vit"]["method"] = "maybe"  # whose pool is optional
    names = [search.name for search in plan_of(yaml.safe_dump(content)).searches]
    assert names == ["digits/vit/100%", "digits/second/100%/100%"]


def test_a_control_of_a_backbone_keeps_the_settings_that_it_shares_with_the_cell() -> None:
    own = {
        "optimizer": "sgd",
        "momentum": 0.8,
        "base_lr": 0.02,
        "weight_decay": 0.001,
        "drop_path": 0.3,
        "crop_scale": [0.5, 1.0],
        "rand_augment": "rand-m5",
        "warmup_steps": 2,
        "epochs": 30,
        "warmup_epochs": 3,
        "confidence_threshold": 0.8,
    }
    plan = with_net("fixmatch", {}, own, controls=["compute"])
    cell, control = (spec_of(plan, search.name).recipe for search in plan.searches)
    of_both = ("optimizer", "momentum", "base_lr", "weight_decay", "drop_path", "crop_scale")
    shared = {*of_both, "rand_augment", "img_size", "hflip", "evaluations"}
    assert cell.model_dump(include=shared) == control.model_dump(include=shared)
    assert (control.weight_decay, control.crop_scale) == (0.001, (0.5, 1.0))
    # 360 forwards as above, whatever length the file gives; epochs and warm-up are finetune's own
    assert control.total_steps == max(1, round(360 / (3 * control.batch_size)))
    assert (control.epochs, control.warmup_epochs) == (100, 5) and control.batch_size != 4


def test_a_control_of_a_backbone_must_share_its_batch_too() -> None:
    with pytest.raises(InputError, match="net's compute control, as of finetune, is"):
        with_net("fixmatch", {}, controls=["compute"], train={"workers": 4096})


def test_a_setting_of_another_method_is_one_clear_problem() -> None:
    with pytest.raises(InputError) as refused:
        plan_of(changed("models.vit.recipe.confidence_threshold", 0.7))
    [problem] = refused.value.problems
    assert problem == (
        "file.yaml: models.vit.recipe.confidence_threshold: only semi, fixmatch and maybe use it, "
        "and the method is finetune; take this key out"
    )
    with pytest.raises(InputError, match="recipe.confidence: unknown key; there are confidence_t"):
        plan_of(changed("models.semi-vit.recipe.confidence", 0.7))


def test_name_and_version_are_part_of_the_identity_and_survive_the_journey() -> None:
    spec = spec_of(with_net("maybe", {"unlabeled": ["100%"]}), "digits/net/100%/100%")
    assert (spec.method, spec.method_version) == ("maybe", 7)
    assert spec.model_copy(update={"method_version": 8}).id != spec.id
    job = TrialJob(spec=spec, place=Place("set", "results"))
    again = TrialJob.model_validate_json(job.model_dump_json()).spec
    assert again == spec and again.id == spec.id and isinstance(again.recipe, FixmatchRecipe)
    record = start_record(spec, "cell")
    assert Record.model_validate_json(record.model_dump_json()).spec == spec


def test_another_version_on_a_worker_is_refused(tmp_path: Path) -> None:
    spec = spec_of(with_net("maybe", {}), "digits/net/100%")
    job = TrialJob(
        spec=spec.model_copy(update={"method_version": 8}), place=Place("set", str(tmp_path))
    )
    runtime = Runtime(Checkpoints(job.checkpoints), device="cpu")
    with pytest.raises(InputError, match="made with version 8 of method maybe, this machine has v"):
        run_trial(job, runtime)


def test_the_documents_method_is_planned_as_any_other(tmp_path: Path) -> None:
    from_document(tmp_path)
    content = copy.deepcopy(SMALL)
    content["models"]["mean"] = {
        "from": "vit",
        "method": "mean-teacher",
        "recipe": {**SMALL_VIT, "consistency_weight": 3},
    }
    content["grid"] = [{"model": "mean", "labels": ["100%"], "unlabeled": ["200%"]}]
    content["controls"] = ["compute"]
    text = yaml.safe_dump(content)
    with on_path(tmp_path):
        plan = plan_of(text)
        names = [search.name for search in plan.searches]
        assert set(names) == {
            "digits/vit/100%",
            "digits/mean/100%/200%",
            "digits/mean/100%/200%/compute",
        }
        spec = spec_of(plan, "digits/mean/100%/200%")
        assert TrialSpec.model_validate_json(spec.model_dump_json()).id == spec.id
        assert spec.recipe.model_dump()["consistency_weight"] == 3
        assert start_record(spec, "cell").versions["semigrid-mean-teacher"] == "0.1.0"
        [search] = [s for s in plan.searches if s.name == "digits/mean/100%/200%"]
        assert plan.space(search)["consistency_weight"] == (0.75, 12)
    with pytest.raises(InputError, match="models.mean.method: 'mean-teacher'"):
        plan_of(text)
