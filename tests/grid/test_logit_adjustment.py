"""A grid whose trainings adjust logits: what is stored, scored, said and handed on."""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.helpers.experiments import SMALL, plan_of
from tests.helpers.in_process import Grid

from semigrid.grid.analysis.predictions import read_predictions
from semigrid.grid.analysis.result_set import ResultSet, read_result_set
from semigrid.grid.export.cell import export_cell
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.winner import adjustment_note, find_winner
from semigrid.trainers.evaluation.scores import SUFFIXES

CELL = "digits/semi-vit/100%/100%"


@dataclass(frozen=True)
class Run:
    grid: Grid
    results: ResultSet
    record: Record


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder, content = tmp_path_factory.mktemp("run"), copy.deepcopy(SMALL)
    content["models"]["vit"]["recipe"] = SMALL["models"]["vit"]["recipe"] | {"logit_adjustment": 2}
    content |= {"grid": [{"model": "semi-vit", "labels": ["100%"]}], "search": {"trials": 1}}
    grid = Grid(plan_of(yaml.safe_dump({**content, "storage": str(folder)})), folder / "small")
    assert not grid.run().problems
    results = read_result_set(grid.study, grid.ledger.storage)
    return Run(grid, results, find_winner(grid.study, CELL)[1])


def test_a_child_is_adjusted_as_its_parent(run: Run) -> None:
    taus = {record.spec.recipe.logit_adjustment for record in run.grid.records.values()}
    assert len(run.grid.records) == 2 and taus == {2}


def test_the_table_is_of_equal_classes_and_the_ledger_has_both_scores(run: Run) -> None:
    manifest = run.grid.plan.experiment.datasets["digits"].manifest
    assert run.results.problems == []  # each table gives the ledger's scores again
    table = read_predictions(run.grid.ledger.storage, run.record, manifest)
    weighted = table.probabilities * manifest.class_shares**2
    labels, shares = table.labels, manifest.class_shares
    for name, probabilities, of_class in (
        ("acc1", table.probabilities, np.full(10, 0.1)),
        ("acc1_natural", weighted, shares),
    ):
        right = probabilities.argmax(axis=1) == labels
        expected = sum(of_class[c] * right[labels == c].mean() for c in range(10))
        assert run.record.test is not None
        assert run.record.test[name] == pytest.approx(100 * expected), name
    [row] = run.results.rows
    for suffix in SUFFIXES.values():  # an interval is around its score
        interval, [score] = row.intervals[f"acc1{suffix}"], row.scores(f"acc1{suffix}")
        assert interval.low <= score / 100 <= interval.high


def test_an_export_says_what_its_probabilities_mean(run: Run, tmp_path: Path) -> None:
    note = adjustment_note(run.record)
    assert note is not None and "(logit_adjustment: 2)" in note
    assert "multiply each one by its class's share to the power of 2" in note
    storage = run.grid.ledger.storage
    done = export_cell(run.grid.study, storage, CELL, str(tmp_path / "export"), onnx=False)
    assert note in done.notes
    card = (tmp_path / "export/README.md").read_text()
    assert "Mind that its probabilities are those where all classes are equally frequent" in card


def test_without_an_adjustment_nothing_is_said(run: Run) -> None:
    recipe = run.record.spec.recipe.model_copy(update={"logit_adjustment": 0.0})
    spec = run.record.spec.model_copy(update={"recipe": recipe})
    assert spec.id != run.record.spec.id
    assert adjustment_note(run.record.model_copy(update={"spec": spec})) is None
