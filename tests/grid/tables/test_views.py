"""Tables of finished cells against independent counts, in every format."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from tests.helpers.command import semigrid
from tests.helpers.experiments import SMALL
from tests.helpers.finished import FinishedGrid

from semigrid.data.errors import InputError
from semigrid.grid.analysis.classes import class_results, confusions
from semigrid.grid.analysis.classes import confusion_matrix as confusion_of
from semigrid.grid.analysis.paper import paper_acc1, paper_tasks
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.report.page import report
from semigrid.grid.study.plan import Plan
from semigrid.grid.tables import render
from semigrid.grid.tables.classes import confusions_table
from semigrid.grid.tables.costs import cell_costs
from semigrid.grid.tables.formats import Format, View, format_of
from semigrid.grid.tables.views import TABLES
from semigrid.trainers.evaluation.predictions import decode_predictions


@pytest.fixture
def finished(tmp_path: Path) -> FinishedGrid:
    """Two seeds; semi-vit/100% is far above the rest, its 50 % cells are not finished."""
    grid = FinishedGrid(tmp_path, seeds=2)
    for cell, first, second in [
        ("digits/vit/25%", 101, 97),
        ("digits/vit/50%", 120, 124),
        ("digits/vit/100%", 135, 137),
        ("digits/semi-vit/25%/100%", 130, 131),
        ("digits/semi-vit/100%/100%", 196, 195),
    ]:
        grid.finish(cell, first, second)
    return grid


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+\.\d+", text)


def test_the_latex_table_has_the_numbers_of_the_csv_to_the_printed_digit(
    finished: FinishedGrid,
) -> None:
    table = TABLES[View.cells](finished.results())
    lines = render.to_latex(table).splitlines()
    assert lines[1].startswith(r"\begin{tabular}{l") and r"\toprule" in lines[2]
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    header = lines[lines.index(r"\toprule") + 1].removesuffix(r" \\").split(" & ")
    read = pd.read_csv(io.StringIO(render.render(table, Format.csv).decode()))
    assert len(body) == len(read) == 8
    for line, row in zip(body, read.to_dict("records"), strict=True):
        shown = dict(zip(header, line.removesuffix(r" \\").split(" & "), strict=True))
        if np.isnan(row["acc1"]):
            assert shown["Acc@1"] == shown["CE"] == shown["ECE"] == shown[r"95\%"] == "---"
            continue
        assert numbers(shown["Acc@1"]) == [f"{row['acc1']:.2f}", f"{row['acc1_std']:.2f}"]
        assert numbers(shown["CE"]) == [f"{row['ce']:.3f}", f"{row['ce_std']:.3f}"]
        assert numbers(shown[r"95\%"]) == [f"{row['acc1_low']:.1f}", f"{row['acc1_high']:.1f}"]
        assert numbers(shown["ECE"]) == [f"{row['ece']:.3f}"]
        assert shown["images"] == str(row["labeled_images"])
    # braces and columns are closed: what LaTeX would stumble over
    assert all(line.count("&") == len(header) - 1 for line in body)
    assert all(line.count("{") == line.count("}") for line in lines)


def test_the_best_is_marked_if_it_can_be_told_apart(finished: FinishedGrid) -> None:
    def marked() -> list[str]:
        shown = render.to_markdown(TABLES[View.cells](finished.results()))
        return re.findall(r"\*\*(.*?)\*\*", shown)

    assert marked() == ["97.75 ± 0.35"]
    text = render.to_latex(TABLES[View.cells](finished.results()))
    assert r"\textbf{97.75 $\pm$ 0.35}" in text
    standings = finished.results().standings
    assert standings.notes() == []
    # another that is as good: nobody is the best
    finished.finish("digits/semi-vit/50%/100%", 194, 195)
    assert marked() == []
    shown = render.to_markdown(TABLES[View.cells](finished.results()))
    assert "no value of digits is marked as the best: the highest is not separable from" in shown
    table = TABLES[View.cells](finished.results()).frame.set_index(["model", "labels"])
    assert set(table["standing"].dropna()) == {"below", "not separable"}
    assert table.loc[("semi-vit", "100%"), "standing"] == "not separable"


def test_pairs_of_one_seed_are_mcnemars_corrected_as_by_statsmodels(tmp_path: Path) -> None:
    grid = FinishedGrid(tmp_path)
    draw = np.random.default_rng(0)
    right = {}
    for cell, skill in [("digits/vit/25%", 0.7), ("digits/vit/50%", 0.75), ("digits/vit/100%", 1)]:
        right[cell] = draw.random(200) < skill
        grid.finish(cell, right[cell])
    pairs = TABLES[View.comparisons](grid.results()).frame
    assert len(pairs) == 3
    expected = []
    for cell, other in zip(pairs["cell"], pairs["other"], strict=True):
        a, b = right[cell], right[other]
        counts = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
        expected.append(mcnemar(counts, exact=True).pvalue)
    assert pairs["p"].tolist() == pytest.approx(expected)
    assert pairs["p_holm"].tolist() == pytest.approx(
        list(multipletests(expected, method="holm")[1])
    )
    shown = render.to_markdown(TABLES[View.comparisons](grid.results()))
    assert shown.count("not separable") == int((~pairs["separable"]).sum())


def test_classes_and_confusions_are_counted_as_by_sklearn(tmp_path: Path) -> None:
    grid = FinishedGrid(tmp_path, seeds=2)
    draw = np.random.default_rng(1)
    files = grid.finish("digits/vit/100%", draw.random(200) < 0.8, draw.random(200) < 0.7)
    tables = [decode_predictions(file.read_bytes(), 200, 10) for file in files]
    results = grid.results()
    row = next(row for row in results.rows if row.cell.name == "digits/vit/100%")
    matrices = [
        confusion_matrix(t.labels, t.probabilities.argmax(axis=1), labels=range(10)) for t in tables
    ]
    expected = np.mean(matrices, axis=0)
    assert np.array_equal(confusion_of(results, row), expected)
    for line in class_results(results, row):
        label = int(line.name)
        shares = [100 * m[label, label] / m[label].sum() for m in matrices]
        assert line.acc1 == pytest.approx(shares)
        assert (
            line.test_images == 20
            and line.interval.low <= np.mean(shares) / 100 <= line.interval.high
        )
    lines = class_results(results, row)
    assert sum(line.train_share for line in lines) == pytest.approx(1)
    assert sum(line.train_images for line in lines) == row.label_count.train
    means = [np.mean(line.acc1) for line in lines]
    assert means == sorted(means)  # the weakest first
    found = confusions(results, row)
    assert sum(each.images for each in found) == pytest.approx(expected.sum() - expected.trace())
    assert found[0].images == max(each.images for each in found)
    assert found[0].share == found[0].images / 20
    assert len(confusions_table(results).rows) <= 20


def test_costs_by_hand(tmp_path: Path) -> None:
    grid = FinishedGrid(tmp_path, seeds=2, prices={"cpu": 3.0})
    grid.finish("digits/vit/100%", 100, 104)
    grid.finish("digits/semi-vit/100%/100%", 120, 124)
    lines = {line.row.cell.name: line for line in cell_costs(grid.results())}
    vit, semi = lines["digits/vit/100%"], lines["digits/semi-vit/100%/100%"]
    # two trainings of 120 seconds each, at 3 an hour
    assert vit.price == pytest.approx(2 * 120 / 3600 * 3) and vit.over_parent is None
    assert (semi.row.device_seconds, semi.row.with_parents) == ({"cpu": 240.0}, {"cpu": 480.0})
    assert semi.price_with_parents == pytest.approx(2 * vit.price)
    assert semi.over_parent == pytest.approx(10)  # 60 and 62 % against 50 and 52 %
    assert semi.per_point(semi.price) == pytest.approx(0.02)
    assert lines["digits/vit/25%"].price is None
    shown = render.to_markdown(TABLES[View.costs](grid.results()))
    assert "| +10.00 | 24 s | 0.02" in shown
    grid.finish("digits/semi-vit/100%/100%", 90, 90)  # worse than its parent: no price a point
    worse = {line.row.cell.name: line for line in cell_costs(grid.results())}
    assert worse[semi.row.cell.name].per_point(1.0) is None


def test_the_papers_tables_two_and_three(finished: FinishedGrid) -> None:
    labels = render.to_markdown(TABLES[View.labels](finished.results())).splitlines()
    assert labels[0] == "| model | labels | Acc@1 | Acc@5 | CE |"
    assert [line.split(" | ")[:2] for line in labels[2:8]] == [
        [f"| {model}", fraction]
        for model in ("vit", "semi-vit")
        for fraction in ("25%", "50%", "100%")
    ]
    pool = TABLES[View.pool](finished.results())
    assert [row.pool_images for row in pool.rows] == [300, 600, 1200]
    alone = finished.results(["digits/vit/25%"])
    with pytest.raises(InputError, match="no cells differ in their unlabelled images only"):
        TABLES[View.pool](alone)


def test_the_papers_own_values_stand_beside(tmp_path: Path) -> None:
    models = {**SMALL["models"], "resnet": {"backbone": "resnet18", "method": "finetune"}}
    models["resnet"]["pretrained"] = False
    grid = [
        {"model": "resnet", "labels": ["100%"]},
        {"model": "vit", "labels": ["25%", "50%"]},
        {"model": "semi-vit", "labels": ["50%"], "unlabeled": ["100%", "400%"]},
    ]
    experiment = FinishedGrid(tmp_path, models=models, grid=grid).plan.experiment
    tasks = paper_tasks(["apron-food-bib-pattern"], experiment)
    found = [paper_acc1(cell, tasks["digits"], experiment) for cell in Plan(experiment).cells]
    # what cannot be read in the source has no value
    assert found == [73.766, 69.898, None, 77.234, 77.679]
    table = semigrid("table", str(tmp_path / "file.yaml"), "--paper", "digits=phone-case-pattern")
    assert "79.149" in table.stdout and "72.931" in table.stdout
    for asked, why in [
        ("shoes", "'shoes' is no task; .*; the tasks are vest-neck-style"),
        ("shoes=vest-neck-style", "'shoes' is no dataset; .*; the datasets are digits"),
    ]:
        with pytest.raises(InputError, match=why):
            paper_tasks([asked], experiment)
    two = load_experiment(
        "file.yaml",
        text=(tmp_path / "file.yaml")
        .read_text()
        .replace("digits: builtin://digits", "digits: builtin://digits\n  more: builtin://digits"),
    )
    with pytest.raises(InputError, match="DATASET=TASK; the datasets are digits, more"):
        paper_tasks(["vest-neck-style"], two)


def test_the_papers_values_stand_beside_the_papers_models_only(tmp_path: Path) -> None:
    models = {**SMALL["models"], "fixed": {**SMALL["models"]["semi-vit"], "method": "fixmatch"}}
    for name, backbone in (("levit", "levit_128"), ("semi-mobile", "mobilevit_s")):
        models[name] = {"backbone": backbone, "method": "finetune", "pretrained": False}
    models["semi-mobile-vit"] = {"from": "semi-mobile", "method": "semi"}
    pool = {"labels": ["50%"], "unlabeled": ["100%", "200%"]}
    grid = [
        {"model": "levit", "labels": ["25%"]},
        *({"model": name, **pool} for name in ("semi-vit", "fixed", "semi-mobile-vit")),
    ]
    experiment = FinishedGrid(tmp_path, models=models, grid=grid).plan.experiment
    cells = Plan(experiment).cells
    found = {cell.name: paper_acc1(cell, "apron-food-bib-pattern", experiment) for cell in cells}
    assert {name: value for name, value in found.items() if value is not None} == {
        "digits/semi-vit/50%/100%": 77.234,
        "digits/semi-vit/50%/200%": 78.301,
    }
    assert len(found) == 7


@pytest.mark.parametrize("view", list(View))
def test_every_view_prints_in_every_format(finished: FinishedGrid, view: View) -> None:
    finished.finish("digits/semi-vit/50%/100%", 150, 151)
    table = TABLES[view](finished.results())
    for format in Format:
        content = render.render(table, format)
        if format is Format.parquet:
            read = pd.read_parquet(io.BytesIO(content))
            assert list(read.columns) == list(table.frame.columns)
        elif format is Format.json:
            assert len(json.loads(content)) == len(table.frame)
        elif format is Format.csv:
            assert len(pd.read_csv(io.BytesIO(content))) == len(table.frame)
        else:
            assert content.decode().count("\n") >= len(table.rows)


def test_a_table_is_written_where_it_is_wanted(finished: FinishedGrid, tmp_path: Path) -> None:
    for name in ("t.csv", "t.parquet"):
        done = semigrid("table", str(finished.file), "-o", str(tmp_path / "new" / name))
        assert done.returncode == 0 and done.stdout == "", done.stderr
        assert f"written: {tmp_path}/new/{name}" in done.stderr
    frame = pd.read_parquet(tmp_path / "new/t.parquet")
    assert frame["acc1"].tolist()[:2] == pd.read_csv(tmp_path / "new/t.csv")["acc1"].tolist()[:2]
    done = semigrid("table", str(finished.file), "-o", "table.xlsx")
    assert (
        done.returncode == 2 and "its ending stands for no format; use one of .txt" in done.stderr
    )
    done = semigrid("table", str(finished.file), "--by", "north", "--view", "costs")
    assert done.returncode == 2 and "give one of them" in done.stderr
    assert format_of(None, None) is Format.terminal
    assert format_of(Format.csv, "table.xlsx") is Format.csv


def test_predictions_that_are_not_those_written_are_left_out(finished: FinishedGrid) -> None:
    file = finished.finish("digits/vit/100%", 135, 137)[1]
    other = finished.predictions(~finished.first(63))  # as many right, on other images
    assert other.metrics(finished.class_shares)["acc1"] == 68.5
    file.write_bytes(other.encode())
    done = semigrid("table", str(finished.file), "--format", "csv")
    assert "digits/vit/100%, seed 1, is left out" in done.stderr
    assert "damaged, it is not what was written" in done.stderr
    table = pd.read_csv(io.StringIO(done.stdout)).set_index("cell")
    # the ledger's scores stand; the interval is that of the seed that is left
    row = table.loc["digits/vit/100%"]
    assert row["acc1"] == pytest.approx(68) and row["acc1_low"] < 67.5 < row["acc1_high"]


def test_a_failed_cell_is_a_dash_everywhere(finished: FinishedGrid) -> None:
    finished.finish("digits/vit/100%", 135, 137)
    for record in finished.ledger.read_all().values():
        if record.cell == "digits/vit/100%":
            failed = {"status": "diverged", "error": "the loss is nan", "test": None, "val": {}}
            finished.ledger.write(record.model_copy(update=failed))
    table = TABLES[View.cells](finished.results())
    states = {row.cell.name: row.state for row in table.rows}
    assert states["digits/vit/100%"] == "failed"
    assert states["digits/semi-vit/100%/100%"] == "blocked"  # it starts from there
    for text in (render.to_markdown(table), render.render(table, Format.terminal).decode()):
        (line,) = [x for x in text.splitlines() if re.search(r"vit\W+100%\W+397\W+—", x)]
        assert line.count("—") >= 6 and "nan" not in line
    row = table.frame.set_index("cell").loc["digits/vit/100%"]
    assert row[["acc1", "ce", "ece", "acc1_low", "to_best"]].isna().all()
    html = report(finished.results())
    assert "digits/vit/100%: failed: " in html and ">nan<" not in html
