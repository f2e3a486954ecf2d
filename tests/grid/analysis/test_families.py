"""Which cells an answer compares, of methods whose pool is optional."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.experiments import SMALL, SMALL_VIT
from tests.helpers.finished import FinishedGrid

from semigrid.grid.analysis.answer import answer
from semigrid.grid.analysis.families import families
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
    (headline,) = found.headlines
    assert headline.verdict == "enough" and headline.full.cell.name == "digits/net/100%"
    assert "net without a pool, with all 397 labels, scores 75.0% (chosen on val over vit)" in (
        headline.text
    )
    # 90 of 100 points, 75 with all labels and no pool
    assert headline.against.difference == pytest.approx(0.15)
