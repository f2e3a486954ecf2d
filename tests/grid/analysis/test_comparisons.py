"""Planned pairs: which they are, their differences, and what their p-values are corrected for."""

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests
from tests.helpers.experiments import SMALL, experiment_text, plan_of
from tests.helpers.finished import FinishedGrid

from semigrid.grid.analysis.comparisons import compare_planned, comparer
from semigrid.grid.analysis.statistics import compare, plain
from semigrid.grid.status.terminal import Terminal
from semigrid.grid.study.plan import Cell
from semigrid.grid.tables.cells import cells_table
from semigrid.grid.tables.render import show, to_markdown

MODELS = {
    **SMALL["models"],
    "longer": {"from": "vit", "method": "finetune", "recipe": {"steps": 12}},
}
GRID = [
    {"model": "vit", "labels": ["50%"]},
    {"model": "longer", "labels": ["50%"]},
    {"model": "semi-vit", "labels": ["50%"], "unlabeled": ["100%", "200%"]},
]


def cell(name: str, unlabeled: int | None = None, dataset: str = "digits") -> Cell:
    return Cell(dataset, name, Fraction(1, 2), None if unlabeled is None else Fraction(unlabeled))


@pytest.mark.parametrize(
    ("controls", "of_semi"),
    [
        ([], "digits/vit/50%"),
        (["labeled-pool"], "digits/vit/50%"),
        (["compute", "labeled-pool"], "digits/semi-vit/50%/100%/compute"),
    ],
)
def test_a_cell_is_compared_with_its_control_or_else_with_its_parent(
    controls: list[str], of_semi: str
) -> None:
    plan = plan_of(experiment_text(models=MODELS, grid=GRID, controls=controls))
    found = {each.name: plan.baseline_of(each) for each in plan.cells}
    baselines = {
        name: None if baseline is None else baseline.name for name, baseline in found.items()
    }
    expected = {"digits/vit/50%": None, "digits/longer/50%": "digits/vit/50%"}
    # both pools have one control: it sees none of them, and trains as long
    expected |= {f"digits/semi-vit/50%/{pool}": of_semi for pool in ("100%", "200%")}
    expected |= {f"digits/semi-vit/50%/100%/{control}": "digits/vit/50%" for control in controls}
    assert baselines == expected


def baseline_of(pairs: dict[Cell, Cell]) -> Callable[[Cell], Cell | None]:
    return lambda each: pairs.get(each)


def test_p_values_are_corrected_for_the_planned_pairs_of_a_dataset_only() -> None:
    draw = np.random.default_rng(3)
    skills = {"base": 0.6, "a": 0.65, "b": 0.7, "c": 0.75}
    rights = {
        cell(name, dataset=dataset): plain(draw.random((2, 150)) < skill)
        for dataset in ("one", "two")
        for name, skill in skills.items()
    }
    pairs = {cell(n, dataset=d): cell("base", dataset=d) for d in ("one", "two") for n in "abc"}
    del pairs[cell("c", dataset="two")]
    pairs[cell("b", dataset="two")] = cell("not finished", dataset="two")
    found = compare_planned(rights, baseline_of(pairs))
    assert list(found) == [*(cell(n, dataset="one") for n in "abc"), cell("a", dataset="two")]
    alone = {each: compare(rights[each], rights[pairs[each]]) for each in found}
    assert {each: pair.comparison for each, pair in found.items()} == alone
    one = [alone[cell(n, dataset="one")].p for n in "abc"]
    assert [found[cell(n, dataset="one")].p for n in "abc"] == pytest.approx(
        list(multipletests(one, method="holm")[1])
    )
    two = cell("a", dataset="two")
    assert found[two].p == alone[two].p  # the only one of its dataset
    difference = rights[two].mean() - rights[pairs[two]].mean()
    assert found[two].comparison.difference == pytest.approx(difference)


@pytest.fixture
def grid(tmp_path: Path) -> FinishedGrid:
    grid = FinishedGrid(tmp_path, controls=["compute"], grid=GRID, models=MODELS)
    for name, right in [("vit/50%", 100), ("longer/50%", 110), ("semi-vit/50%/100%/compute", 130)]:
        grid.finish(f"digits/{name}", right)
    grid.finish("digits/semi-vit/50%/100%", 180)
    return grid


def test_the_table_says_how_far_above_its_baseline_a_cell_is(grid: FinishedGrid) -> None:
    table = cells_table(grid.results())
    rows = table.frame.set_index("cell")[["baseline", "to_baseline", "to_baseline_p"]]
    # one seed, McNemar: 50 images that only the better one has right, and 30, and 10; times 3, 2, 1
    semi, control = rows.loc["digits/semi-vit/50%/100%"], "digits/semi-vit/50%/100%/compute"
    assert tuple(semi) == (control, pytest.approx(25), pytest.approx(3 * 2.0**-49))
    longer = rows.loc[control]
    assert tuple(longer) == ("digits/vit/50%", pytest.approx(15), pytest.approx(2 * 2.0**-29))
    assert rows.loc["digits/longer/50%"].to_list()[1:] == pytest.approx([5, 2.0**-9])
    missing = ["digits/vit/50%", "digits/semi-vit/50%/200%"]
    assert rows.loc[missing].isna().all(axis=None)  # it has no baseline; it is not finished
    shown = to_markdown(table)
    assert "| +25.00 (p &lt;0.001) |" in shown and "| +5.00 (p 0.002) |" in shown
    assert (
        "vs baseline: points of Acc@1 above a cell's compute control (a control, and a cell "
        "without one: above the cell that it starts from); only these pairs were planned, and "
        "p-values are corrected for the 3 of digits"
    ) in shown


def test_without_controls_the_baseline_is_the_parent_and_without_pairs_there_is_no_column(
    tmp_path: Path,
) -> None:
    grid = FinishedGrid(tmp_path)
    grid.finish("digits/vit/25%", 100)
    table = cells_table(grid.results())
    assert "vs baseline" not in to_markdown(table)
    assert table.frame["to_baseline"].isna().all() and table.frame["baseline"].dtype != float
    grid.finish("digits/semi-vit/25%/100%", 90)
    shown = to_markdown(cells_table(grid.results()))
    assert "| −5.00 (p 0.002) |" in shown
    assert "above the cell that a cell starts from; only these" in shown and "control" not in shown


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_narrow_terminal_cuts_no_number(grid: FinishedGrid, width: int) -> None:
    table, file = cells_table(grid.results()), io.StringIO()
    show(table, Terminal(file, width=width))
    lines = file.getvalue().splitlines()
    heads, number = lines[1].split(), len(table.rows)
    assert "Acc@1" in heads and all(len(line) <= width for line in lines[: number + 3])
    (row,) = (line for line in lines if " 90.00" in line)
    # a column is whole or absent, and what is said of it with it
    assert ("+25.00 (p <0.001)" in row) == ("baseline" in heads) == (width >= 80)
    assert any(line.startswith("vs baseline: ") for line in lines) == (width >= 80)


def test_any_two_are_compared_at_a_level_for_all_pairs() -> None:
    right = {
        cell(name): plain(np.arange(200)[None] < n)
        for name, n in zip("abcd", (150, 160, 160, 180), strict=True)
    }
    found = comparer(right)(cell("b"), cell("a"))
    # Agresti and Min, ten pairs of 200 and two added; six pairs of cells: 1 − 0.05 / 6, z = 2.6383
    half = 2.6383 * ((200 * 0.05 * 0.95 + 2 * 200 * 0.05**2 / 202 + 1) / 202**2) ** 0.5
    assert found.difference == pytest.approx(0.05)
    assert found.interval.low == pytest.approx(0.05 * 200 / 202 - half, abs=1e-5)
