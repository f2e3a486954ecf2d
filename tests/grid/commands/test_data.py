"""``semigrid data`` as users call it, where Ray cannot be imported."""

import json
from pathlib import Path

import pytest
from PIL import Image
from tests.helpers import nasty
from tests.helpers.command import semigrid, semigrid_process
from tests.helpers.experiments import experiment_text
from tests.helpers.shop import shop, tile

from semigrid.data.catalog import open_dataset


def test_the_nastiest_folder_becomes_a_dataset_that_checks(tmp_path: Path) -> None:
    source = shop(tmp_path / "shop")
    for name, content in {**nasty.good(), **nasty.bad()}.items():
        (source / "plain" / name).write_bytes(content)
    where = str(tmp_path / "set")
    done = semigrid_process("data", "build", str(source), where, "--license", "CC0")
    assert done.returncode == 0, done.stderr
    assert f"{len(nasty.bad())} files are not usable images" in done.stdout
    assert "exact duplicates left out" in done.stdout and "1 turned upright" in done.stdout
    report = json.loads((tmp_path / "set" / "report.json").read_text())
    assert set(report["quarantined"]) == {f"plain/{name}" for name in nasty.bad()}

    checked = semigrid("data", "check", where)
    assert checked.returncode == 0 and "all match the manifest" in checked.stdout

    sheets = tmp_path / "sheets"
    shown = semigrid("data", "show", where, "--sheets", str(sheets))
    assert shown.returncode == 0, shown.stderr
    assert "licence CC0" in shown.stdout and "dots" in shown.stdout
    for path in sorted(sheets.iterdir()):
        with Image.open(path) as sheet:
            assert sheet.size[0] == 8 * 96
    assert len(list(sheets.iterdir())) == 2
    refused = semigrid("data", "show", where, "--sheets", str(sheets))
    assert refused.returncode == 2 and "this folder is not empty" in refused.stderr
    refused = semigrid("data", "show", where, "--sheets", str(sheets / "class-000.png"))
    assert refused.returncode == 2 and "this is a file, or below one" in refused.stderr
    facts = json.loads(semigrid("data", "show", where, "--json").stdout)
    assert facts["splits"]["train"] == report["splits"]["train"]
    manifest = tmp_path / "set" / "dataset.json"  # as an earlier version may have written it
    old = json.loads(manifest.read_text()) | {"source": "s3://KEY:SECRET@bucket/shop"}
    manifest.write_text(json.dumps(old))
    facts = json.loads(semigrid("data", "show", where, "--json").stdout)
    assert facts["source"] == "s3://bucket/shop"
    assert sum(row["train_share"] for row in facts["classes"]) == pytest.approx(1)

    again = semigrid("data", "build", str(source), where)
    assert again.returncode == 2 and "there is a dataset here already" in again.stderr


def test_the_size_of_test_and_classes_that_limit_it_are_said(tmp_path: Path) -> None:
    source, where = shop(tmp_path / "shop"), str(tmp_path / "set")
    for name, numbers in {"rare": (60, 61), "once": (62,)}.items():
        (source / name).mkdir()
        for number in numbers:
            (source / name / f"{number}.png").write_bytes(tile(number))
    refused = semigrid("data", "build", str(source), where)
    assert refused.returncode == 2 and "fewer than 2 labelled images: once 1" in refused.stderr
    options = ["--rare", "drop", "--test-share", "0.3", "--val-share", "0.2", "--splits", "new"]
    done = semigrid("data", "build", str(source), where, *options)
    assert done.returncode == 0, done.stderr
    assert "1 rare classes are left out with their images: once 1" in done.stdout
    # 30 % of 62 images in three classes are 6 each, and the rare class has one to spare
    width = 196 / 3 * (0.16 * (1 / 6 + 1 / 6 + 1)) ** 0.5
    said = "test has 13 images (21.0% of the labelled ones): at 80% in every class, one training's"
    rest = f"known to ±{width:.1f} points (95%); fewest test images: rare 1"
    # train has the other of its two images
    lacks = "val has no image of 1 of 3 classes, so trainings are chosen by the others; images in"
    shown = semigrid("data", "show", where)
    file = tmp_path / "file.yaml"
    grid = [{"model": "vit", "labels": ["25%", "100%"]}]
    file.write_text(experiment_text(datasets={"shop": where}, grid=grid))
    planned = semigrid("plan", str(file))
    for text in (done.stdout, shown.stdout, planned.stdout):
        assert said in text and rest in text and f"{lacks} train: rare 1" in text
    facts = json.loads(semigrid("data", "show", where, "--json").stdout)
    assert facts["test"]["half_width"] == pytest.approx(width / 100)
    assert facts["test"]["limited_by"] == {"rare": 1} and facts["without_val"] == ["rare"]
    facts = json.loads(semigrid("plan", str(file), "--json").stdout)
    assert facts["without_val"] == {"shop": ["rare"]}
    # a quarter of 18 images of each other class, rounded half up, and the only one of the rare one
    assert facts["labels"]["shop/vit/25%"]["train"] == 5 + 5 + 1


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_flipped_byte_is_found_and_its_shard_named(tmp_path: Path, split: str) -> None:
    where = tmp_path / "set"
    assert semigrid("data", "build", str(shop(tmp_path / "shop")), str(where)).returncode == 0
    shard = where / f"{split}-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    done = semigrid("data", "check", str(where))
    assert done.returncode == 1 and done.stdout == ""
    assert f"{split}-00000.parquet: its bytes have the SHA-256" in done.stderr
    assert "1 problems" in done.stderr and "Traceback" not in done.stderr


def crowd(folder: Path, images: int = 60) -> Path:
    """A folder of images nobody has sorted, three answers to each, and what they must become."""
    folder.mkdir()
    lines = ["task,worker,label"]
    for number in range(images):
        (folder / f"{number:03d}.png").write_bytes(tile(number))
        truth, other = ("dots", "plain") if number % 2 else ("plain", "dots")
        answers = [truth, truth, other] if number % 10 else [truth, other, "unclear"]
        lines += [f"{number:03d}.png,w{i},{answer}" for i, answer in enumerate(answers)]
    (folder / "answers.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_crowd_answers_make_labels_and_a_pool(tmp_path: Path) -> None:
    source = crowd(tmp_path / "crowd")
    where = tmp_path / "set"
    done = semigrid("data", "build", str(source), str(where), "--answers", f"{source}/answers.csv")
    assert done.returncode == 0, done.stderr
    assert "180 of 180 answers from 3 workers count; Fleiss' κ" in done.stdout
    assert "54 of 60 tasks have a label (6 too few equal answers)" in done.stdout
    manifest = open_dataset(str(where)).manifest
    assert manifest.pool == 6 and manifest.votes and manifest.classes == ("dots", "plain")


def test_a_yaml_file_says_it_all_and_options_go_over_it(tmp_path: Path) -> None:
    source = crowd(tmp_path / "crowd")
    (tmp_path / "build.yaml").write_text(
        f"source: {source}\nanswers: {source}/answers.csv\nlicense: CC0\nagree: 3\nname: yarn\n"
    )
    arguments = [str(tmp_path / "build.yaml"), str(tmp_path / "set"), "--agree", "2", "--json"]
    done = semigrid("data", "build", *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answers"]["labeled"] == 54
    manifest = open_dataset(str(tmp_path / "set")).manifest
    assert (manifest.name, manifest.license) == ("yarn", "CC0")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "source: {shop}\nclases: [a, b]\n",
            "clases: unknown key; allowed are agree, of, min",
        ),
        ("source: {shop}\nagree: 0\n", "agree: Input should be greater than 0"),
        ("source: {shop}\ngold: g.csv\n", "gold is given without answers"),
        ("source: {shop}/none\n", "there is no such folder"),
        ("source: {shop}\nclasses: [dots, stripes]\n", "the label 'plain' is not among"),
        ("- a list\n", "not a mapping"),
        ("source: {shop}\nanswers: {shop}/none.csv\n", "none.csv: cannot be read"),
    ],
)
def test_bad_requests_exit_with_2_and_leave_no_dataset(
    tmp_path: Path, content: str, expected: str
) -> None:
    source = shop(tmp_path / "shop", 20)
    (tmp_path / "build.yaml").write_text(content.format(shop=source))
    done = semigrid("data", "build", str(tmp_path / "build.yaml"), str(tmp_path / "set"))
    assert done.returncode == 2, done.stdout + done.stderr
    assert expected in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "set" / "dataset.json").exists()


def test_answers_to_other_images_are_refused(tmp_path: Path) -> None:
    source = crowd(tmp_path / "crowd")
    (tmp_path / "other.csv").write_text("task,worker,label\nnowhere.png,w,x\n")
    answers = ["--answers", str(tmp_path / "other.csv")]
    done = semigrid("data", "build", str(source), str(tmp_path / "set"), *answers)
    assert done.returncode == 2
    assert "none of 1 tasks is an image of" in done.stderr and "'nowhere.png'" in done.stderr
