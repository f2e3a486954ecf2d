"""What ``plan`` says of each cell's length, for a file that leaves it to the rule."""

import copy

import pytest
import yaml
from rich.console import Console
from tests.helpers.experiments import SMALL, plan_of

from semigrid.data.errors import InputError
from semigrid.grid.status.lengths import lengths, lengths_parts


def by_the_rule(**semi: object) -> str:
    """The small experiment on 25 % of the digits' labels, 63, and without sizes of its own."""
    content = copy.deepcopy(SMALL)
    for model in content["models"].values():
        for name in ("steps", "batch_size", "unlabeled_ratio"):
            model["recipe"].pop(name, None)
    content["models"]["semi-vit"]["recipe"] |= semi
    content["grid"] = [{"model": "semi-vit", "labels": ["25%"]}]
    return yaml.safe_dump(content)


def test_steps_batch_and_epochs_of_every_cell_and_what_was_published() -> None:
    semi, vit = lengths(plan_of(by_the_rule()))
    # 63 images: 6 steps of 1,024 as published, now 500 of 32; a pool of 300: 47 steps of 640
    assert (vit.cell, vit.steps, vit.batch_size) == ("digits/vit/25%", 500, 32)
    assert vit.pool_batch_size is None
    assert vit.epochs == pytest.approx(500 * 32 / 63)
    assert vit.ema_decay == pytest.approx(1 - 1 / 101)
    assert vit.published == {
        "batch_size": 1024,
        "steps": 6,
        "warmup_steps": 0,
        "ema_decay": pytest.approx(1 - 1 / 2.2),
    }
    assert semi.cell == "digits/semi-vit/25%/100%"  # the cell of the grid first, then its parent
    assert (semi.steps, semi.batch_size, semi.pool_batch_size) == (500, 32, 160)
    assert semi.epochs == pytest.approx(500 * 160 / 300)
    assert (semi.published["batch_size"], semi.published["steps"]) == (128, 47)


def test_a_search_varies_the_rate_that_fits_the_cell() -> None:
    content = yaml.safe_load(by_the_rule())
    del content["models"]["vit"]["recipe"]["base_lr"]
    plan = plan_of(yaml.safe_dump(content))
    _, vit = lengths(plan)
    # 5e-4 per 256 images of a batch of 1,024, now 32
    assert vit.base_lr == pytest.approx(5e-4 * 32**0.5) and vit.published["base_lr"] == 5e-4
    search = next(search for search in plan.searches if search.name == vit.cell)
    assert plan.space(search)["base_lr"] == (vit.base_lr / 2, vit.base_lr * 2)
    assert plan.spec(search, {"base_lr": 1e-3}, 0, None).recipe.base_lr == 1e-3


def test_what_the_file_sets_is_not_called_published() -> None:
    semi, _ = lengths(plan_of(by_the_rule(batch_size=8, steps=20)))
    assert (semi.steps, semi.batch_size, semi.published) == (20, 8, {})


def test_the_table_fits_80_columns() -> None:
    console = Console(width=80)
    with console.capture() as printed:
        console.print(*lengths_parts(lengths(plan_of(by_the_rule()))))
    text = printed.get()
    assert "digits/semi-vit/25%/100%   500 (47)   32+160 (128)      267" in text
    assert "digits/vit/25%              500 (6)     32 (1,024)      254" in text
    assert "in brackets: as published, for more images than these (docs/recipes.md)" in text


def test_a_fitted_batch_must_divide_by_the_workers() -> None:
    # 1,024 would divide by 64, the 32 of so few images do not
    text = by_the_rule() + "\ntrain: {workers: 64}\n"
    with pytest.raises(InputError, match="global batch of vit is 32 images") as refused:
        plan_of(text)
    assert "or recipe.batch_size" in str(refused.value)


def test_a_preset_of_another_name_is_refused_with_the_models_key() -> None:
    with pytest.raises(InputError, match=r"models\.semi-vit\.recipe\.preset: 'x' is no preset"):
        plan_of(by_the_rule(preset="x"))


def test_steps_that_another_cell_decides_were_not_fitted() -> None:
    (control,) = (
        each
        for each in lengths(plan_of(by_the_rule() + "controls: [compute]\n"))
        if each.cell.endswith("/compute")
    )
    # semi: 500 steps of 3·32 + 4·160 forwards; the control: 3·32 a step
    assert control.steps == round(500 * 736 / 96) and control.published == {"batch_size": 1024}
