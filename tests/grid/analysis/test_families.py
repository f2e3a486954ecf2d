"""Which cells an answer compares where methods start from a backbone, or may have no pool."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helpers.command import semigrid
from tests.helpers.experiments import SEMI, SMALL, SMALL_VIT, STUDENT, VIT, distill_text
from tests.helpers.finished import FinishedGrid

from semigrid.grid.analysis.answer import answer
from semigrid.grid.analysis.families import families
from semigrid.grid.export.card import pool_worth
from semigrid.grid.tables.answer import worth_table
from semigrid.grid.tables.models import models_table
from semigrid.trainers.methods import registry
from semigrid.trainers.methods.fixmatch import FIXMATCH

OPTIONAL = replace(FIXMATCH, name="maybe", pool="optional")
POOLED: dict[str, Any] = SMALL_VIT | {"batch_size": 4, "unlabeled_ratio": 2}


@pytest.fixture(autouse=True)
def optional(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, OPTIONAL))
    registry.forget()
    yield
    registry.forget()


def test_cells_without_the_optional_pool_are_labels_alone(tmp_path: Path) -> None:
    models = SMALL["models"] | {"net": {"from": "vit", "method": "maybe", "recipe": POOLED}}
    grid = [
        {"model": "vit", "labels": ["50%", "100%"]},
        {"model": "net", "labels": ["50%", "100%"]},
        {"model": "net", "labels": ["50%", "100%"], "unlabeled": ["200%"]},
    ]
    finished = FinishedGrid(tmp_path, models=models, grid=grid)
    for fraction, vit, alone, pool in (("50%", 100, 120, 180), ("100%", 140, 150, 190)):
        finished.finish(f"digits/vit/{fraction}", vit, val=80)
        finished.finish(f"digits/net/{fraction}", alone, val=90)
        finished.finish(f"digits/net/{fraction}/200%", pool)
    results = finished.results()
    (family,) = families(results)
    assert [row.cell.name for row in family.semi] == ["digits/net/50%/200%", "digits/net/100%/200%"]
    assert {row.cell.name for row in family.smallest.values()} == {
        row.cell.name for row in family.semi
    }
    assert [row.cell.name for row in family.others] == ["digits/net/50%", "digits/net/100%"]
    found = answer(results)
    assert found.pools == []  # one size of the pool at each fraction
    table = models_table(results, found)
    lines = [[column.text(row) for column in table.columns] for row in table.rows]
    assert [(line[0], line[1].split("\n")[0]) for line in lines] == [
        ("vit", "*70.0"),
        ("net without a pool", "75.0"),  # costs as much as net, and scores less
        ("net", "*95.0"),
    ]
    (headline,) = found.headlines
    assert headline.verdict == "enough" and headline.full.cell.name == "digits/net/100%"
    assert "net without a pool, with all 397 labels, scores 75.0% (chosen on val over vit)" in (
        headline.text
    )
    # 90 of 100 points, 75 with all labels and no pool
    assert headline.against.difference == pytest.approx(0.15)


def on_backbone(folder: Path, grid: list[dict[str, Any]], **changes: Any) -> FinishedGrid:
    """``net`` learns by FixMatch from the backbone that ``plain`` has, too."""
    plain = SMALL["models"]["vit"]
    models = {
        "plain": plain,
        "net": plain | {"method": "fixmatch", "recipe": POOLED},
        "other": {"backbone": "resnet18", "pretrained": False, "method": "finetune"},
    }
    return FinishedGrid(folder, models=models, grid=grid, **changes)


def test_a_model_on_a_backbone_has_an_answer(tmp_path: Path) -> None:
    grid = [
        {"model": "plain", "labels": ["50%", "100%"]},
        {"model": "other", "labels": ["100%"]},
        {"model": "net", "labels": ["50%", "100%"], "unlabeled": ["100%", "200%"]},
    ]
    finished = on_backbone(tmp_path, grid, controls=["compute"])
    finished.finish("digits/other/100%", 199, val=99)  # of another backbone: no part of it
    for fraction, plain, longer, net in (("50%", 100, 120, 180), ("100%", 140, 150, 190)):
        finished.finish(f"digits/plain/{fraction}", plain)
        finished.finish(f"digits/net/{fraction}/100%", net)
        finished.finish(f"digits/net/{fraction}/100%/compute", longer)
    finished.finish("digits/net/100%/200%", 195)
    results = finished.results()
    found = answer(results)
    (headline,) = found.headlines
    assert headline.verdict == "enough" and headline.saving.row.cell.name == "digits/net/50%/100%"
    assert headline.full.cell.name == "digits/net/100%/100%/compute"
    assert headline.against.difference == pytest.approx(0.15)  # 180 against 150 of 200
    assert headline.text.startswith("50% of the train labels are enough for net. With 277")
    assert "; finetune trained for longer, with all 397 labels, scores 75.0%: +15" in headline.text
    assert {saving.baseline for saving in found.savings} == {"finetune trained for longer"}
    claims = {claim.text: claim for claim in found.claims}
    beyond = claims["net: unlabelled images help beyond compute (finetune trained for as long)"]
    assert beyond.mean.difference == pytest.approx((60 + 40) / 200 / 2)
    assert claims["net beats plain at every label fraction"].verdict == "held"
    for base in ("plain", "finetune trained for longer"):
        claim = claims[f"net with half the train labels matches {base} (within 1 point)"]
        assert claim.verdict == "held"
    (pool,) = found.pools
    assert pool.name == "net with 100% of the train labels"
    assert pool.curve.doubling.difference == pytest.approx(0.025)  # 190 and 195 of 200
    assert headline.control == "finetune trained for longer"
    assert headline.worth.mean.difference == pytest.approx((60 + 40) / 200 / 2)
    said = semigrid("answer", str(finished.file)).stdout
    assert "\n50% of the train labels are enough for net." in said
    assert "no cell of this experiment" not in said


def test_without_a_control_the_models_on_the_same_backbone_are_labels_alone(tmp_path: Path) -> None:
    grid = [{"model": name, "labels": ["50%", "100%"]} for name in ("plain", "net")]
    finished = on_backbone(tmp_path, grid)
    text = answer(finished.results()).headlines[0].text
    assert text == "No answer yet: no cell of net is finished"
    finished.finish("digits/net/50%/100%", 100)
    text = answer(finished.results()).headlines[0].text
    assert text == "No answer yet: no cell of plain is finished"
    finished.finish("digits/plain/50%", 110)
    finished.finish("digits/plain/100%", 160)
    found = answer(finished.results())
    (headline,) = found.headlines
    # 100 against 160 of 200
    assert headline.verdict == "not enough"
    assert headline.full.cell.name == "digits/plain/100%"
    assert headline.against.difference == pytest.approx(-0.3)
    assert "plain would need" in headline.text
    assert "due to longer training" not in headline.text  # a loss is not
    rows = {row.cell.name: row for row in finished.results().rows}
    assert pool_worth(finished.plan, rows["digits/net/50%/100%"], None) == (
        "How much of its accuracy is due to the unlabelled images has not been tested."
    )


def test_what_a_model_on_a_backbone_lacks_for_an_answer_is_said(tmp_path: Path) -> None:
    (tmp_path / "with").mkdir()
    grid = [{"model": "net", "labels": ["100%"]}]
    alone = on_backbone(tmp_path, grid)
    alone.finish("digits/net/100%/100%", 180)
    assert answer(alone.results()).headlines[0].text == (
        "No answer: no cell with labels alone to compare net with; add controls: [compute]"
    )
    controlled = on_backbone(tmp_path / "with", grid, controls=["compute"])
    controlled.finish("digits/net/100%/100%", 180)
    assert answer(controlled.results()).headlines[0].text == (
        "No answer yet: no cell of finetune trained for longer is finished"
    )


def test_a_student_is_held_against_the_teacher_that_val_chose(tmp_path: Path) -> None:
    models = yaml.safe_load(distill_text())["models"]
    grid = [{"model": name, "labels": ["50%"]} for name in ("vit", "semi-vit", "small")]
    finished = FinishedGrid(tmp_path, models=models, grid=grid)
    finished.finish(VIT, 160, val=85)
    finished.finish(SEMI, 150, val=88)  # better on val, worse on test
    finished.finish(STUDENT, 150)
    results = finished.results()
    family = next(family for family in families(results) if family.model == "small")
    assert {cell.name: row.cell.name for cell, row in family.teachers.items()} == {STUDENT: SEMI}
    [claim] = [each for each in answer(results).claims if "as good as" in each.text]
    assert claim.text == (
        "small is as good as the best of its teachers, vit, semi-vit (within 1 point)"
    )
    assert claim.verdict == "held" and "semi-vit" in claim.evidence[0]
    costs = {row.cell.name: row.with_parents for row in results.rows}
    # its own and each teacher's once, though one of them starts from the other
    assert costs[STUDENT] == {"cpu": 3 * 120.0}


def test_what_a_student_has_more_than_its_control_is_its_teachers_doing(tmp_path: Path) -> None:
    text = yaml.safe_load(distill_text("vit", controls=["compute", "labeled-pool"]))
    own = {key: text[key] for key in ("models", "grid", "controls")}
    finished = FinishedGrid(tmp_path, seeds=2, **own)
    for cell, right in ((VIT, 160), (STUDENT, 170), (f"{STUDENT}/compute", 120)):
        finished.finish(cell, right, right)
    results = finished.results()
    found, rows = answer(results), {row.cell.name: row for row in results.rows}
    what = "its teacher's answers for unlabelled images"
    claims = [claim.text for claim in found.claims if claim.text.startswith("small: ")]
    # nor is there a control whose pool the labelled images are
    assert claims == [f"small: {what} help beyond compute (finetune trained for as long)"]
    [headline] = [each for each in found.headlines if each.model == "small"]
    assert f"Beyond longer training, {what} add accuracy: +25.00 points" in headline.text
    assert f"small: not the images alone, but {what}" in worth_table(found).notes
    worth = pool_worth(results.plan, rows[STUDENT], rows[f"{STUDENT}/compute"])
    assert f"reaches 60.0%: {what} add +25.00 points" in worth
