"""Grids as their users run them, on a small cluster, and once on a Ray of their own."""

import json
import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
import yaml
from tests.helpers.experiments import changed, experiment_text, plan_of
from tests.helpers.in_process import Grid
from tests.helpers.runs import (
    finish,
    numbers,
    records,
    semigrid,
    with_modules_of_the_user,
)
from timm.data import create_transform, resolve_model_data_config

from semigrid.data.catalog import open_dataset
from semigrid.data.ranges import make_views
from semigrid.data.schema import Dataset
from semigrid.grid.analysis.predictions import read_predictions
from semigrid.grid.commands.context import load, open_study
from semigrid.grid.export.cell import export_cell
from semigrid.grid.predict.images import dataset_images
from semigrid.grid.predict.inference import winner_model
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.winner import find_winner

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings


def in_process(text: str, folder: Path) -> Grid:
    """The experiment, run here and without Ray."""
    return Grid(plan_of(text), folder).run()


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str, str]:
    """The small experiment and a probe, run whole: file, storage, stdout and stderr."""
    folder = tmp_path_factory.mktemp("run")
    file = folder / "small.yaml"
    content = yaml.safe_load(experiment_text(search={"trials": 2}))
    of_probe = {"method": "probe", "recipe": {"img_size": 16, "global_pool": "avg"}}
    content["models"]["probe"] = {**content["models"]["vit"], **of_probe}
    content["grid"].append({"model": "probe", "labels": ["100%"]})
    file.write_text(yaml.safe_dump(content))
    where = ("--storage", str(folder / "results"))
    # whatever lies where it is started, none of its processes imports it
    cwd = with_modules_of_the_user(folder / "cwd")
    out, err = finish(semigrid("run", str(file), *where, cwd=cwd, own_ray=True))
    return file, folder / "results", out, err


def test_the_grid_runs_from_file_to_table(finished_run: tuple[Path, Path, str, str]) -> None:
    file, storage, out, err = finished_run
    assert sum(line.startswith(" semi-vit") for line in out.splitlines()) == 2 and "—" in out
    assert re.search("^(Use|The only|Which|No model) ", out, re.M)  # the answer, below the table
    assert f"report: {storage}/small/report.html" in out
    assert (storage / "small/report.html").read_text().startswith("<!doctype html>")
    assert "5 of 5 cells finished" in err
    # Ray's own chatter goes to its log files
    assert not any(word in err.lower() for word in ("raylet", "warning", "pid=", "traceback"))
    found = records(storage / "small")
    assert len(found) == 9 and {r.status for r in found.values()} == {"finished"}
    assert sum(r.test is not None for r in found.values()) == 5
    # winners keep their weights and predictions, losers and checkpoints are gone
    assert len(list((storage / "small/weights").iterdir())) == 5
    assert len(list((storage / "small/predictions").iterdir())) == 5
    assert list((storage / "small/checkpoints").iterdir()) == []
    assert all(r.device_seconds["cpu"] > r.seconds > 0 for r in found.values())
    assert not (storage / "small/live.json").exists()


def test_a_probe_of_the_run_predicts_and_is_exported(
    finished_run: tuple[Path, Path, str, str], tmp_path: Path
) -> None:
    record = use(finished_run[1] / "small", "digits/probe/100%", tmp_path / "export")
    dataset = open_dataset("builtin://digits")
    assert record.steps_run == len(dataset.train_labels)


def use(run: Path, name: str, to: Path) -> Record:
    """Predicts with a cell and exports it, for timm alone: both say what was measured on test."""
    study = open_study(load(str(run)))
    cell, record = find_winner(study.state, name)
    model = winner_model(study.state.plan, cell, record, study.ledger.storage.uri, gpus=0)
    dataset = study.state.plan.experiment.datasets[cell.dataset]
    [images] = dataset_images(dataset, ["test"]).parts.values()
    found = model.predict(make_views(images, model.views))
    measured = read_predictions(study.ledger.storage, record, dataset.manifest)
    rows = [found.ids.index(image_id) for image_id in measured.ids]
    assert found.rows[rows] == pytest.approx(measured.probabilities, abs=1e-6)
    done = export_cell(study.state, study.ledger.storage, cell.name, str(to), onnx=False)
    assert done.check.measured is not None and done.check.measured < 1e-5
    network = timm.create_model(f"local-dir:{to}", pretrained=True).eval()
    view = create_transform(**resolve_model_data_config(network), is_training=False)
    by_id = {image_id: image for image_id, image, _ in images.decoded()}
    with torch.inference_mode():
        answers = network(torch.stack([view(by_id[n]) for n in measured.ids])).softmax(dim=1)
    assert answers.numpy() == pytest.approx(measured.probabilities, abs=1e-5)
    return record


def test_the_same_command_again_trains_nothing_and_starts_no_ray(
    finished_run: tuple[Path, Path, str, str],
) -> None:
    file, storage, out, _ = finished_run
    again, err = finish(semigrid("run", str(file), "--storage", str(storage)))
    assert again == out and "nothing to train" in err
    # a finished folder may be named instead of the file
    assert finish(semigrid("run", str(storage / "small")))[0] == out
    status = json.loads(finish(semigrid("status", str(storage / "small"), "--json"))[0])
    assert {cell["state"] for cell in status["cells"].values()} == {"finished"}


def test_a_new_fraction_trains_only_the_new_cells(
    cluster: None, finished_run: tuple[Path, Path, str, str], tmp_path: Path
) -> None:
    _, storage, _, _ = finished_run
    before = numbers(storage / "small")
    file = tmp_path / "more.yaml"
    content = yaml.safe_load(changed("grid.0.labels", ["25%", "50%", "100%"]))
    file.write_text(yaml.safe_dump({**content, "search": {"trials": 2}}))
    _, err = finish(semigrid("run", str(file), "--storage", str(storage)))
    after = numbers(storage / "small")
    assert before.items() <= after.items()
    assert {r[1] for i, r in after.items() if i not in before} == {"digits/vit/25%"}
    assert "trained 2 trials, evaluated 1 on test" in err


def test_a_training_that_does_not_fit_the_machine_is_refused(cluster: None, tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(experiment_text(train={"cpus_per_worker": 4096}, storage=str(tmp_path)))
    _, err = finish(semigrid("run", str(file)), code=2)
    assert "4096 CPUs" in err and "Traceback" not in err


def test_an_address_where_no_cluster_answers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    file = tmp_path / "small.yaml"
    file.write_text(experiment_text())
    _, err = finish(semigrid("run", str(file), "--storage", str(tmp_path)), code=2)
    assert "RAY_ADDRESS=127.0.0.1:1: no Ray cluster answers there" in err
    assert "Traceback" not in err and "died" not in err


def test_two_workers_give_the_numbers_of_one(cluster: None, tmp_path: Path) -> None:
    # 32-bit sums in another order are all that differs, and 20 steps do not blow that up
    text = changed("grid", [{"model": "semi-vit", "labels": ["50%"]}]).replace(
        "trials: 3", "trials: 1"
    )
    file = tmp_path / "two.yaml"
    file.write_text(text)
    one = in_process(text, tmp_path / "one").records
    command = ("run", str(file), "--storage", str(tmp_path / "two"), "--workers", "2")
    finish(semigrid(*command, cwd=with_modules_of_the_user(tmp_path / "cwd")))
    two = records(tmp_path / "two/small")
    assert one.keys() == two.keys()
    for trial_id, record in one.items():
        other = two[trial_id]
        assert len(record.history) == 2
        for mine, theirs in zip(record.history, other.history, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-4)
        assert (record.test is None) == (other.test is None)
        if record.test is not None:
            assert record.test == pytest.approx(other.test, abs=1e-4)


def test_a_pool_streamed_from_a_relative_path_gives_the_numbers_of_one_in_memory(
    cluster: None,
    finished_run: tuple[Path, Path, str, str],
    tmp_path: Path,
    digits: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Ray's workers run in working directories of their own
    _, in_memory, _, _ = finished_run
    shutil.copytree(digits.storage.uri, tmp_path / "my-digits")
    content = yaml.safe_load(
        experiment_text(
            datasets={"digits": "my-digits"},
            grid=[{"model": name, "labels": ["50%"]} for name in ("vit", "semi-vit")],
            search={"trials": 1},
            train={"stream": "ray"},
        )
    )
    # a student learns what Ray Data asked its teacher; of 1,024 images and more it does
    net = content["models"]["vit"]
    recipe = {**net["recipe"], "batch_size": 4, "unlabeled_ratio": 2}
    content["models"]["small"] = net | {"method": "distill", "from": "vit", "recipe": recipe}
    content["grid"] += [{"model": "small", "labels": ["50%"], "unlabeled": ["400%"]}]
    text = yaml.safe_dump(content)
    (tmp_path / "small.yaml").write_text(text)
    finish(semigrid("run", "small.yaml", cwd=tmp_path))
    expected, streamed = numbers(in_memory / "small"), numbers(tmp_path / "results" / "small")
    here_text = text.replace("my-digits", "builtin://digits").replace("stream: ray", "stream: auto")
    in_process(here_text, tmp_path / "here")
    here = numbers(tmp_path / "here")
    assert {record[1] for record in streamed.values()} == {
        "digits/vit/50%", "digits/semi-vit/50%/100%", "digits/small/50%/400%"
    }  # fmt: skip
    for trial_id, (*training, _, best_step, weights, history) in streamed.items():
        # of more trials another may win, and only winners are measured on test
        *same, _, best, kind, course = expected.get(trial_id) or here[trial_id]
        assert (training, best_step, weights, history) == (same, best, kind, course)
    monkeypatch.chdir(tmp_path)  # where the file's relative path leads to the dataset
    use(Path("results/small"), "digits/small/50%/400%", tmp_path / "export")
    [teacher] = [r for r in records(tmp_path / "results/small").values() if r.soft_targets]
    assert (teacher.soft_targets, teacher.soft_target_files) == (1200, 3)
