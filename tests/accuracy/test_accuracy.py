"""What ``make accuracy`` writes before it fetches or trains anything."""

import csv
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from tests.accuracy.candidates import COMPARISONS
from tests.accuracy.experiment import experiment
from tests.accuracy.methods import methods_experiment
from tests.accuracy.rule import mean_and_deviation, with_interval
from tests.accuracy.sets import write_table
from tests.accuracy.table import difference

from semigrid.grid.analysis.comparisons import Planned
from semigrid.grid.analysis.statistics import Comparison, Interval
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.study.plan import Cell, Plan
from semigrid.trainers.recipe import SteppedRecipe


def test_the_experiment_file_is_a_valid_one_and_leaves_lengths_to_the_rule(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"any")
    text = experiment(
        "digits", "builtin://digits", weights, tmp_path,
        labels=["25%", "100%"], seeds=3,
    )  # fmt: skip
    plan = Plan(load_experiment("digits.yaml", text=text))
    assert [cell.name for cell in plan.cells] == [
        "digits/lite0/25%",
        "digits/lite0/100%",
        "digits/semi-lite0/25%/100%",
        "digits/semi-lite0/25%/100%/compute",
        "digits/semi-lite0/100%/100%",
        "digits/semi-lite0/100%/100%/compute",
    ]
    recipes = {s.name: plan.spec(s, {}, 0, None).recipe for s in plan.searches}
    assert {recipe.img_size for recipe in recipes.values()} == {32}
    steps = {
        name: recipe.total_steps
        for name, recipe in recipes.items()
        if isinstance(recipe, SteppedRecipe)
    }
    assert [steps[cell.name] for cell in plan.cells[:3]] == [500, 500, 500]
    # 32 labelled images and 160 of the pool in a step of semi, a teacher's forward of the latter
    assert steps["digits/semi-lite0/25%/100%/compute"] == round(500 * (3 * 32 + 4 * 160) / 96)


def test_all_methods_stand_in_one_file_with_their_controls(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"any")
    text = methods_experiment(
        "digits", "builtin://digits", weights, tmp_path,
        labels=["25%", "100%"], seeds=3, steps=200,
    )  # fmt: skip
    plan = Plan(load_experiment("methods.yaml", text=text))
    models = ["probe", "lite0", "lora", "semi", "fixmatch", "small"]
    assert list(dict.fromkeys(cell.model for cell in plan.cells)) == models
    controls = [cell.model for cell in plan.cells if cell.control]
    assert controls == ["semi", "semi", "fixmatch", "fixmatch", "small", "small"]


def test_a_seeded_part_of_the_digits_keeps_its_labels(tmp_path: Path) -> None:
    tables = [
        write_table("digits", tmp_path / str(labeled), tmp_path, labeled) for labeled in (800, 1797)
    ]
    some, everything = (list(csv.DictReader(table.read_text().splitlines())) for table in tables)
    assert len(some) == len({row["id"] for row in some}) == 1797
    assert sum(row["label"] != "" for row in some) == 800
    truth = {row["id"]: row["label"] for row in everything}
    assert set(truth.values()) == {f"digit {n}" for n in range(10)}
    assert all(row["label"] in ("", truth[row["id"]]) for row in some)
    assert (tmp_path / "800" / some[0]["image"]).read_bytes()[:4] == b"\x89PNG"


def test_a_difference_is_in_points_with_its_interval() -> None:
    semi = Cell("a", "semi", Fraction(1, 4), Fraction(1))
    comparison = Comparison(-0.0125, Interval(-0.04, 0.0149), 0.3, images=320, seeds=3)
    pair = Planned(semi, replace(semi, control="compute"), comparison, 0.3)
    assert difference(pair) == "−1.2 [−4.0, +1.5]" and difference(None) == "–"


def test_paired_differences_have_students_interval() -> None:
    # mean 2, deviation 1, √3 seeds: 4.303 · 1/1.732
    assert with_interval([1, 2, 3]) == "+2.0 [−0.5, +4.5]"
    assert with_interval([1.25]) == "+1.2" and with_interval([]) == "–"
    assert mean_and_deviation([1, 2, 3]) == "2.0 ± 1.0" and mean_and_deviation([7]) == "7.0"


def test_candidates_of_a_comparison_see_equally_many_images() -> None:
    for name, compared in COMPARISONS.items():
        images = {c["batch_size"] * c["steps"] for c in compared.candidates.values()}
        assert name == "steps" or max(images) <= 1.01 * min(images)
