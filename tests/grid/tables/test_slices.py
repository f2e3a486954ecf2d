"""The table by slice: hand-counted scores, from prediction tables to every format."""

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from tests.helpers.command import semigrid
from tests.helpers.experiments import SMALL, experiment_text
from tests.helpers.scheduling import study_of
from tests.helpers.scores import alike
from tests.helpers.shop import SETTINGS, shop

from semigrid.data.builder.ingest import build_dataset
from semigrid.data.errors import InputError
from semigrid.data.schema import MANIFEST, Dataset
from semigrid.data.sources.files import folder_items
from semigrid.data.sources.items import Item
from semigrid.data.storage import open_storage
from semigrid.grid.analysis.result_set import ResultSet, read_result_set
from semigrid.grid.analysis.statistics import accuracy_interval, plain
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.study.ledger import Ledger, start_record
from semigrid.grid.study.plan import Plan, Search
from semigrid.grid.tables.cells import cells_table
from semigrid.grid.tables.formats import Format
from semigrid.grid.tables.render import render, show, to_markdown
from semigrid.grid.tables.slices import slice_columns, slice_results, slices_table
from semigrid.grid.tables.table import Column, Table
from semigrid.trainers.evaluation.predictions import decode_predictions
from semigrid.trainers.layout import predictions_file

# value of the slice, images, right ones
Counts = Sequence[tuple[str | None, int, int]]
FIRST: Counts = [("north", 40, 30), ("south", 50, 45), ("islands", 9, 6), (None, 1, 1)]
SECOND: Counts = [("north", 40, 32), ("south", 50, 45), ("islands", 9, 9), (None, 1, 0)]


def predictions(counts: Counts, *columns: str) -> pa.Table:
    """A prediction table over two classes, as ``evaluate_trial`` writes it."""
    found: dict[str, list[Any]] = {"label": [], "probabilities": [], "value": []}
    for value, images, right in counts:
        for number in range(images):
            label = len(found["label"]) % 2
            chosen = label if number < right else 1 - label
            found["label"].append(label)
            found["probabilities"].append([0.6 if k == chosen else 0.4 for k in range(2)])
            found["value"].append(value)
    return pa.table(
        {
            "image_id": [f"image-{i}" for i in range(len(found["label"]))],
            "label": found["label"],
            "probabilities": pa.array(found["probabilities"], pa.list_(pa.float64(), 2)),
            **dict.fromkeys(columns or ["marketplace"], pa.array(found["value"], pa.string())),
        }
    )


def has_test_images(dataset: Dataset, images: int) -> None:
    """Lets a dataset say that it has so many test images: they are only counted here."""
    manifest = dataset.manifest
    of_classes = dict(zip(manifest.classes, (images - images // 2, images // 2), strict=True))
    counts = {**manifest.counts, "test": of_classes}
    shards = tuple(
        shard.model_copy(update={"row_groups": (images,)}) if shard.split == "test" else shard
        for shard in manifest.shards
    )
    dataset.manifest = manifest.model_copy(update={"counts": counts, "shards": shards})
    dataset.storage.write(MANIFEST, dataset.manifest.model_dump_json().encode())


class Finished:
    """An experiment on built datasets with some of its cells finished; nothing is trained."""

    def __init__(self, folder: Path, slices: dict[str, list[str]], seeds: int = 2):
        for number, (dataset, names) in enumerate(slices.items()):
            images = shop(folder / f"{dataset}-images", 60 + number)  # no two datasets are equal
            items = [
                Item(i.image_id, i.uri, i.label, None, dict.fromkeys(names, "north"))
                for i in folder_items(str(images))
            ]
            build_dataset(str(folder / dataset), items, SETTINGS)
        text = experiment_text(
            datasets={dataset: str(folder / dataset) for dataset in slices},
            models={"vit": SMALL["models"]["vit"]},
            grid=[{"model": "vit", "labels": ["50%", "100%"]}],
            search={"trials": 1},
            seeds=seeds,
            storage=str(folder / "results"),
        )
        self.file = folder / "file.yaml"
        self.file.write_text(text)
        self.plan = Plan(load_experiment("file.yaml", text=text))
        self.storage = open_storage(self.plan.experiment.folder)
        self.ledger = Ledger(self.storage)

    def search(self, cell: str) -> Search:
        return next(search for search in self.plan.searches if search.name == cell)

    def finish(self, cell: str, *seeds: Counts) -> list[Path]:
        """Records a cell as finished and writes its seeds' predictions; returns their files."""
        files = []
        for seed, counts in enumerate(seeds):
            record = start_record(self.plan.spec(self.search(cell), {}, seed, None), cell)
            record.status = "finished"
            record.val = alike({"acc1": 1.0, "ce": 1.0})
            self.storage.write(f"weights/{record.id}.safetensors", b"")
            file = Path(self.storage.location(predictions_file(record.id)))
            file.parent.mkdir(exist_ok=True)
            dataset = self.plan.experiment.datasets[cell.partition("/")[0]]
            has_test_images(dataset, images := sum(n for _, n, _ in counts))
            pq.write_table(predictions(counts, *dataset.manifest.slices), file)
            table = decode_predictions(file.read_bytes(), images, 2)
            record.test = table.metrics(dataset.manifest.class_shares)
            self.ledger.write(record)
            files.append(file)
        return files

    def results(self) -> ResultSet:
        study = study_of(self.plan, self.ledger.read_all(), self.ledger.has_weights)
        return read_result_set(study, self.storage)

    def table(self, name: str = "marketplace") -> Table[Any]:
        return slices_table(self.results(), name)

    def columns(self) -> list[Column[Any]]:
        results = self.results()
        return slice_columns(results.rows, slice_results(results, "marketplace"))

    def printed(self, width: int) -> str:
        console = Console(width=width, file=io.StringIO(), record=True)
        show(self.table(), console)
        return console.export_text()


@pytest.fixture
def aprons(tmp_path: Path) -> Finished:
    """One dataset; 50% has two seeds on 40 + 50 + 9 + 1 images, 100% is not finished."""
    finished = Finished(tmp_path, {"aprons": ["marketplace", "season"]})
    finished.finish("aprons/vit/50%", FIRST, SECOND)
    return finished


def test_an_image_without_a_value_may_have_none_or_an_empty_one(tmp_path: Path) -> None:
    finished = Finished(tmp_path, {"aprons": ["marketplace"]}, seeds=1)
    finished.finish("aprons/vit/50%", [("b", 3, 2), (None, 2, 1), ("a", 1, 0), ("", 2, 2)])
    results = finished.results()
    by_value = slice_results(results, "marketplace")[results.rows[0].cell]
    found = [(value, each.images, *each.acc1) for value, each in by_value.items()]
    assert found == [("b", 3, 200 / 3), ("a", 1, 0), ("—", 4, 75)]


def test_mean_and_spread_over_seeds_largest_slices_first(aprons: Finished) -> None:
    table = aprons.table()
    header, rule, half, full = to_markdown(table).splitlines()[:4]
    assert header == (
        "| model | labels | images | pool | Acc@1 "
        r"| south (50) | north (40) | islands (9)\* | — (1)\* |"
    )
    assert rule.count("---:") == 8
    # north is right on 30 and 32 of 40: 75 and 80 %, 77.5 ± 5 / sqrt(2)
    assert half.endswith(
        "| 32 | — | 84.00 ± 2.83 | 90.00 ± 0.00 (78–96) | 77.50 ± 3.54 (62–88) "
        "| 83.33 ± 23.57 (11–100) | 50.00 ± 70.71 (3–97) |"
    )
    assert full.endswith("| 54 | — | — | — | — | — | — |")
    note = "* fewer than 30 test images: take these scores as a hint"
    assert table.all_notes[:-1] == [
        note,
        "by marketplace: the share of the slice's images that are right, whatever their class; in "
        "brackets: 95% intervals",
    ]
    assert to_markdown(table).splitlines()[5] == "\\" + note
    assert "north (40)" in aprons.printed(80) and "77.50 ± 3.54" in aprons.printed(80)


def test_the_slices_weighted_by_their_images_make_the_whole(aprons: Finished) -> None:
    table = aprons.table()
    facts = json.loads(render(table, Format.json))[0]
    values = facts["slices"]["marketplace"].values()
    for seed, test in enumerate(facts["test_per_seed"]):
        total = sum(of["images"] * of["acc1_per_seed"][seed] for of in values)
        assert total / sum(of["images"] for of in values) == pytest.approx(test["acc1"])


def test_thirty_images_are_enough_and_those_without_a_value_come_last(tmp_path: Path) -> None:
    finished = Finished(tmp_path, {"aprons": ["marketplace"]}, seeds=1)
    finished.finish("aprons/vit/50%", [(None, 40, 10), ("south", 29, 29), ("north", 30, 15)])
    table = finished.table()
    columns = finished.columns()
    assert [column.header for column in columns] == ["north (30)", "south (29)*", "— (40)"]
    # one seed has no spread
    assert [column.text(table.rows[0]) for column in columns] == [
        "50.00 (33–67)",  # Wilson's
        "100.00 (88–100)",
        "25.00 (14–40)",
    ]


def test_json_nests_and_csv_has_a_line_for_each_value(aprons: Finished) -> None:
    table = aprons.table()
    half, full = json.loads(render(table, Format.json))
    north = half["slices"]["marketplace"]["north"]
    of_north = np.array([[number < right for number in range(40)] for right in (30, 32)])
    interval = accuracy_interval(plain(of_north))
    assert north == {
        "images": 40,
        "acc1_per_seed": [75.0, 80.0],
        "acc1": 77.5,
        "acc1_std": pytest.approx(5 / 2**0.5),
        "acc1_low": pytest.approx(100 * interval.low),
        "acc1_high": pytest.approx(100 * interval.high),
    }
    nothing = full["slices"]["marketplace"]["north"]
    assert nothing == {**dict.fromkeys(north), "images": 40, "acc1_per_seed": []}
    cells = json.loads(render(cells_table(aprons.results()), Format.json))
    assert half["acc1"] == 84 and "slices" not in cells[0]
    frame = pd.read_csv(io.StringIO(render(table, Format.csv).decode()))
    assert frame["value"].tolist() == ["south", "north", "islands", "—"] * 2
    assert frame["test_images"].tolist() == [50, 40, 9, 1] * 2
    assert frame["slice_acc1"].isna().tolist() == [False] * 4 + [True] * 4
    north = frame[(frame["labels"] == "50%") & (frame["value"] == "north")].iloc[0]
    assert (north["slice"], north["slice_acc1"], north["slice_seeds"]) == ("marketplace", 77.5, 2)
    assert (north["acc1"], north["labeled_images"], north["seeds"]) == (84, 22 + 10, 2)
    assert north["slice_acc1_std"] == pytest.approx(5 / 2**0.5)


def test_datasets_count_their_own_images(tmp_path: Path) -> None:
    names = {"aprons": ["marketplace"], "vests": ["marketplace"], "digits": []}
    finished = Finished(tmp_path, names, seeds=1)
    finished.finish("aprons/vit/50%", [("north", 40, 30), ("islands", 9, 9)])
    finished.finish("vests/vit/50%", [("islands", 50, 10), ("north", 4, 1), ("west", 2, 1)])
    finished.finish("digits/vit/50%", [("elsewhere", 10, 5)])
    table = finished.table()
    columns = finished.columns()
    assert [column.header for column in columns] == [
        "islands\n(aprons 9)*\n(vests 50)",
        "north\n(aprons 40)\n(vests 4)*",
        "west\n(vests 2)*",
    ]
    assert r"| islands (aprons 9)\* (vests 50) |" in to_markdown(table)
    shown = {
        row.cell.name: [column.text(row).split(" (")[0] for column in columns] for row in table.rows
    }
    assert shown["aprons/vit/50%"] == ["100.00", "75.00", "—"]
    assert shown["vests/vit/50%"] == ["20.00", "25.00", "50.00"]
    assert shown["digits/vit/50%"] == ["—", "—", "—"]
    assert table.problems == []  # a dataset without the slice is no problem
    frame = pd.read_csv(io.StringIO(render(table, Format.csv).decode()))
    of = frame[(frame["dataset"] == "digits") & (frame["labels"] == "50%")]
    assert of["acc1"].tolist() == [50] and of["value"].isna().all()
    assert of["slice_acc1"].isna().all() and of["test_images"].isna().all()
    assert frame[frame["dataset"] == "aprons"]["test_images"].tolist() == [40, 9] * 2


def test_a_slice_that_no_dataset_has_names_those_there_are(tmp_path: Path) -> None:
    finished = Finished(tmp_path, {"aprons": ["marketplace", "season"], "vests": ["season"]})
    known = r"there are marketplace \(aprons\), season \(aprons\), season \(vests\)"
    with pytest.raises(InputError, match=f"'country' is no slice of aprons, vests; {known}"):
        finished.table("country")
    with pytest.raises(InputError, match="'country' is no slice of shirts; they have none"):
        Finished(tmp_path, {"shirts": []}).table("country")


def test_nothing_finished_is_said(tmp_path: Path) -> None:
    finished = Finished(tmp_path, {"aprons": ["marketplace"]})
    table = finished.table()
    assert finished.columns() == []
    assert table.all_notes[:-1] == [
        "no cell is finished yet, so there is no accuracy by marketplace"
    ]
    frame = pd.read_csv(io.StringIO(render(table, Format.csv).decode()))
    assert frame["labels"].tolist() == ["50%", "100%"] and frame["slice_acc1"].isna().all()


def test_a_cell_not_measured_on_every_seed_has_no_scores_yet(aprons: Finished) -> None:
    aprons.finish("aprons/vit/100%", FIRST, SECOND)
    record = next(r for r in aprons.ledger.read_all().values() if r.cell == "aprons/vit/100%")
    record.test = None
    aprons.ledger.write(record)
    table = aprons.table()
    assert [row.state for row in table.rows] == [
        "finished",
        "evaluating",
    ] and table.problems == []
    half, full = json.loads(render(table, Format.json))
    assert half["slices"]["marketplace"]["north"]["acc1_per_seed"] == [75.0, 80.0]
    assert full["slices"]["marketplace"]["north"]["acc1_per_seed"] == []


def unlink(file: Path) -> None:
    file.unlink()


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def without_slices(file: Path) -> None:
    pq.write_table(predictions(SECOND, "other"), file)


def of_another(file: Path) -> None:
    pq.write_table(predictions(FIRST, "marketplace", "season"), file)


def other_images(file: Path) -> None:
    """As many right, on other images."""
    table = predictions(SECOND, "marketplace", "season")
    ids = pa.array([f"other-{i}" for i in range(len(table))])
    pq.write_table(table.set_column(0, "image_id", ids), file)


def less_sure(file: Path) -> None:
    """The same classes, with other probabilities."""
    table = predictions(SECOND, "marketplace", "season")
    flat = table["probabilities"].combine_chunks().flatten().to_numpy() * 0.5 + 0.25
    probabilities = pa.FixedSizeListArray.from_arrays(pa.array(flat), 2)
    pq.write_table(table.set_column(2, "probabilities", probabilities), file)


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)  # nobody would ever write into it


def uneven(file: Path) -> None:
    table = predictions(SECOND, "marketplace", "season").to_pylist()
    table[0]["probabilities"] = [1.0]
    pq.write_table(pa.Table.from_pylist(table), file)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (unlink, "there is no such file"),
        (pipe, "not a table of 100 test images: not a regular file"),
        (truncate, "not a table of predictions"),
        (without_slices, "there is no column 'marketplace'"),
        (of_another, "Acc@1 is 82 here and 86 in the ledger"),
        (less_sure, "cross-entropy is 0.62593 here and 0.56759 in the ledger"),
        (other_images, "other test images than other predictions of aprons"),
        (uneven, "the column 'probabilities' is of list<element: double>, not of"),
    ],
)
def test_predictions_that_cannot_be_used_cost_their_seed_only(
    aprons: Finished, spoil: Any, reason: str
) -> None:
    aprons.finish("aprons/vit/100%", FIRST, FIRST)
    file = aprons.finish("aprons/vit/50%", FIRST, SECOND)[1]
    spoil(file)
    table = aprons.table()
    half, full = json.loads(render(table, Format.json))
    assert half["slices"]["marketplace"]["north"]["acc1_per_seed"] == [75.0, None]
    assert half["slices"]["marketplace"]["north"]["acc1"] == 75.0
    assert full["slices"]["marketplace"]["north"]["acc1_per_seed"] == [75.0, 75.0]
    assert "| 84.00 ± 2.83 | 90.00 (79–96) | 75.00 (60–86) |" in to_markdown(table)
    (note,) = table.problems
    assert note.startswith(f"aprons/vit/50%, seed 1, is left out: {file}: ") and reason in note
    assert f"delete ledger/{file.stem}.json and run" in note


def test_without_any_predictions_there_are_dashes_and_notes(aprons: Finished) -> None:
    for file in aprons.finish("aprons/vit/50%", FIRST, SECOND):
        file.unlink()
    table = aprons.table()
    assert "| 84.00 ± 2.83 |" in to_markdown(table)
    assert len(table.all_notes) == 3
    aprons.finish("aprons/vit/100%", FIRST, FIRST)
    table = aprons.table()
    assert "| 84.00 ± 2.83 | — | — | — | — |" in to_markdown(table)


def test_names_stand_as_they_are_in_every_format(tmp_path: Path) -> None:
    finished = Finished(tmp_path, {"aprons": ["marketplace"]}, seeds=1)
    finished.finish("aprons/vit/50%", [("[red]a|b*", 40, 30), ("c, d", 30, 30)])
    table = finished.table()
    assert r"| \[red]a\|b\* (40) | c, d (30) |" in to_markdown(table)
    assert "[red]a|b* (40)" in finished.printed(80)
    frame = pd.read_csv(io.StringIO(render(table, Format.csv).decode()))
    assert frame["value"].tolist() == ["[red]a|b*", "c, d"] * 2


def test_a_terminal_too_narrow_gets_tables_one_below_another(tmp_path: Path) -> None:
    finished = Finished(tmp_path, {"aprons": ["marketplace"]}, seeds=1)
    countries = [(f"country-{i:02d}", 100 - i, 50 - i) for i in range(20)]
    finished.finish("aprons/vit/50%", countries)
    for width, tables in [(80, 10), (120, 5), (500, 1)]:
        shown = finished.printed(width)
        assert shown.count("model") == shown.count("Acc@1") == tables
        for name, images, right in countries:  # no name and no number is cut
            assert f"{name} ({images})" in shown and f"{100 * right / images:.2f}" in shown
    # one that is wider than the terminal is broken, not cut
    narrow = "".join(finished.printed(50).split())
    assert narrow.count("model") == 20 and narrow.count("…") == 0


def test_the_command_prints_every_format(aprons: Finished) -> None:
    def printed(*options: str) -> str:
        done = semigrid("table", str(aprons.file), *options)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return done.stdout

    terminal = printed("--by", "marketplace")
    assert "islands (9)*" in terminal and "77.50 ± 3.54" in terminal
    assert "* fewer than 30 test images" in terminal and "trials" not in terminal
    assert printed("--by", "marketplace", "--format", "csv").count("north") == 2
    facts = json.loads(printed("--by", "marketplace", "--json"))
    assert facts[0]["slices"]["marketplace"]["islands"]["images"] == 9
    assert "trials" in printed() and "north" not in printed()


def test_the_command_says_what_it_cannot_show(aprons: Finished) -> None:
    done = semigrid("table", str(aprons.file), "--by", "country")
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert "there are marketplace (aprons), season (aprons)" in done.stderr
    aprons.finish("aprons/vit/50%", FIRST, SECOND)[1].unlink()
    done = semigrid("table", str(aprons.file), "--by", "marketplace", "--format", "csv")
    assert done.returncode == 0 and "aprons/vit/50%, seed 1, is left out" in done.stderr
    assert "left out" not in done.stdout
    done = semigrid("table", str(aprons.file), "--by", "marketplace")
    assert "aprons/vit/50%, seed 1, is left out" in done.stdout
