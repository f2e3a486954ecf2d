"""All of the analysis on every small table of predictions: nothing is undefined, however few."""

import json
import math
import warnings
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from tests.helpers.made_up import MadeUpGrid
from tests.helpers.promises import check_what_is_said

from semigrid.grid.analysis.answer import answer
from semigrid.grid.analysis.labels_saved import labels_needed
from semigrid.grid.analysis.pool_curve import pool_curve
from semigrid.grid.analysis.predictions import reduced
from semigrid.grid.analysis.result_set import ResultSet
from semigrid.grid.analysis.statistics import (
    Weighted,
    accuracy_interval,
    compare,
    contrast,
    plain,
)
from semigrid.grid.report import accuracy
from semigrid.grid.tables.answer import answer_facts, claims_table, savings_table, worth_table
from semigrid.grid.tables.cells import cells_table, comparisons_table
from semigrid.grid.tables.classes import classes_table, confusions_table
from semigrid.grid.tables.formats import Format
from semigrid.grid.tables.models import models_table
from semigrid.grid.tables.paper_tables import labels_table, pool_table
from semigrid.grid.tables.render import render
from semigrid.grid.tables.slices import slice_results, slices_table
from semigrid.trainers.evaluation.predictions import Predictions

GRID = [
    {"model": "vit", "labels": ["25%", "50%", "100%"]},
    {"model": "semi-vit", "labels": ["25%", "50%"]},
    {"model": "semi-vit", "labels": ["50%"], "unlabeled": ["200%", "400%"]},
]


def check(first: Weighted, second: Weighted) -> None:
    """Intervals are within bounds and hold the estimate; p-values are probabilities."""
    for right in (first, second):
        interval, share = accuracy_interval(right), right.mean()
        assert 0 <= interval.low <= share + 1e-12 and share - 1e-12 <= interval.high <= 1
        # a handful of images proves nothing
        assert interval.high - interval.low > 0.1
    found, other = compare(first, second), compare(second, first)
    assert -1 <= found.interval.low <= found.difference + 1e-12
    assert found.difference - 1e-12 <= found.interval.high <= 1
    assert 0 <= found.p <= 1 and found.p == pytest.approx(other.p)
    assert found.interval.high - found.interval.low > 0.1
    assert found.interval.low == pytest.approx(-other.interval.high)


@given(
    seeds=st.integers(1, 4), classes=st.integers(1, 3), natural=st.booleans(), number=st.integers(0)
)
def test_weighted_tables_of_all_shapes(
    seeds: int, classes: int, natural: bool, number: int
) -> None:
    draw = np.random.default_rng(number)
    labels = draw.integers(classes, size=draw.integers(1, 7))
    shares = draw.random(classes) ** 4 + 1e-3 if natural else np.ones(classes)
    likely = draw.choice([0.0, 0.5, 0.9, 1.0], 2)
    check(
        Weighted(draw.random((seeds, len(labels))) < likely[0], labels, shares),
        Weighted(draw.random((draw.integers(1, 5), len(labels))) < likely[1], labels, shares),
    )


def finite(*numbers: float | None) -> None:
    assert all(number is None or math.isfinite(number) for number in numbers)


def test_every_pair_of_tables_of_two_seeds_and_two_images() -> None:
    tables = [plain(np.array(bits, bool).reshape(2, 2)) for bits in product((0, 1), repeat=4)]
    for first, second, third in product(tables[::3], tables[::5], tables):
        needed = labels_needed(third, {100: first, 200: second})
        assert needed is not None
        finite(needed.labels, needed.low, needed.high)
        curve = pool_curve({100: first, 200: second, 400: third})
        assert curve is not None
        finite(curve.doubling.interval.low, curve.at_end.interval.high, curve.doubling.p)
    for first, second in product(tables, repeat=2):
        check(first, second)


@pytest.mark.parametrize("images", [1, 2, 3, 5])
@pytest.mark.parametrize("seeds", [1, 2, 3, 4])
def test_tables_of_all_shapes(seeds: int, images: int) -> None:
    draw = np.random.default_rng(10 * seeds + images)
    for _ in range(20):
        first = plain(draw.random((seeds, images)) < 0.5)
        check(first, plain(draw.random((1, images)) < draw.random()))
        first = plain(draw.random((seeds, images)) < 0.9)
        check(first, plain(draw.random((seeds, images)) < draw.random()))


def test_seeds_that_collapse_apart_count_as_so_many_images_and_no_more() -> None:
    # each seed puts all images into one class, another one each time
    labels = np.arange(100) % 2
    right = plain(np.stack([labels == 0, labels == 1]))
    found = accuracy_interval(right)
    # Wilson's of 100 right of 200: no results of 100 images and 2 seeds can tell more
    assert (found.low, found.high) == pytest.approx((0.4307, 0.5693), abs=2e-3)
    same = compare(right, right)
    # nobody saw them differ, and nobody can say that they never do
    assert same.difference == 0 and same.p == 1
    assert same.interval.high == -same.interval.low == pytest.approx(1.98 / 102, rel=0.01)


def test_agreement_of_few_images_proves_no_difference() -> None:
    right, wrong = plain(np.ones((3, 9), bool)), plain(np.zeros((3, 9), bool))
    apart = compare(right, wrong)
    # Clopper and Pearson: nine of nine are at least 66 % at 95 %
    assert apart.difference == 1 and apart.interval.low == pytest.approx(0.66, abs=0.01)
    one = plain(np.ones((3, 1), bool)), plain(np.zeros((3, 1), bool))
    assert compare(*one).p > 0.05
    assert contrast([2.0, -2.0], [right, wrong]).p == pytest.approx(apart.p)  # no unit matters


class Grid(MadeUpGrid):
    """Cells of whole prediction tables; all classes but the first are rare."""

    def of_tables(self, predictions: list[list[Predictions]], labels: np.ndarray) -> ResultSet:
        classes = predictions[0][0].probabilities.shape[1]
        train = {f"class{number}": 1 if number else 1000 for number in range(classes)}
        where = [None if number % 3 == 2 else "xy"[number % 2] for number in range(len(labels))]
        counted = (
            np.array(list(train.values()))
            + 1
            + 150 // classes
            + np.bincount(labels, minlength=classes)
        )
        shares = counted / counted.sum()
        by_cell = dict(zip((cell.name for cell in self.plan.cells), predictions, strict=True))
        seeds = {name: [reduced(t, shares) for t in of] for name, of in by_cell.items()}
        test = {name: [t.metrics(shares) for t in of] for name, of in by_cell.items()}
        return self.results(labels, seeds, classes, test, train, where)


@pytest.fixture(scope="module")
def grid(quiet_machine: None) -> Grid:
    return Grid(grid=GRID, seeds=4, search={"trials": 1})


@st.composite
def tables(draw: Any) -> tuple[list[list[Predictions]], np.ndarray]:
    """For each cell of the grid its seeds' predictions of the same images."""
    classes, images = draw(st.integers(1, 3)), draw(st.integers(1, 12))
    labels = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=images, max_size=images)))
    kinds = ("right", "wrong", "tie", "collapsed", "sure", "any")
    cells = []
    for _ in range(7):
        seeds = []
        for _ in range(draw(st.integers(1, 4))):
            kind = draw(st.sampled_from(kinds))
            random = np.random.default_rng(draw(st.integers(0, 99)))
            chosen = random.integers(classes, size=images)
            chosen = {"right": labels, "wrong": (labels + 1) % classes}.get(kind, chosen)
            if kind == "collapsed":
                chosen = np.full(images, random.integers(classes))
            weights = np.eye(classes)[chosen] + (0 if kind == "sure" else 0.2)
            if kind == "tie":
                weights = np.ones((images, classes))
            probabilities = weights / weights.sum(axis=1, keepdims=True)
            seeds.append(Predictions([str(i) for i in range(images)], labels, probabilities))
        cells.append(seeds)
    return cells, labels


@given(drawn=tables())
def test_all_of_the_analysis_is_defined_for_every_table(
    grid: Grid, drawn: tuple[list[list[Predictions]], np.ndarray]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a division by zero of numpy's is only a warning
        results = grid.of_tables(*drawn)
        answered = answer(results)
        json.dumps(answer_facts(answered), allow_nan=False)
        said = check_what_is_said(answered)
        shown = [cells_table(results), comparisons_table(results), labels_table(results)]
        shown += [pool_table(results), slices_table(results, "where"), classes_table(results)]
        shown += [confusions_table(results), savings_table(answered), claims_table(answered)]
        shown += [models_table(results, answered), worth_table(answered)]
        for table in shown:
            records = json.loads(render(table, Format.json))
            json.dumps(records, allow_nan=False)
        assert "nan" not in render(shown[0], Format.markdown).decode().lower()
    event(said)
    (best,) = results.best
    assert len(results.planned) == 4
    finite(*(pair.p for pair in results.planned.values()))
    for values in slice_results(results, "where").values():
        assert sum(result.images for result in values.values()) == len(drawn[1])
    for needed in (saving.needed for saving in answered.savings if saving.needed):
        finite(needed.labels, needed.low, needed.high)
    assert best.interval is not None


@pytest.mark.parametrize("kind", ["right", "wrong", "tie"])
def test_the_charts_of_such_tables_are_drawn(grid: Grid, kind: str) -> None:
    labels = np.arange(20) % 2
    chosen = {"right": labels, "wrong": 1 - labels, "tie": np.zeros(20, int)}[kind]
    probabilities = np.full((20, 2), 0.5) if kind == "tie" else np.eye(2)[chosen]
    table = Predictions([str(number) for number in range(20)], labels, probabilities)
    results = grid.of_tables([[table, table]] * 7, labels)
    row = results.best[0]
    by_slice = slice_results(results, "where")[row.cell]
    answered = answer(results)
    pools = answered.pools
    assert len(pools) == (kind == "right")  # of cells that have learnt
    charts = [
        accuracy.accuracy_by_labels(results, "digits"),
        accuracy.accuracy_by_cost(results, answered, "digits"),
        *(accuracy.accuracy_by_pool(results, pool) for pool in pools),
        accuracy.accuracy_by_class(results, row),
        accuracy.accuracy_by_slice(row, "where", by_slice),
        accuracy.confusion_chart(results, row),
        accuracy.calibration(results, "digits"),
    ]
    assert all(chart.svg and "nan" not in chart.alt for chart in charts)
