"""The commands as users call them; none of these may need Ray."""

import json
import os
import resource
from pathlib import Path

import pytest
import yaml
from tests.helpers.command import semigrid, semigrid_process
from tests.helpers.experiments import changed, experiment_text

from semigrid.data.storage import open_storage
from semigrid.grid.study.lock import RunLock


@pytest.mark.parametrize("command", ["plan", "run", "status", "table"])
def test_bad_input_exits_with_2_and_one_message_in_seconds(command: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(changed("models.vit.backbone", "vit_bse"))
    semigrid("plan", str(file))  # the first command of a machine lists timm's names, by its import
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = semigrid_process(command, str(file))
    # of the processor: nothing heavy was imported, however busy the machine
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 10
    assert done.returncode == 2
    assert "models.vit.backbone: 'vit_bse'" in done.stderr and "nearest" in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


@pytest.mark.parametrize("storage", ["{tmp}/file/below", "/proc/nowhere", "foo://bucket"])
def test_storage_that_cannot_be_written_exits_with_2(storage: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    file = tmp_path / "good.yaml"
    file.write_text(experiment_text())
    done = semigrid("run", str(file), "--storage", storage.format(tmp=tmp_path))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and storage.split("/")[-1] in done.stderr


def test_a_second_run_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    file, folder = tmp_path / "small.yaml", tmp_path / "results" / "small"
    file.write_text(experiment_text(storage=str(tmp_path / "results")))
    folder.mkdir(parents=True)
    with RunLock(open_storage(folder), print, lambda: None):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        holder = json.loads(before["lock.json"])
        done = semigrid("run", str(file))
        assert done.returncode == 2 and "another run is at work here" in done.stderr
        assert f"process {os.getpid()}" in done.stderr
        assert holder["user"] in done.stderr and holder["host"] in done.stderr
        after = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert after.keys() == before.keys()
        # and reading goes on
        assert semigrid("status", str(file)).returncode == 0


def test_a_folder_where_nothing_was_run(tmp_path: Path) -> None:
    done = semigrid("table", str(tmp_path))
    assert done.returncode == 2 and "no run was started here" in done.stderr


def test_a_renamed_run_folder_is_not_taken_for_another(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "experiment.yaml").write_text(experiment_text())
    done = semigrid("table", str(tmp_path / "other"))
    assert done.returncode == 2 and "was renamed" in done.stderr and "'small'" in done.stderr


def test_plan_says_which_weights_and_under_which_licence(tmp_path: Path) -> None:
    file = tmp_path / "mae.yaml"
    content = yaml.safe_load(changed("models.vit.backbone", "vit_base_patch16_224.mae"))
    del content["models"]["vit"]["pretrained"], content["models"]["vit"]["backbone_args"]
    file.write_text(yaml.safe_dump(content))
    done = semigrid("plan", str(file), "--storage", str(tmp_path / "s"))
    assert done.returncode == 0, done.stderr
    weights = "weights of vit: timm/vit_base_patch16_224.mae, licence cc-by-nc-4.0"
    assert f"{weights} (not for commercial use), not downloaded yet" in done.stdout
    facts = json.loads(semigrid("plan", str(file), "--json").stdout)
    assert facts["weights"]["vit"]["license"] == "cc-by-nc-4.0"


def test_plan_counts_before_anything_ran(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text(experiment_text())
    done = semigrid("plan", str(file), "--storage", str(tmp_path / "s"), "--json")
    facts = json.loads(done.stdout)
    assert done.returncode == 0
    assert (facts["cells"], facts["trainings"], facts["trainings_remaining"]) == (4, 12, 12)
    assert facts["trainings_unshared"] == 18
    # half of the digits' 246 train images, class by class, and all 151 of val
    assert facts["labels"]["digits/vit/50%"] == {"train": 126, "val": 151, "total": 277}
    assert facts["labels"]["digits/vit/100%"] == {"train": 246, "val": 151, "total": 397}
    assert [(each["cell"], each["steps"]) for each in facts["trainings_by_cell"]] == [
        ("digits/vit/50%", 6),
        ("digits/vit/100%", 6),
        ("digits/semi-vit/50%/100%", 6),
        ("digits/semi-vit/100%/100%", 6),
    ]
    assert not (tmp_path / "s").exists()  # planning leaves nothing behind
    said = semigrid("plan", str(file)).stdout
    assert "4 cells" in said
    # 20 test images of each of ten digits: 196 · √(0.16 / 200)
    assert facts["test"]["digits"]["half_width"] == pytest.approx(1.96 * (0.16 / 200) ** 0.5)
    assert "dataset digits: test has 200 images" in said and "±5.5 points" in said


def test_plan_counts_a_nested_val_and_warns_where_it_is_small(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text(experiment_text(validation="nested"))
    storage = "--storage", str(tmp_path / "s")
    done = semigrid("plan", str(file), *storage, "--json")
    # of 15, 16, 13, 16, 15, 13, 19, 14, 12 and 18 images of val:
    # 8 + 8 + 7 + 8 + 8 + 7 + 10 + 7 + 6 + 9
    labels = json.loads(done.stdout)["labels"]["digits/vit/50%"]
    assert labels == {"train": 126, "val": 78, "total": 204}
    text = " ".join(semigrid("plan", str(file), *storage).stdout.split())
    # 1.96 · √(0.8 · 0.2 · (4/8 + 3/7 + 1/10 + 1/6 + 1/9)) / 10
    assert "warning: val of digits at 50% has 78 images" in text and "±9.0 points" in text
    assert text.count("warning: val") == 1
    file.write_text(experiment_text())
    assert "warning: val" not in semigrid("plan", str(file), *storage).stdout


def test_the_papers_file_can_be_counted_without_its_datasets() -> None:
    paper = Path(__file__).parents[3] / "grid/experiments/paper.yaml"
    done = semigrid("plan", str(paper), "--without-data")
    assert done.returncode == 0
    assert "paper: 0 of 30 cells and 0 of 15 controls finished\n" in done.stdout
    assert "720 trainings remain" in done.stdout  # 16 of each
    facts = json.loads(semigrid("plan", str(paper), "--without-data", "--json").stdout)
    assert (facts["cells"], facts["trainings_remaining"]) == (30, 720)
    # nothing is known of the data
    assert (facts["test"], facts["labels"], facts["forwards"]) == ({}, {}, None)
    assert (facts["trainings_by_cell"], facts["change"]) == ([], None)
    assert semigrid("plan", str(paper)).returncode == 2


def test_todays_file_can_be_counted_without_its_datasets() -> None:
    today = Path(__file__).parents[3] / "grid/experiments/today.yaml"
    facts = json.loads(semigrid("plan", str(today), "--without-data", "--json").stdout)
    # a dataset has three models on four fractions and the student on two, semi and it with controls
    assert facts["cells"] == 3 * (3 * 4 + 2) and facts["controls"] == 3 * (4 + 2)


def test_status_and_table_of_what_has_not_begun(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text(experiment_text(storage=str(tmp_path / "s")))
    assert "0 of 3" in semigrid("status", str(file)).stdout
    assert "—" in semigrid_process("table", str(file)).stdout
    lines = semigrid("table", str(file), "--format", "csv").stdout.splitlines()
    assert lines[0].startswith("cell,dataset,model,labels") and len(lines) == 5
