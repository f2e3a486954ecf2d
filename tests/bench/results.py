"""Processor seconds that tables and the report take on a grid of the paper's shape and size.

30 cells on one seed and on three, each measured on 4,413 test images of 30 classes, of which the
rarest have 5 to 40 and the others 167; nothing is trained: the records and predictions are drawn.
"""

import io
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from tests.helpers.scheduling import start_next
from tests.helpers.scores import alike

from semigrid.data.builder.write import StoredImage, write_dataset
from semigrid.data.schema import Split
from semigrid.data.storage import FileFacts, open_storage
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.study.ledger import Ledger, start_record
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.rules import StudyRules
from semigrid.grid.study.scheduler import Scheduler
from semigrid.grid.study.search import Suggestions
from semigrid.grid.study.state import Job
from semigrid.trainers.evaluation.predictions import Predictions
from semigrid.trainers.layout import predictions_file

CLASSES, SEEDS, TRIALS, EVALUATIONS = 30, (1, 3), 16, 20
TEST_IMAGES = [167] * 26 + [40, 17, 9, 5]  # of each class
DATASETS = ("vests", "cases", "aprons")
VIT: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "method": "finetune",
    "pretrained": False,
    "recipe": {"img_size": 16, "steps": 1000, "batch_size": 32, "evaluations": EVALUATIONS},
    "backbone_args": {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
}
QUARTERS = ["25%", "50%", "75%", "100%"]


def results_speed() -> Iterator[tuple[str, str, str]]:
    """Rows of a table: what, found, goal."""
    imports = _seconds([sys.executable, "-c", _IMPORTS])
    yield "its imports", f"{imports:.1f} s", ""
    for seeds in SEEDS:
        yield from _of_grid(seeds, imports)


def _of_grid(seeds: int, imports: float) -> Iterator[tuple[str, str, str]]:
    """The rows of a grid on so many seeds."""
    with tempfile.TemporaryDirectory(prefix="semigrid-bench-") as temporary:
        file = finished_grid(Path(temporary), seeds)
        on = f"{seeds} seed{'s' if seeds > 1 else ''}"
        table = _seconds([sys.executable, "-m", "semigrid", "table", str(file)])
        report = Path(temporary) / "report.html"
        command = [sys.executable, "-m", "semigrid", "report", str(file), "-o", str(report)]
        made = _seconds(command)
        yield f"semigrid table, {on}, less its imports", f"{table - imports:.1f} s", "below 2 s"
        yield f"semigrid table and report, {on}", f"{table + made:.1f} s", "below 20 s"
        yield f"the report, {on}", f"{report.stat().st_size / 2**20:.1f} MiB", "below 15 MiB"


_IMPORTS = (
    "import semigrid.grid.commands.main, semigrid.grid.analysis.result_set; "
    "import semigrid.grid.tables.views, semigrid.grid.study.search; "
    "import semigrid.data.builder.builtin"
)


def _seconds(command: list[str]) -> float:
    """Of the processor: what else the machine does makes little difference."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def finished_grid(folder: Path, seeds: int) -> Path:
    """The experiment file of a grid whose cells are all finished on so many seeds."""
    for number, name in enumerate(DATASETS):
        _write_images(folder / name, number)
    content = {
        "name": "paper",
        "datasets": {name: str(folder / name) for name in DATASETS},
        "models": {
            "resnet18": {"backbone": "test_resnet", "method": "finetune", "pretrained": False},
            "vit": VIT,
            "semi-vit": {"from": "vit", "method": "semi", "recipe": VIT["recipe"]},
        },
        "grid": [
            {"model": "resnet18", "labels": ["100%"]},
            {"model": "vit", "labels": QUARTERS},
            {"model": "semi-vit", "labels": QUARTERS},
            {
                "model": "semi-vit",
                "labels": ["50%"],
                "unlabeled": ["200%", "300%", "400%"],
                "datasets": ["aprons"],
            },
        ],
        "search": {"trials": TRIALS, "wave": 4, "sampler": "random"},
        "seeds": seeds,
        "storage": str(folder / "results"),
    }
    file = folder / "paper.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    plan = Plan(load_experiment(str(file)))
    _finish(plan)
    return file


def _write_images(folder: Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows = []
    images: dict[Split, list[int]] = {
        "train": [60] * CLASSES,
        "val": [10] * CLASSES,
        "test": TEST_IMAGES,
    }
    for split, counts in images.items():
        for label, count in enumerate(counts):
            for number in range(count):
                name = f"{split}-{label:02d}-{number:03d}"
                rows.append(StoredImage(name, _image(draw), label, split, name))
    for number in range(400):
        rows.append(StoredImage(f"pool-{number}", _image(draw), None, "pool", f"pool-{number}"))
    write_dataset(
        str(folder),
        rows,
        name=folder.name,
        classes=[f"neck style number {label:02d}" for label in range(CLASSES)],
        license="CC0",
        source="drawn for a benchmark",
        pool_unit=100,
    )


def _image(draw: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    pixels = draw.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


def _finish(plan: Plan) -> None:
    """Records of all trials, as if they had been trained."""
    storage = open_storage(plan.experiment.folder)
    ledger = Ledger(storage)
    # as a run leaves them: nothing is suggested anew
    rules = StudyRules(lambda record: True, suggest=Suggestions(storage, writes=True).suggest)
    scheduler = Scheduler(rules.assess(plan, {}), rules)
    draw = np.random.default_rng(0)
    while job := start_next(scheduler):
        record = ledger.read(job.spec.id)
        if record is None:
            record = start_record(job.spec, job.search.name)
            record.status, record.seconds, record.device_seconds = "finished", 600, {"cpu": 600.0}
            score = float(80 + 5 * draw.random())
            record.val = alike({"acc1": score, "acc5": 99.0, "ce": 0.5})
            record.best_step = 1000
            record.history = [_evaluation(step, score) for step in range(1, EVALUATIONS + 1)]
        if job.kind == "evaluate":
            predictions = _predict(plan, job, draw)
            content = predictions.encode()
            shares = plan.experiment.datasets[job.search.cell.dataset].manifest.class_shares
            record.test = predictions.metrics(shares)
            record.predictions_file = FileFacts.of(content)
            storage.write(predictions_file(record.id), content)
        ledger.write(record)
        scheduler.complete(job, record)
    assert all(state.stage == "finished" for state in scheduler.study.searches.values())
    for state in scheduler.study.searches.values():
        for spec in state.by_seed.values():
            storage.write(f"weights/{spec.id}.safetensors", b"drawn")


def _evaluation(number: int, score: float) -> dict[str, float]:
    acc1 = score * number / EVALUATIONS
    found = {"step": 50.0 * number, "mask_rate": 0.9, "pseudo_accuracy": 0.8, "teacher_gap": 1.0}
    found |= {"pseudo_entropy": 3.0, "loss": 1.0, "labeled_loss": 1.0, "unlabeled_loss": 0.1}
    for name in ("student", "ema"):
        found |= {f"{name}_acc1": acc1, f"{name}_acc5": 99.0, f"{name}_ce": 0.5}
    return alike(found)


def _predict(plan: Plan, job: Job, draw: np.random.Generator) -> Predictions:
    dataset = plan.experiment.datasets[job.search.cell.dataset]
    ids = dataset.column("test", "image_id").to_pylist()
    labels = dataset.column("test", "label").to_numpy()
    order = np.argsort(ids)
    labels = labels[order]
    logits = np.random.default_rng(7).normal(size=(len(labels), CLASSES))  # some images are hard
    logits += draw.normal(0, 0.5, logits.shape)
    logits[np.arange(len(labels)), labels] += 2.5 + float(job.search.cell.labels)
    probabilities = np.exp(logits)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Predictions([ids[i] for i in order], labels, probabilities)
