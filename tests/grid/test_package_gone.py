"""A run whose method's package is gone: its results stay, and what would train names it."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.helpers.command import semigrid
from tests.helpers.experiments import SMALL, plan_of
from tests.helpers.in_process import Grid
from tests.helpers.packages import from_document, on_path

from semigrid.data.errors import InputError
from semigrid.data.ranges import make_views
from semigrid.data.schema import Dataset
from semigrid.data.storage import open_storage
from semigrid.grid.commands.context import load, open_study
from semigrid.grid.predict.images import dataset_images
from semigrid.grid.predict.inference import winner_model
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.winner import find_winner
from semigrid.trainers.evaluation.predictions import decode_predictions
from semigrid.trainers.layout import predictions_file
from semigrid.trainers.methods import find_method, registry
from semigrid.trainers.methods.recorded import METHODS_FILE, read_methods

CELL = "digits/mean/50%/100%"
GONE = (
    "method mean-teacher: its package semigrid-mean-teacher 0.1.0 is not installed; pip install "
    "semigrid-mean-teacher==0.1.0"
)
COMMANDS = (("status",), ("table",), ("table", "--view", "costs"), ("answer",), ("plan",))


@dataclass(frozen=True)
class Finished:
    """A finished run, and what commands printed of it while the package was there."""

    packages: Path
    folder: Path
    content: dict[str, object]
    printed: dict[tuple[str, ...], str]

    def file(self, **changes: object) -> Path:
        path = self.folder.parent / "changed.yaml"
        path.write_text(yaml.safe_dump({**self.content, **changes}))
        return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Iterator[Finished]:
    where, packages = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("packages")
    from_document(packages)
    content = copy.deepcopy(SMALL)
    semi = content["models"].pop("semi-vit")["recipe"]
    recipe = {n: value for n, value in semi.items() if n != "collapse_evaluations"}
    # a whole number for a setting that is none
    content["models"]["mean"] = {
        "from": "vit", "method": "mean-teacher", "recipe": {**recipe, "consistency_weight": 3},
    }  # fmt: skip
    content |= {
        "grid": [
            {"model": "vit", "labels": ["50%"]},
            {"model": "mean", "labels": ["50%"], "unlabeled": ["100%"]},
        ],
        "search": {"trials": 2, "wave": 1},
        "controls": ["compute"],
        "storage": str(where),
    }
    with on_path(packages):
        Grid(plan_of(yaml.safe_dump(content)), where / "small").run()
        (where / "file.yaml").write_text(yaml.safe_dump(content))
        done = semigrid("run", str(where / "file.yaml"))
        assert done.returncode == 0 and "nothing to train" in done.stderr, done.stderr
        printed = {}
        for command in COMMANDS:
            shown = semigrid(command[0], str(where / "small"), *command[1:])
            assert shown.returncode == 0 and "mean-teacher: its" not in shown.stderr, shown.stderr
            printed[command] = shown.stdout
    with pytest.raises(InputError, match="is not a method"):
        find_method("mean-teacher")
    yield Finished(packages, where / "small", content, printed)
    registry.forget()


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    registry.forget()


@pytest.mark.parametrize("command", COMMANDS)
def test_results_are_shown_as_before(finished: Finished, command: tuple[str, ...]) -> None:
    shown = semigrid(command[0], str(finished.folder), *command[1:])
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == finished.printed[command] and "mean" in shown.stdout
    assert shown.stderr.count(GONE) == 1


def test_the_report_is_made(finished: Finished, tmp_path: Path) -> None:
    done = semigrid("report", str(finished.folder), "--output", str(tmp_path / "report.html"))
    assert done.returncode == 0, done.stderr
    assert CELL in (tmp_path / "report.html").read_text()


def test_a_record_is_the_same_trial_where_nothing_is_known_of_its_method(
    finished: Finished,
) -> None:
    records = [path.read_text() for path in (finished.folder / "ledger").iterdir()]
    parsed = [Record.model_validate_json(text) for text in records]
    assert {r.spec.method for r in parsed} == {"finetune", "mean-teacher"}
    ids = sorted(path.stem for path in (finished.folder / "ledger").iterdir())
    assert sorted(record.id for record in parsed) == ids


def test_every_trial_of_the_search_is_found_again(finished: Finished) -> None:
    with on_path(finished.packages):
        expected = open_study(load(str(finished.folder))).state
    found = open_study(load(str(finished.folder))).state
    for name, state in expected.searches.items():
        assert state.stage == "finished" and len(state.trials) == 2
        assert [trial.id for trial in found.searches[name].trials] == [t.id for t in state.trials]
        winner = found.searches[name].winner
        assert winner is not None and state.winner is not None and winner.id == state.winner.id
    assert found.plan.forwards == expected.plan.forwards


def test_what_is_finished_needs_no_package_to_run(finished: Finished) -> None:
    done = semigrid("run", str(finished.file()))
    assert done.returncode == 0 and "nothing to train" in done.stderr, done.stderr
    [kept] = read_methods(open_storage(finished.folder))
    assert kept.package.pip == "semigrid-mean-teacher==0.1.0"


def test_other_methods_train_and_this_one_is_refused_before_anything_starts(
    finished: Finished,
) -> None:
    grid = [
        {"model": "vit", "labels": ["25%", "50%"]},
        {"model": "mean", "labels": ["50%"], "unlabeled": ["100%"]},
    ]
    file = finished.file(grid=grid, seeds=2)
    done = semigrid("run", str(file), "--dry-run", "--only", "digits/vit/*")
    assert done.returncode == 0, done.stderr
    assert "digits/vit/25%" in done.stdout
    refused = semigrid("run", str(file), "--dry-run")
    assert refused.returncode == 2
    assert f"{GONE}, or leave out by --only what it would train: {CELL}" in refused.stderr


def test_a_cell_that_only_the_method_could_plan_names_the_package(finished: Finished) -> None:
    models = copy.deepcopy(finished.content["models"])
    models["mean"]["recipe"]["unlabeled_ratio"] = 3  # type: ignore[index]
    shown = semigrid("status", str(finished.file(models=models)))
    assert shown.returncode == 2 and GONE in shown.stderr


def test_its_winner_predicts_and_is_exported(
    finished: Finished, digits: Dataset, tmp_path: Path
) -> None:
    study = open_study(load(str(finished.folder))).state
    cell, record = find_winner(study, CELL)
    model = winner_model(study.plan, cell, record, str(finished.folder), gpus=0)
    registry.forget()  # as in a process of a cluster, which is sent the model
    ((_, images),) = dataset_images(digits, ["test"]).parts.items()
    made = model.predict(make_views(images, model.views))
    content = (finished.folder / predictions_file(record.id)).read_bytes()
    measured = decode_predictions(content, 200, 10)
    order = [made.ids.index(each) for each in measured.ids]
    np.testing.assert_allclose(made.rows[order], measured.probabilities, atol=1e-6)
    done = semigrid("export", str(finished.folder), CELL, str(tmp_path / "model"))
    assert done.returncode == 0, done.stderr
    assert "Mean Teacher's student" in (tmp_path / "model/README.md").read_text()


def test_a_damaged_file_is_one_message(finished: Finished) -> None:
    path = finished.folder / METHODS_FILE
    before = path.read_text()
    changed = json.loads(before)
    changed["methods"][0]["defaults"]["model_config"] = 1
    odd = json.loads(before)
    odd["methods"][0]["pool"] = "none"
    pairs = [("{", "Invalid JSON"), (json.dumps(changed), "'model_config' cannot be a setting"),
             (json.dumps(odd), "pool is none, and")]  # fmt: skip
    try:
        for content, why in pairs:
            path.write_text(content)
            shown = semigrid("table", str(finished.folder))
            assert shown.returncode == 2 and shown.stderr.count("\n") == 1, shown.stderr
            assert METHODS_FILE in shown.stderr and why in shown.stderr
    finally:
        path.write_text(before)
