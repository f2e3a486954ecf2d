"""What ``make accuracy`` writes before it fetches or trains anything."""

import csv
from pathlib import Path

from tests.accuracy.experiment import experiment
from tests.accuracy.sets import write_table

from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.study.plan import Plan


def test_the_experiment_file_is_a_valid_one_and_leaves_lengths_to_the_rule(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"any")
    text = experiment(
        "digits", "builtin://digits", weights, tmp_path,
        labels=["25%", "100%"], seeds=3, img_size=96, controls=False,
    )  # fmt: skip
    plan = Plan(load_experiment("digits.yaml", text=text))
    assert [cell.name for cell in plan.cells] == [
        "digits/lite0/25%",
        "digits/lite0/100%",
        "digits/semi-lite0/25%/100%",
        "digits/semi-lite0/100%/100%",
    ]
    recipes = [plan.spec(search, {}, 0, None).recipe for search in plan.searches]
    assert {(recipe.total_steps, recipe.img_size) for recipe in recipes} == {(500, 96)}


def test_a_seeded_part_of_the_digits_keeps_its_labels(tmp_path: Path) -> None:
    tables = [
        write_table("digits", tmp_path / name, tmp_path, everything=name == "all")
        for name in ("some", "all")
    ]
    some, everything = (list(csv.DictReader(table.read_text().splitlines())) for table in tables)
    assert len(some) == len({row["id"] for row in some}) == 1797
    assert sum(row["label"] != "" for row in some) == 800
    truth = {row["id"]: row["label"] for row in everything}
    assert set(truth.values()) == {f"digit {n}" for n in range(10)}
    assert all(row["label"] in ("", truth[row["id"]]) for row in some)
    assert (tmp_path / "some" / some[0]["image"]).read_bytes()[:4] == b"\x89PNG"
