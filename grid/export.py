"""A cell's winner as a folder to use and to share: timm's files, an ONNX file, a model card."""

import contextlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import InputError
from data.schema import Dataset
from data.storage import FileFacts, Storage
from grid.ledger import Record
from grid.model_card import CARD, CardFacts, Check, card_license, model_card
from grid.onnx_file import ONNX, ONNX_DATA, require_onnx, run_onnx, write_onnx
from grid.plan import Cell
from grid.scheduler import Scheduler
from grid.timm_folder import (
    CONFIG,
    CROP_PCT,
    WEIGHTS,
    open_timm_folder,
    timm_config,
    write_timm_folder,
)
from grid.winner import find_winner
from trainers.predictions import Predictions, decode_predictions
from trainers.trial import DamagedError, Place, finished_model, predictions_file
from trainers.weights import is_non_commercial

if TYPE_CHECKING:
    from torch import nn

    from data.augment import ViewSettings

FILES = (WEIGHTS, CONFIG, ONNX, ONNX_DATA, CARD)
CHECK_IMAGES = 64
# of logits and probabilities, between two ways to compute the same in float32
MAX_DIFFERENCE = 1e-4
# of probabilities, to what was measured: another device rounds otherwise (TF32 to 1e-3 or so), and
# other weights or another view are further away
MAX_FROM_MEASURED = 0.02


@dataclass(frozen=True)
class Exported:
    """What an export wrote: the files' sizes in bytes, and what its check found."""

    destination: str
    cell: str
    seed: int
    trial: str
    files: dict[str, int]
    check: Check
    notes: list[str]


def export_cell(
    scheduler: Scheduler,
    records: Mapping[str, Record],
    storage: Storage,
    name: str,
    destination: str,
    onnx: bool = True,
    overwrite: bool = False,
) -> Exported:
    """Exports the winner of a finished cell on its best seed by val.

    The folder is checked before it takes its name: opened by timm, and run by ONNX Runtime, it
    says of test images what the model said when it was measured. Raises ``InputError`` for what
    cannot be exported; then nothing is left behind.
    """
    if onnx:
        require_onnx()
    target = _check_destination(destination, overwrite)
    cell, record = find_winner(scheduler, records, name)
    again = f"semigrid run {scheduler.plan.experiment.source} --only {name!r}"
    predictions = _read_predictions(storage, record, again)
    dataset = scheduler.plan.experiment.datasets[cell.dataset]
    model = _load_model(scheduler, storage, cell, record, again)
    with _whole_or_not(target) as folder:
        views = _views(model, record)
        license = card_license(record.weights)
        classes = dataset.manifest.classes
        write_timm_folder(folder, model, timm_config(model, record.spec, classes, views, license))
        if onnx:
            write_onnx(
                folder / ONNX,
                model,
                views.img_size,
                record.spec.backbone,
                _onnx_metadata(cell, record, classes, views, license),
            )
        check = _check(folder, model, views, dataset, predictions, onnx)
        state = scheduler.states[name]
        facts = CardFacts(
            cell=cell,
            chain=_chain(records, record),
            seeds={seed: records[spec.id] for seed, spec in sorted(state.by_seed.items())},
            trials=len(state.trials),
            manifest=dataset.manifest,
            predictions=predictions,
            check=check,
            onnx=onnx,
        )
        (folder / CARD).write_text(model_card(facts), encoding="utf-8")
        files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    notes = [] if check.why_random is None else [f"{check.why_random}: random ones were used"]
    if record.weights is not None and is_non_commercial(record.weights.license):
        notes.append(f"made from {record.weights.describe()}")
    return Exported(str(target), name, record.spec.seed, record.id, files, check, notes)


def show(done: Exported) -> list[str]:
    """What was written and what its check found, in lines."""
    check = done.check
    width = max(len(name) for name in done.files)
    images = "test images" if check.real_images else "random images"
    lines = [
        f"{done.cell}, seed {done.seed} (trial {done.trial}), is exported to {done.destination}:",
        *(f"  {name:{width}}  {size:>13,} bytes" for name, size in done.files.items()),
        f"checked on {check.images} {images} against PyTorch; largest differences of logits and "
        f"probabilities (allowed: {MAX_DIFFERENCE:g}):",
        f"  opened by timm: {check.timm:.1e}",
    ]
    if check.onnx is not None:
        lines.append(f"  run by ONNX Runtime: {check.onnx:.1e}")
    if check.measured is not None:
        lines.append(f"  to the probabilities measured on test: {check.measured:.1e}")
    return [*lines, *done.notes]


def _load_model(
    scheduler: Scheduler, storage: Storage, cell: Cell, record: Record, again: str
) -> "nn.Module":
    plan = scheduler.plan
    search = next(search for search in plan.searches if search.cell == cell)
    facts = record.weights_file
    place: Place = replace(
        plan.place(search, storage.uri), weights_sha256=facts.sha256 if facts else None
    )
    classes = plan.experiment.datasets[cell.dataset].num_classes
    try:
        return finished_model(record.spec, place, classes, record.best_weights).eval()
    except DamagedError as error:
        raise InputError(
            f"{error.problem}; delete it if it is there, and have it trained again: {again}"
        ) from error


def _views(model: "nn.Module", record: Record) -> "ViewSettings":
    from trainers.models import input_statistics
    from trainers.trial import view_settings

    views: ViewSettings = view_settings(record.spec.recipe, input_statistics(model))
    return views


def _chain(records: Mapping[str, Record], record: Record) -> list[Record]:
    """The trial and those it started from, the first one first, as far as the ledger has them."""
    chain = [record]
    while (parent := records.get(chain[0].spec.parent or "")) is not None:
        chain.insert(0, parent)
    return chain


def _onnx_metadata(
    cell: Cell, record: Record, classes: tuple[str, ...], views: "ViewSettings", license: str
) -> dict[str, str]:
    return {
        "class_names": json.dumps(classes),
        "img_size": str(views.img_size),
        "crop_pct": str(CROP_PCT),
        "interpolation": views.interpolation,
        "mean": json.dumps(views.mean),
        "std": json.dumps(views.std),
        "license": license,
        "cell": cell.name,
        "trial": record.id,
    }


def _read_predictions(storage: Storage, record: Record, again: str) -> Predictions:
    """What the model said of the test images when it was measured."""
    name = predictions_file(record.id)
    try:
        content = storage.read(name)
        if record.predictions_file not in (None, FileFacts.of(content)):
            raise ValueError("damaged, it is not what was written")
        predictions = decode_predictions(content)
        acc1 = predictions.metrics()["acc1"]
        assert record.test is not None  # the cell is finished
        if not math.isclose(acc1, record.test["acc1"], abs_tol=1e-6):
            raise ValueError(f"Acc@1 is {acc1:.2f} here, {record.test['acc1']:.2f} in the ledger")
        return predictions
    except FileNotFoundError as error:
        raise InputError(
            f"{storage.path(name)}: missing; have it measured again: {again}"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{storage.path(name)}: {error}; delete it, and have it measured again: {again}"
        ) from error


def _check(
    folder: Path,
    model: "nn.Module",
    views: "ViewSettings",
    dataset: Dataset,
    predictions: Predictions,
    onnx: bool,
) -> Check:
    """Compares the folder's files with the model, and the model with what was measured.

    Each file goes by its own: timm opens the folder and makes the view that its config says.
    """
    import torch

    other, view = open_timm_folder(folder)
    ids, images, timm_images, problem = _check_images(dataset, views, view)
    with torch.inference_mode():
        logits = model(images)
        timm_logits = other(timm_images)
    ours = (logits.numpy(), logits.softmax(dim=1).numpy())
    theirs = (timm_logits.numpy(), timm_logits.softmax(dim=1).numpy())
    timm_difference = _difference(ours, theirs)
    if not timm_difference <= MAX_DIFFERENCE:
        raise InputError(
            f"the model as timm opens it differs by {timm_difference:.1e} in logits or "
            f"probabilities from the one that was trained, more than {MAX_DIFFERENCE:g}: nothing "
            "was written"
        )
    onnx_difference = None
    if onnx:
        found = run_onnx(folder / ONNX, images.numpy())
        onnx_difference = _difference(ours, found)
        if not onnx_difference <= MAX_DIFFERENCE:
            raise InputError(
                f"the ONNX file differs by {onnx_difference:.1e} in logits or probabilities from "
                f"PyTorch, more than {MAX_DIFFERENCE:g}: nothing was written; leave the file out "
                "with --no-onnx"
            )
    measured = None
    if ids:
        row = {image_id: number for number, image_id in enumerate(predictions.ids)}
        known = predictions.probabilities[[row[image_id] for image_id in ids]]
        measured = float(np.abs(known - logits.double().softmax(dim=1).numpy()).max())
        if not measured <= MAX_FROM_MEASURED:
            raise InputError(
                f"the weights give other probabilities on test images than were measured, by up to "
                f"{measured:.2g}: weights or predictions of this trial are damaged; nothing was "
                "written"
            )
    return Check(len(images), timm_difference, onnx_difference, measured, problem)


def _difference(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> float:
    """The largest of logits and probabilities; NaN if there is any."""
    return float(max(np.abs(a - b).max() for a, b in zip(first, second, strict=True)))


def _check_images(
    dataset: Dataset, views: "ViewSettings", timm_view: Any
) -> tuple[list[str], Any, Any, str | None]:
    """Test images spread over the set: their ids, our views of them (N, 3, H, W), and timm's.

    Where they cannot be read any more: no ids, random images for both, and the reason.
    """
    import torch

    from data.augment import make_view, normalize
    from data.batches import decode

    count = dataset.rows_in("test")
    rows = np.unique(np.linspace(0, count - 1, min(count, CHECK_IMAGES)).round().astype(int))
    try:
        table = dataset.read("test", rows)
        pictures = [decode(*each) for each in zip(table.images, table.ids, strict=True)]
    except (OSError, ValueError) as error:  # a shard or an image in it
        shape = (CHECK_IMAGES, 3, views.img_size, views.img_size)
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return [], images, images, f"the test images cannot be read ({error})"
    ours = np.stack([make_view(picture, views, "eval", 0) for picture in pictures])
    theirs = torch.stack([timm_view(picture) for picture in pictures])
    return list(table.ids), normalize(torch.from_numpy(ours), views), theirs, None


def _check_destination(destination: str, overwrite: bool) -> Path:
    """The folder to write. Raises ``InputError`` where that would lose anything."""
    place = Storage(destination)
    if not place.is_local:
        raise InputError(f"{destination}: give a local folder; copy it to where it is to go")
    path = Path(place.root).resolve()
    if not path.exists():
        return path
    if not path.is_dir():
        raise InputError(f"{destination}: this is a file; give a folder")
    there = sorted(file.name for file in path.iterdir())
    if there and not overwrite:
        raise InputError(
            f"{destination}: this folder is not empty; give another, or --overwrite to replace an "
            "earlier export"
        )
    others = [name for name in there if name not in FILES]
    if others:
        more = ", …" if len(others) > 3 else ""
        raise InputError(
            f"{destination}: --overwrite replaces an earlier export, and there is more in this "
            f"folder ({', '.join(others[:3])}{more}); give another, or move that away"
        )
    return path


@contextlib.contextmanager
def _whole_or_not(target: Path) -> Iterator[Path]:
    """A folder beside the target that takes its place if all goes well, and else is removed."""
    made = [parent for parent in target.parents if not parent.exists()]
    beside = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        try:
            beside.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"{target}: cannot be written: {error}") from error
        yield beside
        for file in beside.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())  # else a power cut may keep the name and lose the bytes
        _take_place(beside, target)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):  # somebody else has put something there
                parent.rmdir()
        raise


def _take_place(beside: Path, target: Path) -> None:
    if not target.exists() or not any(target.iterdir()):
        os.rename(beside, target)
        return
    old = beside.with_suffix(".old")
    os.rename(target, old)
    try:
        os.rename(beside, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old)
