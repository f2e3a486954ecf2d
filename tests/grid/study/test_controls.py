"""Controls: their cells, their length, their pool, and what they are left out of."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.experiments import SMALL, experiment_text, plan_of
from tests.helpers.finished import FinishedGrid
from tests.helpers.made_up import MadeUpGrid, predicted
from tests.helpers.played import play

from semigrid.data.errors import InputError
from semigrid.grid.analysis.answer import answer
from semigrid.grid.analysis.paper import paper_acc1
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.report.accuracy import calibration
from semigrid.grid.study.plan import Cell, Plan
from semigrid.grid.tables.cells import cells_frame, cells_table, comparisons_table
from semigrid.grid.tables.paper_tables import labels_table, pool_table
from semigrid.grid.tables.slices import slices_table

BOTH = ["compute", "labeled-pool"]
POOLS = [{"model": "semi-vit", "labels": ["50%"], "unlabeled": ["200%", "100%", "400%"]}]


def with_controls(controls: Any = BOTH, **changes: Any) -> Plan:
    return plan_of(experiment_text(controls=controls, **changes))


def spec_of(plan: Plan, name: str) -> Any:
    search = next(search for search in plan.searches if search.name == name)
    return plan.spec(search, {}, 0, "p" if search.parent else None)


def models(finetune: dict[str, Any], semi: dict[str, Any]) -> dict[str, Any]:
    vit = SMALL["models"]["vit"]
    return {
        "vit": vit | {"recipe": vit["recipe"] | finetune},
        "semi-vit": SMALL["models"]["semi-vit"]
        | {"recipe": SMALL["models"]["semi-vit"]["recipe"] | semi},
    }


def test_each_cell_with_a_pool_has_its_controls_beside_it() -> None:
    plan = with_controls()
    assert [cell.name for cell in plan.cells] == [
        "digits/vit/50%",
        "digits/vit/100%",
        "digits/semi-vit/50%/100%",
        "digits/semi-vit/50%/100%/compute",
        "digits/semi-vit/50%/100%/labeled-pool",
        "digits/semi-vit/100%/100%",
        "digits/semi-vit/100%/100%/compute",
        "digits/semi-vit/100%/100%/labeled-pool",
    ]
    counts = plan.counts()
    assert (counts["cells"], counts["controls"], counts["searches"]) == (4, 4, 8)
    for search in plan.searches:
        if search.cell.control is not None:  # the start of the cell beside it
            assert search.parent is not None
            assert search.parent.name == f"digits/vit/{search.name.split('/')[2]}"
    assert plan.matching(["*/compute"]) == [c.name for c in plan.cells if c.control == "compute"]
    assert plan_of(experiment_text()).counts()["controls"] == 0


@pytest.mark.parametrize(
    ("finetune", "semi", "steps", "warmup"),
    [
        # semi: 3·4 + 4·8 = 44 forwards a step, 6 steps: 264; finetune: 3·8 = 24 a step
        ({}, {}, 11, 1),
        # B = 8, μ = 5: 3·8 + 4·40 = 184 a step, 100 steps: 18,400; 3·32 = 96 a step: 191.7
        (
            {"batch_size": 32, "steps": 50, "warmup_steps": 5},
            {"batch_size": 8, "unlabeled_ratio": 5, "steps": 100},
            192,
            19,
        ),
        # longer alone: 44 a step, 6 steps, over 3·100 a step
        ({"batch_size": 100}, {}, 1, 0),
    ],
)
def test_a_compute_control_costs_what_the_cell_beside_it_does(
    finetune: dict[str, Any], semi: dict[str, Any], steps: int, warmup: int
) -> None:
    plan = with_controls(["compute"], models=models(finetune, semi))
    spec = spec_of(plan, "digits/semi-vit/50%/100%/compute")
    start, beside = spec_of(plan, "digits/vit/50%"), spec_of(plan, "digits/semi-vit/50%/100%")
    assert (spec.recipe.total_steps, spec.recipe.warmup_steps) == (steps, warmup)
    assert (spec.method, spec.parent, spec.pool_images) == ("finetune", "p", None)
    changed = {"steps", "warmup_steps", "ema_decay"}
    assert spec.recipe.model_dump(exclude=changed) == start.recipe.model_dump(exclude=changed)
    half_a_step = 3 * spec.recipe.batch_size / 2
    assert steps == 1 or abs(spec.forwards - beside.forwards) <= half_a_step


@pytest.mark.parametrize("has_one", [True, False])
def test_a_compute_control_has_the_adapter_of_the_cell_beside_it(has_one: bool) -> None:
    lora = {"adapter": {"kind": "lora", "rank": 4}}
    settings = ({}, lora) if has_one else (lora, {})
    plan = with_controls(["compute"], models=models(*settings))
    start, beside = spec_of(plan, "digits/vit/50%"), spec_of(plan, "digits/semi-vit/50%/100%")
    control = spec_of(plan, "digits/semi-vit/50%/100%/compute")
    assert (beside.recipe.adapter is not None) == has_one == (start.recipe.adapter is None)
    assert control.recipe.adapter == beside.recipe.adapter


LORA = {"adapter": {"kind": "lora"}}


@pytest.mark.parametrize(
    ("start", "beside", "optimizer", "base_lr", "layer_decay"),
    [
        # what was chosen for one kind of training is no value for the other: as published
        ({"layer_decay": 0.5}, LORA, "adamw", 5e-3, 1.0),
        ({"optimizer": "sgd"}, LORA, "adamw", 5e-3, 1.0),
        ({**LORA, "layer_decay": 0.9}, {}, "adamw", 5e-4, 0.65),
        ({**LORA, "optimizer": "sgd"}, {"adapter": None}, "adamw", 5e-4, 0.65),
        # the same kind of training: as the file says
        ({**LORA, "optimizer": "sgd"}, {"adapter": {"kind": "lora", "rank": 2}}, "sgd", 0.03, 1.0),
        ({"layer_decay": 0.5}, {}, "adamw", 0.03, 0.5),
    ],
)
def test_a_control_with_another_kind_of_training_learns_as_published(
    start: dict[str, Any],
    beside: dict[str, Any],
    optimizer: str,
    base_lr: float,
    layer_decay: float,
) -> None:
    plan = with_controls(["compute"], models=models(start, beside))  # vit has a base_lr of 0.03
    recipe = spec_of(plan, "digits/semi-vit/50%/100%/compute").recipe
    found = recipe.optimizer, recipe.base_lr, recipe.layer_decay
    assert found == (optimizer, pytest.approx(base_lr), layer_decay)
    assert (recipe.batch_size, recipe.img_size) == (8, 16)  # all else is as the file says


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([1e-4, 1e-3], (2.5e-3, 1e-2)),  # half and twice the rate of LoRA
        ({"around": 1e-4, "times": 4}, (2.5e-3, 1e-2)),
        ({"plus": 1e-4}, (2.5e-3, 1e-2)),
        ({"times": 4}, (1.25e-3, 2e-2)),  # holds around any rate
        (None, None),
    ],
)
@pytest.mark.parametrize("key", ["vit", "finetune"])
def test_ranges_for_another_kind_of_training_are_not_the_controls(
    key: str, wanted: Any, expected: tuple[float, float] | None
) -> None:
    ranges = {"base_lr": wanted, "layer_decay": {"plus": 0.1}, "weight_decay": [0.01, 0.02]}
    search = {"space": {key: ranges}}
    plan = with_controls(["compute"], models=models({}, LORA), search=search)
    of_start, of_control = (
        plan.space(search)
        for search in plan.searches
        if search.name in ("digits/vit/50%", "digits/semi-vit/50%/100%/compute")
    )
    assert of_control["weight_decay"] == of_start["weight_decay"] == (0.01, 0.02)
    assert "layer_decay" in of_start and "layer_decay" not in of_control
    assert of_control.get("base_lr") == (expected and pytest.approx(expected))
    same = with_controls(["compute"], models=models({}, {}), search=search)
    spaces = {search.name: same.space(search) for search in same.searches}
    assert spaces["digits/semi-vit/50%/100%/compute"] == spaces["digits/vit/50%"]


def test_a_compute_control_has_the_logit_adjustment_of_the_cell_beside_it() -> None:
    for start, beside, expected in ((1, None, 1), (0, 1, 1), (1, 0, 0)):
        own = {} if beside is None else {"logit_adjustment": beside}
        plan = with_controls(["compute"], models=models({"logit_adjustment": start}, own))
        cells = ("digits/vit/50%", "digits/semi-vit/50%/100%", "digits/semi-vit/50%/100%/compute")
        found = [spec_of(plan, name).recipe.logit_adjustment for name in cells]
        assert found == [start, expected, expected]


def test_a_control_is_searched_as_the_method_that_it_has() -> None:
    plan = with_controls(search={"space": {"finetune": {"layer_decay": [0.5, 0.9]}}})
    spaces = {s.cell.control: plan.space(s) for s in plan.searches if s.cell.unlabeled}
    assert set(spaces["compute"]) == {"base_lr", "weight_decay", "layer_decay"}
    assert spaces["compute"]["base_lr"] == (0.015, 0.06)
    assert spaces["labeled-pool"] == spaces[None]


def test_the_pool_of_a_labeled_pool_control_is_its_labeled_images() -> None:
    plan = with_controls()
    beside = spec_of(plan, "digits/semi-vit/50%/100%")
    control = spec_of(plan, "digits/semi-vit/50%/100%/labeled-pool")
    assert (control.pool, control.pool_images) == ("labeled", 126)  # half of 246, class by class
    assert (beside.pool, beside.pool_images) == ("unlabeled", 300)
    same = beside.model_copy(update={"pool": "labeled", "pool_images": 126})
    assert control == same and control.id != beside.id
    assert control.forwards == beside.forwards


def test_cells_that_differ_in_their_pool_share_their_controls() -> None:
    plan = with_controls(grid=POOLS)
    # steps do not follow the pool, and a control sees none of it
    assert [cell.name for cell in plan.cells if cell.control] == [
        "digits/semi-vit/50%/100%/compute",
        "digits/semi-vit/50%/100%/labeled-pool",
    ]
    largest = Cell("digits", "semi-vit", Fraction(1, 2), Fraction(4))
    shared = plan.control_of(largest, "compute")
    assert shared is not None and shared.name == "digits/semi-vit/50%/100%/compute"
    epochs = models({}, {"steps": None, "warmup_steps": None, "epochs": 3, "warmup_epochs": 1})
    follow = with_controls(grid=POOLS, steps_follow_pool=True, models=epochs)
    assert sum(cell.control is not None for cell in follow.cells) == 6
    own = follow.control_of(largest, "compute")
    assert own is not None and own.unlabeled == 4
    assert plan_of(experiment_text()).control_of(largest, "compute") is None


def test_cells_whose_steps_are_given_share_their_controls_though_steps_follow_the_pool() -> None:
    plan = with_controls(grid=POOLS, steps_follow_pool=True)  # 6 steps whatever the pool is
    assert [cell.name for cell in plan.cells if cell.control] == [
        "digits/semi-vit/50%/100%/compute",
        "digits/semi-vit/50%/100%/labeled-pool",
    ]
    ids = [plan.spec(s, {}, 0, "p").id for s in plan.searches if s.cell.control]
    assert len(set(ids)) == 2
    for pool in (1, 2, 4):
        cell = Cell("digits", "semi-vit", Fraction(1, 2), Fraction(pool))
        shared = plan.control_of(cell, "compute")
        assert shared in plan.cells and plan.baseline_of(cell) == shared


def test_more_of_the_pool_takes_no_more_steps_unless_it_is_asked_for() -> None:
    short = {"steps": None, "warmup_steps": None, "epochs": 3, "warmup_epochs": 1}
    grid = [{"model": "semi-vit", "labels": ["50%"], "unlabeled": ["50%", "100%", "400%"]}]
    by_pool = {}
    for follow in (False, True):
        plan = plan_of(
            experiment_text(models=models({}, short), grid=grid, steps_follow_pool=follow)
        )
        by_pool[follow] = {
            s.cell.unlabeled: plan.spec(s, {}, 0, "p").recipe.total_steps
            for s in plan.searches
            if s.cell.unlabeled
        }
    # 3 passes over 300 images, 8 a step; 150 and 1,200 images where the steps follow the pool
    half, whole, four = Fraction(1, 2), Fraction(1), Fraction(4)
    assert by_pool[False] == {half: 112, whole: 112, four: 112}
    assert by_pool[True] == {half: 56, whole: 112, four: 450}


def test_a_warm_start_comes_from_a_control_of_the_same_kind() -> None:
    plan = with_controls(grid=[{"model": "semi-vit", "labels": ["50%", "100%"]}])
    neighbors = {search.name: search.neighbor for search in plan.searches if search.neighbor}
    assert neighbors == {
        "digits/vit/100%": "digits/vit/50%",
        **{
            f"digits/semi-vit/100%/100%{last}": f"digits/semi-vit/50%/100%{last}"
            for last in ("", "/compute", "/labeled-pool")
        },
    }


@pytest.mark.parametrize(
    "search",
    [
        {"trials": 2},
        {"trials": 2, "warm_start": True},
        {"trials": 2, "wave": 1, "early_stopping": True},
    ],
)
def test_a_grid_with_controls_is_searched_to_its_end_and_goes_on_when_it_is_killed(
    search: dict[str, Any],
) -> None:
    plan = with_controls(search=search, seeds=2)
    whole: dict[str, Any] = {}
    scheduler, _ = play(plan, whole, slots=3)
    assert {state.stage for state in scheduler.study.searches.values()} == {"finished"}
    killed: dict[str, Any] = {}
    play(plan, killed, slots=2, seed=1, jobs=9)
    play(plan, killed, slots=2, seed=2)
    assert killed.keys() == whole.keys()
    by_control = {record.cell.split("/")[-1] for record in whole.values()}
    assert {"compute", "labeled-pool"} <= by_control


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"controls": ["compute"], "grid": SMALL["grid"][:1]}, "controls: no model of grid uses"),
        ({"controls": ["cmpute"]}, "controls.0: 'cmpute'"),
        (
            {"controls": ["compute"], "search": {"space": {"semi": {"epochs": [1, 9]}}}},
            "search.space.semi.epochs: take it out, or compute out of controls",
        ),
        (
            {
                "controls": ["compute"],
                "models": models({"batch_size": 9}, {})
                | {"semi-vit": SMALL["models"]["semi-vit"] | {"train": {"workers": 2}}},
            },
            "the global batch of semi-vit's compute control, as of vit, is 9 images",
        ),
    ],
)
def test_controls_that_cannot_be(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        load_experiment("file.yaml", text=experiment_text(**changes))
    assert any(expected in problem for problem in caught.value.problems), caught.value.problems


@pytest.fixture
def finished(tmp_path: Path) -> FinishedGrid:
    """Compute controls that are better than every cell, and labelled pools that are worse."""
    grid = FinishedGrid(tmp_path, controls=BOTH)
    for fraction, vit, semi in (("25%", 100, 160), ("50%", 133, 178), ("100%", 160, 190)):
        grid.finish(f"digits/vit/{fraction}", vit)
        grid.finish(f"digits/semi-vit/{fraction}/100%", semi)
        grid.finish(f"digits/semi-vit/{fraction}/100%/compute", 195)
        grid.finish(f"digits/semi-vit/{fraction}/100%/labeled-pool", 20)
    grid.finish("digits/semi-vit/50%/200%", 188)
    grid.finish("digits/semi-vit/50%/400%", 170)
    return grid


def test_no_control_takes_the_place_of_a_cell(finished: FinishedGrid) -> None:
    results = finished.results()
    cells = [row.cell.name for row in results.rows if row.cell.control is None]
    assert len(results.rows) == 14 and len(cells) == 8
    with_all, without = answer(results), answer(finished.results(cells))
    assert [s.row.cell.name for s in with_all.savings] == [s.row.cell.name for s in without.savings]
    # the answer reads them; the paper's claims stay as they are
    (headline,), (plain,) = with_all.headlines, without.headlines
    assert (headline.full.cell.control, plain.full.cell.control) == ("compute", None)
    of_paper = ("beats", "matches vit (", "then hurt", "under 1%")
    for text in of_paper:
        (one,), (other,) = (
            [claim for claim in found.claims if text in claim.text] for found in (with_all, without)
        )
        assert one == other
    rare = [claim.text for claim in with_all.claims if "under 1%" in claim.text]
    assert rare and "digits/semi-vit/100%/100%)" in rare[0]  # not the control, which is better
    (pool,) = with_all.pools
    assert [row.cell.name.split("/")[3] for row in pool.rows] == ["100%", "200%", "400%"]
    # they stand in the table, and neither in the standings nor in the paper's views
    data = cells_frame(results, results.rows)
    assert list(data["control"].dropna()) == BOTH * 3
    assert data["unlabeled"].isna().sum() == 3 + 6 and np.isclose(data["acc1"].max(), 97.5)
    shown = [cell.cell for row in labels_table(results).rows for cell in row.values()]
    shown += [row.cell for row in pool_table(results).rows]
    assert {cell.control for cell in shown} == {None}
    experiment = results.plan.experiment
    for row in results.rows:
        if row.cell.control:
            assert paper_acc1(row.cell, "apron-food-bib-pattern", experiment) is None


def test_no_control_decides_which_cell_is_the_best(finished: FinishedGrid) -> None:
    results = finished.results()
    cells = [row.cell.name for row in results.rows if row.cell.control is None]
    # as if they were not there: the 28 pairs of 8 cells, corrected for 28
    assert results.standings == finished.results(cells).standings
    assert len(comparisons_table(results).rows) == 28
    (best,) = results.best
    assert best.cell.name == "digits/semi-vit/100%/100%"  # 190 are right, 195 of the controls
    table = cells_table(results)
    data = table.frame.set_index("cell")
    control = data.loc[f"{best.cell.name}/compute"]
    assert control["acc1"] > data.loc[best.cell.name, "acc1"]
    assert control[["standing", "to_best", "to_best_p"]].isna().all()
    assert control["to_baseline"] == pytest.approx(17.5)  # 35 of 200 above vit/100%
    notes = " ".join([*table.all_notes, *comparisons_table(results).all_notes])
    assert "vs best: among the cells that are no controls" in notes
    assert "controls are compared in the column vs baseline" in notes
    assert "/compute" not in " ".join(labels_table(results).all_notes)
    calibrated = [name for name, *_ in calibration(results, "digits").rows]
    assert calibrated == ["digits/vit/100%", best.cell.name]
    # where only controls are asked for, they are compared with each other
    only = finished.results([f"{best.cell.name}/compute"])
    assert [row.cell.control for row in only.best] == ["compute"]


def test_a_table_by_slice_has_no_controls() -> None:
    grid = MadeUpGrid(controls=["compute"], grid=[{"model": "semi-vit", "labels": ["50%"]}])
    labels = np.arange(40) % 4
    cell = "digits/semi-vit/50%/100%"
    right = predicted(np.ones((1, 40), bool), labels, 4)
    seeds = {cell: right, f"{cell}/compute": right}
    where = ["north", "south"] * 20
    results = grid.results(labels, seeds, 4, where=where)
    table = slices_table(results, "where")
    assert [row.cell.control for row in table.rows] == [None]
    assert table.records is not None and len(table.records) == len(table.rows)
    assert set(table.frame["cell"]) == {cell}
