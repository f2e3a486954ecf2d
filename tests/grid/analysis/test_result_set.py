"""The results table: from records alone, with a dash where there is no score."""

import io
import json
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from rich.console import Console
from tests.helpers.experiments import SEMI, STUDENT, VIT, distill_text, experiment_text
from tests.helpers.finished import FinishedGrid
from tests.helpers.scheduling import study_of
from tests.helpers.scores import alike

from semigrid.data.errors import StorageGoneError
from semigrid.data.storage import Storage, open_storage
from semigrid.grid.analysis.predictions import READERS
from semigrid.grid.analysis.result_set import CellResult, ResultSet, read_result_set
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.status.show import show_seconds
from semigrid.grid.study.ledger import Record, start_record
from semigrid.grid.study.plan import Plan
from semigrid.grid.tables import render
from semigrid.grid.tables.cells import cells_table
from semigrid.grid.tables.formats import Format
from semigrid.grid.tables.render import show
from semigrid.grid.tables.table import Column, Table
from semigrid.trainers.models.weights import Weights


@pytest.fixture
def results(tmp_path: Path) -> ResultSet:
    """Two seeds; vit/50% finished with 90 and 93 on test, everything else not."""
    text = experiment_text(seeds=2, search={"trials": 1})
    plan = Plan(load_experiment("file.yaml", text=text))
    search = plan.searches[0]
    records: dict[str, Record] = {}
    for seed, acc1 in [(0, 90.0), (1, 93.0)]:
        record = start_record(plan.spec(search, {}, seed, None), search.name)
        record.status = "finished"
        record.seconds = 61
        record.val = alike({"acc1": 1.0, "ce": 1.0})
        record.test = alike({"acc1": acc1, "acc5": 100.0, "ce": 0.25})
        records[record.id] = record
    read = read_result_set(study_of(plan, records), open_storage(tmp_path))
    return replace(read, problems=[])  # there are no predictions


@pytest.fixture
def rows(results: ResultSet) -> list[CellResult]:
    return results.rows


def test_storage_that_is_away_is_not_waited_for_once_for_each_file(tmp_path: Path) -> None:
    waited = []

    class Away(Storage):
        def read(self, name: str = "", limit: int | None = None) -> bytes:
            waited.append(name)
            time.sleep(0.1)
            raise StorageGoneError("away")

    plan = Plan(load_experiment("file.yaml", text=experiment_text(seeds=60, search={"trials": 1})))
    search, records = plan.searches[0], {}
    for seed in range(60):
        record = start_record(plan.spec(search, {}, seed, None), search.name)
        record.status, record.val = "finished", alike({"acc1": 1.0, "ce": 1.0})
        record.test = alike({"acc1": 1.0, "acc5": 1.0, "ce": 0.25})
        records[record.id] = record
    storage = open_storage(tmp_path)
    with pytest.raises(StorageGoneError):
        read_result_set(study_of(plan, records), Away(storage.files, storage.root))
    assert READERS <= len(waited) <= 2 * READERS


def test_mean_and_spread_over_seeds(rows: list[CellResult]) -> None:
    assert [row.cell.name for row in rows][0] == "digits/vit/50%"
    assert rows[0].mean("acc1") == 91.5
    # the sample standard deviation of 90 and 93: 3 / sqrt(2)
    assert rows[0].std("acc1") == pytest.approx(3 / 2**0.5)
    assert (rows[0].trials, rows[0].seconds, rows[0].labeled_images) == (1, 122, 126 + 151)


def test_what_teachers_took_counts_once(tmp_path: Path) -> None:
    kept = ("models", "grid", "seeds", "search")
    text = yaml.safe_load(distill_text())
    grid = FinishedGrid(tmp_path, **{name: text[name] for name in kept if name in text})
    for cell in (VIT, SEMI, STUDENT):
        grid.finish(cell, 150)
    (row,) = [row for row in grid.results().rows if row.cell.name == STUDENT]
    # 120 seconds each: the teacher vit is the parent of the other teacher, too
    assert (row.device_seconds, row.with_parents) == ({"cpu": 120.0}, {"cpu": 360.0})


def test_a_missing_score_is_a_dash_in_print_and_missing_as_data(results: ResultSet) -> None:
    table = cells_table(results)
    lines = render.to_markdown(table).splitlines()
    assert len(lines) == 2 + 4 + 2
    # the images to train are half of 246, class by class; val has 151 for every fraction
    assert lines[2].startswith("| vit | 50% | 277 |") and lines[3].startswith(
        "| vit | 100% | 397 |"
    )
    counted = "50% of digits is 126 to train and 151 to choose"
    assert lines[-1] == f"images: all labels used, of train and val: {counted}"
    assert "| 91.50 ± 2.12 | 100.00 ± 0.00 | 0.250 ± 0.000 | 1 | 2:02 |" in lines[2]
    assert lines[3].split(" | ")[4:7] == ["—", "—", "—"]
    read = pd.read_csv(io.StringIO(render.render(table, Format.csv).decode()))
    assert read["acc1"].isna().tolist() == [False, True, True, True]
    assert read["acc1"][0] == 91.5
    loaded = json.loads(render.render(table, Format.json))
    assert loaded[0]["test_per_seed"][1]["acc1"] == 93.0
    assert loaded[1]["acc1"] is None
    names = "labeled_images", "train_images", "val_images"
    assert [loaded[0][name] for name in names] == [277, 126, 151]
    assert read[[*names]].iloc[0].tolist() == [277, 126, 151]
    latex = render.to_latex(table)
    assert latex.count("&") == 8 * 5 and latex.count("---") == 3 * 3 + 2
    parquet = pd.read_parquet(io.BytesIO(render.render(table, Format.parquet)))
    assert parquet["acc1"].isna().tolist() == [False, True, True, True]


def test_a_table_has_the_same_columns_and_types_whatever_is_finished(results: ResultSet) -> None:
    nothing = replace(results, rows=results.rows[1:])
    full, empty = cells_table(results).frame, cells_table(nothing).frame
    assert list(full.columns) == list(empty.columns)
    for column in full.columns:
        assert str(full[column].dtype) == str(empty[column].dtype), column


def test_the_terminal_table_shows_every_cell(results: ResultSet) -> None:
    def printed(width: int) -> str:
        console = Console(width=width, file=io.StringIO(), record=True)
        show(cells_table(results), console)
        return console.export_text()

    assert printed(100).count("semi-vit") == 2 and printed(100).count("91.50 ± 2.12") == 1
    # a narrow terminal cuts no name and no number
    assert printed(80).count("semi-vit") == 2
    assert printed(80).count("91.50") == 1 and printed(80).count("2.12") == 1


def test_weights_and_their_licence_stand_under_the_table(results: ResultSet) -> None:
    assert len(cells_table(results).notes) == 1  # of labels: random weights need no licence
    known = Weights(source="timm/mae", license="cc-by-nc-4.0", sha256="ab" * 32)
    table = cells_table(
        replace(results, rows=[replace(row, weights=known) for row in results.rows])
    )
    note = "weights of vit, semi-vit: timm/mae, licence cc-by-nc-4.0 (not for commercial use), "
    assert table.notes[1:] == [note + "sha256 abababababab"]
    assert render.to_markdown(table).endswith(table.notes[1])
    assert render.to_latex(table).endswith("% " + table.notes[1])
    assert json.loads(render.render(table, Format.json))[0]["weights"]["sha256"] == "ab" * 32


def test_seconds_as_people_read_them() -> None:
    assert [show_seconds(s) for s in (0, 59.6, 61, 3723)] == ["0:00", "1:00", "1:01", "1:02:03"]


def test_a_cells_text_ends_no_cell_and_is_no_markup() -> None:
    column = Column[str]("name", lambda text: text, "name", is_name=True)
    table = Table("names", [column], ["a|b*", "<i>_x_"])
    assert render.to_markdown(table).splitlines()[2:] == ["| a\\|b\\* |", "| &lt;i&gt;\\_x\\_ |"]
