"""An exported folder where nothing of semigrid is: timm opens it, ONNX Runtime runs it."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.helpers.experiments import SMALL, SMALL_VIT
from tests.helpers.in_process import Grid
from tests.helpers.scheduling import study_of

from semigrid.data.builder.ingest import build_dataset
from semigrid.data.builder.request import BuildRequest
from semigrid.data.errors import InputError
from semigrid.data.escape import visible
from semigrid.data.schema import Dataset
from semigrid.data.sources.items import Item
from semigrid.data.storage import open_storage
from semigrid.data.views.augment import make_view, normalize
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.export.card import card_license
from semigrid.grid.export.cell import Exported, export_cell, show
from semigrid.grid.export.check import _difference, check_files
from semigrid.grid.export.onnx_file import ONNX, run_onnx, write_onnx
from semigrid.grid.export.timm_folder import CONFIG, WEIGHTS, open_timm_folder
from semigrid.grid.status.show import show_seconds
from semigrid.grid.study.ledger import Ledger, Record
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.winner import find_winner
from semigrid.trainers.evaluation.predictions import Predictions, decode_predictions
from semigrid.trainers.layout import predictions_file, weights_file
from semigrid.trainers.models.create import input_statistics
from semigrid.trainers.models.weights import Weights
from semigrid.trainers.trial.data import view_settings
from semigrid.trainers.trial.model import finished_model

CLASSES = (
    "<script>alert(1)|b</script>\x1b\u202e",
    "dots `x` **y**\n# z",
    "plain_&amp; [a](b:c)",
)
COUNTRIES = ("MX|<b>", "BR", "")
VIT, SEMI, RESNET = "shop/vit/100%", "shop/semi-vit/100%/100%", "shop/resnet/100%"
OURS = ("data", "trainers", "grid", "semigrid", "ray")


def picture(number: int) -> bytes:
    """No two alike, in sizes of every shape: wide, tall, square, smaller and larger than a view."""
    random = np.random.default_rng(number)
    width, height = ((45, 31), (20, 64), (33, 33), (9, 12))[number % 4]
    pixels = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
    shown = number % 3 if number % 7 else (number + 1) % 3  # another than the label says
    pixels[: height // 2, :, shown] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def build_shop(folder: Path) -> Dataset:
    items = []
    raw = folder / "raw"
    raw.mkdir()
    for number in range(150):
        file = raw / f"{number:03d}.png"
        file.write_bytes(picture(number))
        label = CLASSES[number % 3] if number < 120 else None
        # few of Brazil, and some without a country
        country = COUNTRIES[0 if number % 8 < 5 else 1 if number % 8 < 6 else 2]
        items.append(Item(file.name, str(file), label, None, {"country": country}))
    request = BuildRequest(source=str(raw), license="CC BY-NC 4.0", test_share=0.3)
    return build_dataset(str(folder / "shop"), items, request)[0]


@dataclass(frozen=True)
class Shop:
    """A finished grid on pictures of a shop, and where to export its cells to."""

    folder: Path
    dataset: Dataset
    plan: Plan

    @property
    def grid(self) -> Grid:
        """As a command finds it, from the files alone."""
        return Grid(self.plan, self.folder / "run")

    def export(self, name: str, to: Path | str, **options: Any) -> Exported:
        ledger = Ledger(open_storage(self.folder / "run"))
        study = study_of(self.plan, ledger.read_all(), ledger.has_weights)
        return export_cell(study, ledger.storage, name, str(to), **options)

    def winner(self, name: str) -> Record:
        return find_winner(self.grid.study, name)[1]

    def predictions(self, name: str) -> Predictions:
        file = self.folder / "run" / predictions_file(self.winner(name).id)
        manifest = self.dataset.manifest
        images = sum(manifest.counts["test"].values())
        return decode_predictions(file.read_bytes(), images, len(manifest.classes))


def shop_experiment(folder: Path, **changes: Any) -> str:
    resnet = {
        "backbone": "test_resnet",
        "method": "finetune",
        "pretrained": False,
        "recipe": {**SMALL_VIT, "img_size": 32, "mixup": 0, "cutmix": 0},
    }
    vit = SMALL["models"]["vit"]
    # in so few steps it would be that of the last step alone: no other weights than the student's
    vit = {**vit, "recipe": {**vit["recipe"], "ema_decay": 0.5}}
    semi = SMALL["models"]["semi-vit"]
    semi = {**semi, "recipe": {**semi["recipe"], "adapter": {"kind": "lora", "rank": 4}}}
    models = {"vit": vit, "semi-vit": semi}
    content = {
        "name": "run",
        "datasets": {"shop": str(folder / "shop")},
        "models": {**models, "resnet": resnet},
        "grid": [{"model": model, "labels": ["100%"]} for model in ("vit", "semi-vit", "resnet")],
        "search": {"trials": 1},
        "seeds": 2,
        "storage": str(folder),
    }
    return yaml.safe_dump({**content, **changes}, sort_keys=False)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    dataset = build_shop(folder)
    text = shop_experiment(folder)
    found = Shop(folder, dataset, Plan(load_experiment("file.yaml", text=text)))
    assert not found.grid.run().problems
    (folder / "run" / "experiment.yaml").write_text(text)
    return found


@pytest.fixture(scope="module")
def exports(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each cell's export, by cell."""
    folder = tmp_path_factory.mktemp("exports")
    paths = {name: folder / name.replace("/", "-") for name in (VIT, SEMI, RESNET)}
    for name, path in paths.items():
        done = shop.export(name, path)
        assert sorted(done.files) == ["README.md", "config.json", "model.onnx", "model.safetensors"]
        assert done.check.real_images and not done.notes
        shown = "\n".join(show(done))
        assert "run by ONNX Runtime: " in shown and str(path) in shown and "model.onnx " in shown
    return paths


@pytest.fixture
def damaged(shop: Shop, tmp_path: Path) -> Shop:
    """A copy of the run whose files may be broken."""
    shutil.copytree(shop.folder / "run", tmp_path / "run")
    return Shop(tmp_path, shop.dataset, shop.plan)


def run_card_code(export: Path, library: str, scratch: Path, blocked: tuple[str, ...]) -> Any:
    """Runs a program of the card in a copy of the folder, in a process without ``blocked``.

    The program is the card's, then one that shows the model each picture in ``images``. Returns
    the probabilities (N, K) of those, and what the card's own program printed.
    """
    home = scratch / library
    shutil.copytree(export, home)
    shutil.copytree(scratch / "images", home / "images")
    first = min((home / "images").iterdir())
    shutil.copy(first, home / "image.jpg")
    card = (home / "README.md").read_text()
    (code,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        if f"import {library}\n" in block
    )
    every = {
        "timm": "images = torch.stack([view(each) for each in pictures])\n"
        "with torch.inference_mode():\n"
        "    found = model(images).softmax(dim=1).numpy()\n",
        "onnxruntime": "images = np.stack([view(each) for each in pictures])\n"
        "found = session.run(['probabilities'], {'images': images})[0]\n",
    }
    program = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {blocked!r}:\n"
        "            raise ImportError(f'{name} is not on this machine')\n"
        "sys.meta_path.insert(0, Blocked())\n"
        f"{code}\n"
        "import pathlib, numpy\n"
        "files = sorted(pathlib.Path('images').iterdir())\n"
        "pictures = [Image.open(file).convert('RGB') for file in files]\n"
        f"{every[library]}"
        "numpy.save('found.npy', found)\n"
    )
    (home / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "program.py"],
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return np.load(home / "found.npy"), done.stdout


def save_images(dataset: Dataset, folder: Path) -> None:
    """The test images in the order of the prediction table: by id."""
    folder.mkdir()
    table = dataset.read("test")
    for image_id, content in zip(table.ids, table.images, strict=True):
        (folder / f"{image_id.replace('/', '-')}.png").write_bytes(content)


@pytest.mark.parametrize("name", [SEMI, RESNET])
def test_the_cards_programs_say_what_was_measured_without_semigrid(
    shop: Shop, exports: dict[str, Path], tmp_path: Path, name: str
) -> None:
    save_images(shop.dataset, tmp_path / "images")
    measured = shop.predictions(name)
    for library, blocked in (
        ("timm", OURS),
        ("onnxruntime", (*OURS, "torch", "torchvision", "timm", "onnx", "safetensors")),
    ):
        found, printed = run_card_code(exports[name], library, tmp_path, blocked)
        assert np.abs(found - measured.probabilities).max() < 1e-5, library
        best = measured.probabilities[0].argmax()
        shown = float(printed.split()[0])
        assert shown == pytest.approx(measured.probabilities[0][best], abs=1e-4)
        # a name may hold terminal commands and line ends, so it is quoted
        assert repr(CLASSES[best]) in printed.splitlines()[0]


@pytest.mark.parametrize("name", [VIT, RESNET])
@pytest.mark.parametrize("size", [(500, 300), (301, 700), (40, 41), (1, 9), (37, 37)])
def test_timms_own_view_is_the_one_that_was_measured(
    shop: Shop, exports: dict[str, Path], name: str, size: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    image = Image.fromarray(noise)
    model, view = open_timm_folder(exports[name])
    settings = view_settings(shop.winner(name).spec.recipe, input_statistics(model))
    ours = normalize(torch.from_numpy(make_view(image, settings, "eval", 0))[None], settings)
    assert torch.allclose(view(image)[None], ours, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["student", "ema"])
def test_the_weights_are_those_that_were_measured(
    shop: Shop, exports: dict[str, Path], kind: str
) -> None:
    record = shop.winner(VIT)
    stored = load_file(shop.folder / "run" / weights_file(record.id))
    exported = load_file(exports[VIT] / WEIGHTS)
    same = all(torch.equal(stored[f"{kind}.{key}"], exported[key]) for key in exported)
    assert same == (kind == record.best_weights)


def test_the_onnx_file_tells_what_it_needs_and_nothing_of_this_machine(
    exports: dict[str, Path],
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(exports[SEMI] / ONNX)
    facts = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(facts["class_names"])) == tuple(sorted(CLASSES))
    assert (facts["img_size"], json.loads(facts["mean"])) == ("16", [0.5, 0.5, 0.5])
    assert [(i.name, i.shape[1:], i.type) for i in session.get_inputs()] == [
        ("images", [3, 16, 16], "tensor(float)")
    ]
    assert isinstance(session.get_inputs()[0].shape[0], str)  # any number of images
    assert [output.name for output in session.get_outputs()] == ["logits", "probabilities"]
    content = (exports[SEMI] / ONNX).read_bytes()
    assert str(Path(__file__).parents[3]).encode() not in content
    assert b"site-packages" not in content


def cells_of(card: str, heading: str) -> list[list[str]]:
    """The text that a reader sees in the rows of the table under a heading."""
    tokens = MarkdownIt("commonmark").enable("table").parse(card.split("---\n", 2)[2])
    rows: list[list[str]] = []
    under = in_body = False
    for before, token in zip([tokens[0], *tokens], tokens, strict=False):
        if before.type == "heading_open":
            under = token.content == heading
        in_body = token.type == "tbody_open" or (in_body and token.type != "tbody_close")
        if under and token.type == "tr_open" and in_body:
            rows.append([])
        if under and in_body and before.type == "td_open":
            texts = [child.content for child in token.children or []]
            rows[-1].append("".join(texts))
    return rows


def test_the_card_has_the_scores_of_each_class_and_slice(
    shop: Shop, exports: dict[str, Path]
) -> None:
    card = (exports[SEMI] / "README.md").read_text()
    predictions = shop.predictions(SEMI)
    right = predictions.probabilities.argmax(axis=1) == predictions.labels
    by_name = {row[0]: row for row in cells_of(card, "By class, the weakest first")}
    names = shop.dataset.manifest.classes
    shown_as = {name: visible(name.replace("\n", " ")) for name in names}
    assert set(by_name) == {*shown_as.values()}
    accuracies = []
    for index, name in enumerate(names):
        row = by_name[shown_as[name]]
        of_class = right[predictions.labels == index]
        assert row[1] == str(shop.dataset.manifest.counts["train"][name])
        assert row[2] == f"{len(of_class)}*"  # fewer than 30
        assert row[3] == f"{100 * of_class.mean():.1f} %"
        accuracies.append(of_class.mean())
    shown = [float(row[3].split()[0]) for row in by_name.values()]
    assert shown == sorted(shown) and len(set(shown)) > 1
    by_country = {row[0]: row for row in cells_of(card, "By slice")}
    assert set(by_country) == {"MX|<b>", "BR", "—"}
    countries = np.array([value or "—" for value in predictions.slices["country"]])
    for country, row in by_country.items():
        assert row[1].rstrip("*") == str((countries == country).sum())
        assert row[1].endswith("*") == ((countries == country).sum() < 30)
        assert row[2] == f"{100 * right[countries == country].mean():.1f} %"
    overall = dict((row[0], row[1:]) for row in cells_of(card, "How good it is"))
    assert overall["Acc@1, balanced"][0] == f"{100 * np.mean(accuracies):.2f} %"
    natural = np.array(accuracies) @ shop.dataset.manifest.class_shares
    assert overall["Acc@1, natural"][0] == f"{100 * natural:.2f} %"
    assert "Weakest country: " in card and "Too few test images" in card


def test_the_cards_front_matter_is_what_the_hub_reads(shop: Shop, exports: dict[str, Path]) -> None:
    data = ModelCard.load(exports[SEMI] / "README.md").data
    assert (data.library_name, data.pipeline_tag) == ("timm", "image-classification")
    assert (data.license, data.license_name) == ("other", "non-commercial-data")
    assert data.datasets == ["shop"] and {"onnx", "semi-supervised-learning"} <= set(data.tags)
    found = {each.metric_name: (each.metric_type, each.metric_value) for each in data.eval_results}
    test = {name: round(score / 100, 4) for name, score in shop.winner(SEMI).test.items()}
    assert found == {
        "Acc@1, balanced": ("balanced_accuracy", test["acc1"]),
        "Acc@5, balanced": ("balanced_top_5_accuracy", test["acc5"]),
        "Acc@1, natural": ("accuracy", test["acc1_natural"]),
        "Acc@5, natural": ("top_5_accuracy", test["acc5_natural"]),
    }
    assert test["acc5"] == 1 and 0 < test["acc1"] < 1
    assert {each.dataset_split for each in data.eval_results} == {"test"}


@pytest.mark.parametrize(
    ("weights", "images", "teachers", "expected"),
    [
        (None, "CC BY 4.0", [], "other"),  # nobody's to say but the user's
        ("apache-2.0", "CC BY 4.0", [], "apache-2.0"),
        ("cc-by-nc-4.0 (timm's for vit)", "CC0", [], "cc-by-nc-4.0"),
        ("apache-2.0", "CC BY-NC 4.0", [], "other"),
        ("cc-by-nc-4.0", "CC BY-NC 4.0", [], "cc-by-nc-4.0"),
        ("not stated", "CC0", [], "other"),
        ("apache-2.0", "CC0", ["mit", "apache-2.0"], "apache-2.0"),
        ("apache-2.0", "CC0", ["mit", "cc-by-nc-4.0"], "other"),
        ("cc-by-nc-4.0", "CC0", ["cc-by-nc-4.0"], "cc-by-nc-4.0"),
        ("apache-2.0", "CC0", ["not stated"], "other"),
    ],
)
def test_the_licence_never_promises_more_than_weights_images_and_teachers_allow(
    weights: str | None, images: str, teachers: list[str], expected: str
) -> None:
    start = None if weights is None else Weights(source="a.safetensors", license=weights)
    assert card_license(start, images, teachers) == expected


def test_text_from_data_stays_text(shop: Shop, exports: dict[str, Path]) -> None:
    card = (exports[SEMI] / "README.md").read_text()
    assert visible(card, lines=True) == card and "b&lt;/script&gt;\\\\x1b\\\\u202e" in card
    body = card.split("---\n", 2)[2]
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    inline = [child for token in tokens for child in token.children or []]
    assert not [t for t in (*tokens, *inline) if t.type.startswith("html")]
    assert {t.attrs["href"] for t in inline if t.type == "link_open"} == {
        "https://github.com/huggingface/pytorch-image-models",
        "https://onnxruntime.ai",
    }
    assert "not for commercial use" in card  # the images are CC BY-NC
    assert str(shop.folder) not in card and "raw (a local file or folder)" in card


def test_seeds_and_both_stages_are_told(shop: Shop, exports: dict[str, Path]) -> None:
    card = (exports[SEMI] / "README.md").read_text()
    record = shop.winner(SEMI)
    assert f"This is seed {record.spec.seed}, the best of them on validation" in card
    assert "### Stage 1 of 2: `finetune`" in card and "### Stage 2 of 2: `semi`" in card
    assert f"| `base_lr` | `{record.spec.recipe.base_lr}` |" in card
    assert record.id in card and str(record.spec.parent) in card
    _, first, second = card.split("### Stage ")
    frozen = "Its backbone was frozen: only an adapter (LoRA of rank 4) and the head were trained"
    assert frozen in second and "frozen" not in first
    # no control was trained beside it
    assert "how much to the unlabelled images, has not been tested" in card
    assert "has not been tested" not in (exports[VIT] / "README.md").read_text()


def test_an_export_is_the_same_each_time(
    shop: Shop, exports: dict[str, Path], tmp_path: Path
) -> None:
    shop.export(VIT, tmp_path / "again")
    for file in exports[VIT].iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_model_from_non_commercial_weights_says_so(
    shop: Shop, exports: dict[str, Path], tmp_path: Path
) -> None:
    models = {"vit": dict(SMALL["models"]["vit"])}
    models["vit"]["pretrained"] = str(exports[VIT] / WEIGHTS)
    models["vit"]["weights_license"] = "cc-by-nc-4.0"
    small = {**SMALL["models"]["vit"], "recipe": {**SMALL_VIT, "batch_size": 4}}
    models["small"] = {**small, "method": "distill", "from": "vit"}
    grid = [{"model": name, "labels": ["100%"]} for name in models]
    text = shop_experiment(shop.folder, models=models, grid=grid, seeds=1)
    taught = Shop(tmp_path, shop.dataset, Plan(load_experiment("file.yaml", text=text)))
    assert not taught.grid.run().problems
    done = taught.export(VIT, tmp_path / "out", onnx=False)
    assert "not for commercial use" in done.notes[0]
    assert sorted(done.files) == ["README.md", "config.json", "model.safetensors"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**Not for commercial use:** model.safetensors (a local file or folder)" in card
    assert ModelCard(card).data.license == "cc-by-nc-4.0"
    assert "ONNX" not in card and str(exports[VIT]) not in card
    assert json.loads((tmp_path / "out" / CONFIG).read_text())["pretrained_cfg"]["license"] == (
        "cc-by-nc-4.0"
    )
    # and so does one that learnt its answers
    done = taught.export("shop/small/100%/100%", tmp_path / "small", onnx=False)
    [note] = done.notes
    assert note.startswith(f"learnt from {VIT}, made from /") and "not for commercial" in note
    card = (tmp_path / "small" / "README.md").read_text()
    assert f"**Its teacher {VIT} is not for commercial use:** model.safetensors" in card
    assert "Treat this model as **not for commercial use**, too" in card
    assert "due to its teacher's answers for unlabelled images has not been tested" in card
    [teacher], made = cells_of(card, "How it was trained"), cells_of(card, "How it was made")
    record = taught.winner(VIT)
    assert teacher[:5] == [VIT, record.id, "0", "finetune", record.spec.backbone]
    assert "licence cc-by-nc-4.0 (not for commercial use)" in teacher[5]
    both = record.device_seconds["cpu"] + taught.winner(done.cell).device_seconds["cpu"]
    assert f"{show_seconds(both)} of a CPU core" in str(made)


def change_weights(file: Path) -> None:
    """Whole to look at: as safetensors it opens."""
    tensors = load_file(file)
    save_file({name: tensor.flip(0) for name, tensor in tensors.items()}, file)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def change_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = [
    *((weights_file, damage) for damage in (change_weights, cut, change_a_byte, Path.unlink)),
    *((predictions_file, damage) for damage in (cut, change_a_byte, Path.unlink)),
]


@pytest.mark.parametrize(("of", "damage"), DAMAGES)
def test_damaged_files_are_named_and_can_be_made_again(
    damaged: Shop, tmp_path: Path, of: Any, damage: Any
) -> None:
    record = damaged.winner(VIT)
    file = tmp_path / "run" / of(record.id)
    damage(file)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="semigrid run file.yaml --only '?shop/vit/100%"):
        damaged.export(VIT, tmp_path / "new" / "out")
    assert sorted(tmp_path.iterdir()) == before
    file.unlink(missing_ok=True)  # as the message says
    damaged.grid.run()
    damaged.export(VIT, tmp_path / "new" / "out", onnx=False)


def test_of_an_experiments_copy_in_its_run_the_folder_is_what_to_run(
    damaged: Shop, tmp_path: Path
) -> None:
    copy = tmp_path / "run" / "experiment.yaml"
    here = {"name": "run", "storage": str(tmp_path)}
    experiment = load_experiment(str(copy), here, copy.read_text())
    opened = Shop(tmp_path, damaged.dataset, Plan(experiment))
    (tmp_path / "run" / predictions_file(opened.winner(VIT).id)).unlink()
    with pytest.raises(InputError, match=f"missing; .*: semigrid run {tmp_path}/run --only"):
        opened.export(VIT, tmp_path / "out")


def test_weights_that_are_not_the_measured_ones_are_found_without_a_hash(
    damaged: Shop, tmp_path: Path
) -> None:
    record = damaged.winner(VIT)
    change_weights(tmp_path / "run" / weights_file(record.id))
    damaged.grid.ledger.write(record.model_copy(update={"weights_file": None}))
    with pytest.raises(InputError, match="other probabilities on test images than were measured"):
        damaged.export(VIT, tmp_path / "out", onnx=False)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.fixture
def copy(exports: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exports[VIT], tmp_path / "copy"))


def test_files_that_say_something_else_are_refused(
    shop: Shop, exports: dict[str, Path], copy: Path
) -> None:
    record = shop.winner(VIT)
    grid = shop.grid
    place = shop.plan.place(grid.study.searches[VIT].search, str(shop.folder / "run"))
    model = finished_model(record.spec, place, len(CLASSES), record.best_weights).eval()
    views = view_settings(record.spec.recipe, input_statistics(model))
    predictions = shop.predictions(VIT)
    found = check_files(copy, model, views, shop.dataset, predictions, onnx=True)
    assert found.real_images and found.images == len(predictions.ids)
    assert found.onnx is not None and found.onnx < 1e-5

    with torch.no_grad():
        model.get_parameter("head.bias")[0] += 1e-3
    write_onnx(copy / ONNX, model, 16, "vit", {})
    with torch.no_grad():
        model.get_parameter("head.bias")[0] -= 1e-3
    with pytest.raises(InputError, match="the ONNX file differs by .*--no-onnx"):
        check_files(copy, model, views, shop.dataset, predictions, onnx=True)

    config = json.loads((copy / CONFIG).read_text())
    change_weights(copy / WEIGHTS)
    with pytest.raises(InputError, match="as timm opens it differs"):
        check_files(copy, model, views, shop.dataset, predictions, onnx=False)
    shutil.copy(exports[VIT] / WEIGHTS, copy / WEIGHTS)
    config["pretrained_cfg"]["mean"] = [0.485, 0.456, 0.406]
    (copy / CONFIG).write_text(json.dumps(config))
    with pytest.raises(InputError, match="timm's evaluation view differs"):
        check_files(copy, model, views, shop.dataset, predictions, onnx=False)


def test_attention_with_a_bias_goes_into_onnx(tmp_path: Path) -> None:
    size = {"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("beit_base_patch16_224", **size).eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    write_onnx(tmp_path / ONNX, model, 32, "beit", {})
    logits, probabilities = run_onnx(tmp_path / ONNX, images.numpy())
    with torch.inference_mode():
        expected = model(images)
    assert np.abs(logits - expected.numpy()).max() < 1e-5
    assert np.abs(probabilities - expected.softmax(dim=1).numpy()).max() < 1e-5


def test_a_model_that_onnx_cannot_express(tmp_path: Path) -> None:
    class Undecided(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1) if images.sum() > 0 else -images.flatten(1)

    with pytest.raises(InputError, match="undecided cannot be exported to ONNX: .*--no-onnx"):
        write_onnx(tmp_path / ONNX, Undecided().eval(), 4, "undecided", {})


@pytest.fixture
def unreadable_test_images(shop: Shop) -> Iterator[None]:
    (shard,) = [shard for shard in shop.dataset.manifest.shards if shard.split == "test"]
    file = shop.folder / "shop" / shard.file
    content = file.read_bytes()
    file.write_bytes(b"\0" * len(content))
    yield
    file.write_bytes(content)


def test_rounding_grows_with_the_logits_and_nothing_else_does() -> None:
    # inception_v3 from random weights: logits of 1e+9, in steps of 64
    probabilities = np.array([[1.0, 0.0]])
    large = np.array([[1e9, -3e8]])
    assert _difference("it", "that", (large + 960, probabilities), (large, probabilities)) == 960
    small = np.array([[9.0, -3.0]])
    assert _difference("it", "that", [small + 9e-5], [small]) == pytest.approx(9e-5)
    infinite = np.array([[np.inf, 0.0]])
    for array, expected in (
        ([large + 2e4], [large]),
        ([small + 2e-4], [small]),
        ([large, probabilities + 2e-4], [large, probabilities]),
        ([small * np.nan], [small]),
        ([small], [infinite]),
        ([infinite], [small]),
        ([infinite], [infinite]),
    ):
        with np.errstate(invalid="ignore"), pytest.raises(InputError, match="nothing was written"):
            _difference("it", "that", array, expected)


def test_without_test_images_random_ones_are_checked_and_that_is_said(
    shop: Shop, unreadable_test_images: None, tmp_path: Path
) -> None:
    done = shop.export(VIT, tmp_path / "out")
    assert not done.check.real_images and done.check.measured is None
    assert done.check.onnx is not None and done.check.onnx < 1e-4
    assert "the test images cannot be read" in done.notes[0]
    assert "Checked on 64 random images" in (tmp_path / "out" / "README.md").read_text()


def test_nothing_is_lost_in_the_destination(shop: Shop, copy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not empty.*--overwrite"):
        shop.export(VIT, copy)
    (copy / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"more in this folder \(mine.txt\)"):
        shop.export(VIT, copy, overwrite=True)
    (copy / "mine.txt").unlink()
    (copy / "README.md").write_text("earlier")
    shop.export(RESNET, copy, onnx=False, overwrite=True)
    assert sorted(f.name for f in copy.iterdir()) == ["README.md", CONFIG, WEIGHTS]
    assert "resnet" in (copy / "README.md").read_text()
    with pytest.raises(InputError, match="this is a file"):
        shop.export(VIT, copy / "README.md")
    with pytest.raises(InputError, match="give a local folder"):
        shop.export(VIT, "memory://out")
    with pytest.raises(InputError, match="cannot be written"):
        shop.export(VIT, copy / "README.md" / "under", onnx=False)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_cell_that_is_none_or_not_finished(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'shop/vit/99%' is no cell of file.yaml"):
        shop.export("shop/vit/99%", tmp_path / "out")
    begun = Shop(tmp_path, shop.dataset, shop.plan)
    with pytest.raises(InputError, match="a cell has a model once it is finished"):
        begun.export(VIT, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_command_without_the_onnx_packages_and_without_ray(shop: Shop, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['onnxscript'] = sys.modules['ray'] = None\n"
        "from semigrid.grid.commands.main import main; main()"
    )

    def export(*options: str) -> subprocess.CompletedProcess[str]:
        source = str(shop.folder / "run")
        command = [sys.executable, "-c", program, "export", source, VIT, str(tmp_path / "out")]
        return subprocess.run([*command, *options], capture_output=True, text=True)

    done = export()
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    assert "needs onnxscript: pip install 'semigrid[onnx]'" in done.stderr.replace("\n", " ")
    assert "--no-onnx" in done.stderr
    done = export("--no-onnx", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["check"]["timm"] < 1e-5 and found["check"]["onnx"] is None
    assert set(found["files"]) == {path.name for path in (tmp_path / "out").iterdir()}
