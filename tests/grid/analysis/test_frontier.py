"""Which models are worth their device time: by hand, in text, in JSON and as a table."""

import copy
import io
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.command import semigrid
from tests.helpers.experiments import SMALL
from tests.helpers.finished import FinishedGrid
from tests.helpers.made_up import MadeUpGrid, predicted

from semigrid.grid.analysis.answer import Answer, answer
from semigrid.grid.analysis.result_set import ResultSet
from semigrid.grid.report.accuracy import accuracy_by_cost
from semigrid.grid.status.terminal import Terminal
from semigrid.grid.tables.answer import savings_table, worth_table
from semigrid.grid.tables.cells import cells_table
from semigrid.grid.tables.costs import costs_table
from semigrid.grid.tables.formats import Format
from semigrid.grid.tables.models import models_table
from semigrid.grid.tables.render import render, show
from semigrid.grid.tables.table import Table

VIT = SMALL["models"]["vit"]


def made_up(
    took: Mapping[str, Mapping[str, float]], right: Mapping[str, int], **changes: Any
) -> ResultSet:
    """One cell with all labels for each model: what it took, and images right of 200."""
    grid = MadeUpGrid(
        models={name: copy.deepcopy(VIT) for name in right},
        grid=[{"model": name, "labels": ["100%"]} for name in right],
        **changes,
    )
    labels = np.arange(200) % 10
    seeds = {
        f"digits/{name}/100%": predicted((np.arange(200) < count)[None], labels, 10)
        for name, count in right.items()
    }
    scores = {f"digits/{name}/100%": [{"acc1": count / 2}] for name, count in right.items()}
    found = grid.results(labels, seeds, 10, scores)
    rows = [replace(row, with_parents=dict(took[row.cell.model])) for row in found.rows]
    return replace(found, rows=rows)


def on_frontier(found: Answer) -> list[str]:
    (frontier,) = found.frontiers
    return [row.cell.model for row in frontier.rows]


COSTS = {name: {"cpu": 60.0 * n} for n, name in enumerate("abcdefg", 1)}


def test_a_frontier_by_hand() -> None:
    # 75, 80, 80.5, 81, 81.5, 81.5 and 60 %: c and d are within a point of b, f is no better than e
    right = dict(zip("abcdefg", (150, 160, 161, 162, 163, 163, 120), strict=True))
    results = made_up(COSTS, right)
    found = answer(results)
    assert on_frontier(found) == ["a", "b", "e"]
    (frontier,) = found.frontiers
    assert frontier.models == 7
    gains = [step.gain for step in frontier.steps]
    assert gains[0] is None
    assert [gain.difference for gain in gains[1:]] == pytest.approx([0.05, 0.015])
    # Agresti and Min: ten pairs of 200, two added; 21 pairs of models: 1 − 0.05 / 21: z = 3.0380
    half = 3.0380 * ((200 * 0.05 * 0.95 + 2 * 200 * 0.05**2 / 202 + 1) / 202**2) ** 0.5
    assert gains[1].interval.low == pytest.approx(0.05 * 200 / 202 - half, abs=2e-4)
    assert gains[1].interval.low > 0 > gains[2].interval.low
    assert frontier.text == (
        "With 1,160 labels, the cheapest of 7 cells first: a (75.0% after 1.0 min of CPU cores); b "
        "(80.0% after 2.0 min of CPU cores); e (81.5% after 5.0 min of CPU cores). Certainly "
        "better than the one before it: b."
    )
    assert found.to_use("digits")[1] == frontier.text
    assert on_frontier(answer(results, 0)) == ["a", "b", "c", "d", "e"]
    assert on_frontier(answer(results, 0.06)) == ["a", "e"]
    # whoever is recommended is the cheapest within the margin of the highest
    assert found.recommendations[0].row.cell.model == "c"


def test_of_models_that_cost_the_same_only_the_better_counts() -> None:
    found = answer(made_up(dict.fromkeys("ab", {"cpu": 60.0}), {"a": 150, "b": 180}))
    assert on_frontier(found) == ["b"]
    assert found.frontiers[0].text == (
        "With 1,160 labels, the cheapest of 2 cells is b (90.0% after 1.0 min of CPU cores); "
        "no other is over 1 point better."
    )


def test_what_has_not_learnt_or_has_no_cost_is_not_on_it() -> None:
    took = {"a": {"cpu": 1.0}, "b": {}, "c": {"cpu": 9.0}}
    found = answer(made_up(took, {"a": 24, "b": 190, "c": 150}))  # a guesses: 12 %
    assert on_frontier(found) == ["c"]
    assert len(found.to_use("digits")) == 1  # one model is no choice


def test_with_prices_the_lower_price_is_the_cheaper() -> None:
    # two hours at 0.05 against one at 4
    took = {"a": {"cpu": 7200.0}, "b": {"NVIDIA H100": 3600.0}}
    right = {"a": 160, "b": 160}
    prices = {"cpu": 0.05, "NVIDIA H100": 4.0}
    assert on_frontier(answer(made_up(took, right))) == ["b"]
    priced = made_up(took, right, prices=prices)
    assert on_frontier(answer(priced)) == ["a"]
    (recommended,) = answer(priced).recommendations
    assert (recommended.row.cell.model, recommended.price) == ("a", pytest.approx(0.1))
    table = models_table(priced, answer(priced))
    shown = [column.text(row) for row in table.rows for column in table.columns]
    assert shown == ["a", "*80.0\n(0.10)", "b", "80.0\n(4.00)"]
    assert table.frame["price_with_parents"].tolist() == pytest.approx([0.1, 4.0])


def test_without_a_price_for_every_device_time_counts_and_no_price_is_shown() -> None:
    took = {"a": {"cpu": 7200.0}, "b": {"NVIDIA H100": 3600.0}, "c": {"cpu": 60.0}}
    results = made_up(took, {"a": 190, "b": 160, "c": 140}, prices={"NVIDIA H100": 4.0})
    found = answer(results)
    assert found.frontiers[0].text == (
        "With 1,160 labels, the cheapest of 3 cells first, by device time (no price for cpu): c "
        "(70.0% after 1.0 min of CPU cores); b (80.0% after 1.0 h of NVIDIA H100); a (95.0% after "
        "2.0 h of CPU cores). Each is certainly better than the one before it."
    )
    (recommended,) = found.recommendations
    assert recommended.price is None and "price" not in recommended.text
    notes = models_table(results, found).all_notes
    assert notes[0].startswith("Acc@1 and, below it, the device time (no price for cpu) of all")


# ---- as text, as JSON, as tables


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory, quiet_machine: None) -> FinishedGrid:
    """Two models with a pool and their controls, one with a long name; two seeds."""
    models = {
        "a-frozen-backbone-with-a-name-of-forty-letters": VIT,
        **SMALL["models"],
        "fix": {**VIT, "method": "fixmatch", "recipe": SMALL["models"]["semi-vit"]["recipe"]},
    }
    both = ["25%", "50%", "75%", "100%"]
    made = FinishedGrid(
        tmp_path_factory.mktemp("frontier"),
        seeds=2,
        models=models,
        grid=[{"model": model, "labels": both} for model in models]
        + [{"model": "semi-vit", "labels": ["50%"], "unlabeled": ["200%"]}],
        controls=["compute"],
    )
    for n, fraction in enumerate(both):
        made.finish(f"digits/{next(iter(models))}/{fraction}", 120 + n, 120 + n)
        made.finish(f"digits/vit/{fraction}", 110 + 10 * n, 110 + 10 * n)
        for model, worth in (("semi-vit", 20), ("fix", -4)):
            made.finish(f"digits/{model}/{fraction}/100%/compute", 130 + 10 * n, 130 + 10 * n)
            count = 130 + 10 * n + worth
            made.finish(f"digits/{model}/{fraction}/100%", count, count)
    made.finish("digits/semi-vit/50%/200%", 150, 150)
    return made


def test_text_and_json_say_the_same(grid: FinishedGrid) -> None:
    text = re.sub(r"\s+", " ", semigrid("answer", str(grid.file)).stdout)
    facts = json.loads(semigrid("answer", str(grid.file), "--json").stdout)
    assert text.startswith(facts["recommendations"][0]["text"])
    frontiers = facts["frontiers"]
    assert [each["labeled_images"] for each in frontiers] == [214, 277, 335, 397]
    assert frontiers[-1]["text"] in text
    # 61.5, 70, 80 (both controls) and 90 % of 200; a control, and the cell beside it, take 480 s
    # with their parents, and 240 s where they start from a backbone
    assert [(each["cell"], each["acc1"]) for each in frontiers[-1]["cells"]] == [
        ("digits/fix/100%/100%/compute", pytest.approx(80)),
        ("digits/semi-vit/100%/100%", pytest.approx(90)),
    ]
    first, second = frontiers[-1]["cells"]
    assert (first["device_seconds"], first["difference"]) == ({"cpu": 240.0}, None)
    assert (second["device_seconds"], second["difference"]) == ({"cpu": 480.0}, pytest.approx(10))
    for each in facts["headlines"]:
        assert each["text"] in text
        worth = {"semi-vit": 10, "fix": -2}[each["model"]]  # of 200: 20 more and 4 fewer
        assert each["worth_difference"] == pytest.approx(worth)
        assert each["pool_helps"] == ("held" if worth > 0 else "refuted")
        assert list(each["worth_by_labels"]) == ["25%", "50%", "75%", "100%"]
        assert each["worth_by_labels"]["50%"]["difference"] == pytest.approx(worth)


def test_the_pools_worth_stands_for_each_method(grid: FinishedGrid) -> None:
    table = worth_table(answer(grid.results()))
    lines = [[column.text(row) for column in table.columns] for row in table.rows]
    assert [line[:2] + line[3:] for line in lines] == [
        ["semi-vit", "+10.00", "yes", "75%", "vit trained for longer"],
        ["fix", "−2.00", "no", "no fewer", "finetune trained for longer"],
    ]


@pytest.mark.parametrize(
    ("margin", "shown"), [(0.01, "?"), (0.05, "50%?"), (0.25, "50%")]
)  # 50 % loses 4 points with 18 images that are its own: −8.9 to +0.9
def test_what_may_be_enough_is_named_where_it_scores_enough(
    tmp_path: Path, margin: float, shown: str
) -> None:
    grid = FinishedGrid(tmp_path, grid=SMALL["grid"])
    grid.finish("digits/vit/50%", 120)
    grid.finish("digits/vit/100%", 150)
    grid.finish("digits/semi-vit/50%/100%", ~grid.first(58))  # 142, of these 8 that vit has not
    table = worth_table(answer(grid.results(), margin))
    (line,) = [[column.text(row) for column in table.columns] for row in table.rows]
    assert line[4] == shown


def test_a_pool_without_a_control_says_what_is_missing(tmp_path: Path) -> None:
    bare = FinishedGrid(tmp_path, grid=SMALL["grid"])
    bare.finish("digits/vit/100%", 150)
    bare.finish("digits/semi-vit/100%/100%", 160)
    table = worth_table(answer(bare.results()))
    (line,) = [[column.text(row) for column in table.columns] for row in table.rows]
    assert line == ["semi-vit", "—", "—", "—", "—", "vit trained for longer"]
    assert "semi-vit: add controls: [compute]" in table.all_notes


def test_models_by_labels(grid: FinishedGrid) -> None:
    results = grid.results()
    table = models_table(results, answer(results))
    lines = [[column.text(row) for column in table.columns] for row in table.rows]
    assert [line[0] for line in lines] == [
        "a-frozen-backbone-with-a-name-of-forty-letters",
        "vit",
        "semi-vit",
        "semi-vit's control",
        "semi-vit, pool 200%",
        "fix",
        "fix's control",
    ]
    assert [column.header for column in table.columns[1:]] == [
        f"{n} labels"
        for n in (397, 335, 277, 214)  # the most stand where nothing hides them
    ]
    # 150 of 200 after its own two trainings of 120 seconds and its parent's two
    assert lines[2][4] == "*75.0 ± 0.0\n(8.0 min)"
    assert lines[4] == ["semi-vit, pool 200%", "—", "—", "75.0 ± 0.0\n(8.0 min)", "—"]
    frame = table.frame.set_index("cell")
    assert frame.loc["digits/semi-vit/25%/100%", "device_hours_with_parents"] == pytest.approx(
        480 / 3600
    )
    marked = set(frame.index[frame["on_frontier"]])
    assert marked >= {"digits/semi-vit/100%/100%", "digits/fix/100%/100%/compute"}
    assert "digits/vit/100%" not in marked
    assert r"**\*75.0 ± 0.0 (8.0 min)**" in render(table, Format.markdown).decode()


def test_a_control_that_is_worth_its_time_can_be_told_in_the_chart(grid: FinishedGrid) -> None:
    results = grid.results()
    chart = accuracy_by_cost(results, answer(results), "digits")
    assert "; half filled: such a one that is the model's control; hollow: all others" in chart.note


@pytest.mark.parametrize("width", [60, 80, 140])
def test_no_number_is_cut_however_narrow_the_terminal(grid: FinishedGrid, width: int) -> None:
    results = grid.results()
    answered = answer(results)
    tables: list[Table[Any]] = [
        models_table(results, answered),
        worth_table(answered),
        savings_table(answered),
        cells_table(results),
        costs_table(results),
    ]
    for table in tables:
        file, bare = io.StringIO(), io.StringIO()
        show(table, Terminal(file, width=width))
        assert all(len(line) <= width for line in file.getvalue().splitlines())
        show(replace(table, notes=()), Terminal(bare, width=width))
        words = set(bare.getvalue().split())
        for column in table.columns:
            if column.is_name or column.is_spare:
                continue
            for row in table.rows:
                assert all(word in words for word in column.text(row).split()), column.header


def test_several_datasets_stand_one_below_another(tmp_path: Path) -> None:
    both = FinishedGrid(
        tmp_path,
        datasets={name: "builtin://digits" for name in ("first", "second")},
        grid=SMALL["grid"],
    )
    for dataset in ("first", "second"):  # the same images, so the same trainings
        both.finish(f"{dataset}/vit/100%", 160)
    results = both.results()
    answered = answer(results)
    table = models_table(results, answered)
    assert [(row.dataset, row.name) for row in table.rows] == [
        (dataset, model) for dataset in ("first", "second") for model in ("vit", "semi-vit")
    ]
    assert [column.header for column in table.columns] == ["dataset", "model", "100%", "50%"]
    alone = models_table(results, answered, "second")
    assert [column.header for column in alone.columns] == ["model", "397 labels", "277 labels"]
    lines = semigrid("answer", str(both.file)).stdout.splitlines()
    assert lines[0] == "first" and "second" in lines
    assert lines[1].startswith("The only finished model that has learnt is vit with 397 labels (80")
