"""A cell's winner as a folder to use and to share: timm's files, an ONNX file, a model card."""

import json
from dataclasses import dataclass, replace

from semigrid.data.errors import InputError
from semigrid.data.schema import Manifest
from semigrid.data.storage import Storage
from semigrid.grid.analysis.predictions import read_predictions
from semigrid.grid.analysis.result_set import read_result_set
from semigrid.grid.export.card import (
    CARD,
    card_license,
    licenses_of,
    model_card,
    pool_worth,
)
from semigrid.grid.export.check import (
    MAX_DIFFERENCE,
    MAX_OF_LARGEST,
    Check,
    check_files,
    show_difference,
)
from semigrid.grid.export.onnx_file import ONNX, ONNX_DATA, require_onnx, write_onnx
from semigrid.grid.export.timm_folder import CONFIG, CROP_PCT, WEIGHTS, write_timm_folder
from semigrid.grid.export.whole_folder import check_destination, whole_or_not
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.state import StudyState
from semigrid.grid.study.winner import (
    adjustment_note,
    find_winner,
    load_winner,
    run_command,
)
from semigrid.trainers.evaluation.predictions import Predictions
from semigrid.trainers.layout import predictions_file
from semigrid.trainers.models.weights import is_non_commercial

FILES = (WEIGHTS, CONFIG, ONNX, ONNX_DATA, CARD)


@dataclass(frozen=True)
class Exported:
    """A written export: sizes of its files in bytes, and its check."""

    destination: str
    cell: str
    seed: int
    trial: str
    files: dict[str, int]
    check: Check
    notes: list[str]


def export_cell(
    study: StudyState,
    storage: Storage,
    name: str,
    destination: str,
    onnx: bool = True,
    overwrite: bool = False,
) -> Exported:
    """Exports the winner of a finished cell, with its best seed on val.

    Before the folder gets its name, the model is run on test images as timm and ONNX Runtime open
    it, and compared with its measured predictions. Raises ``InputError`` for what cannot be
    exported, and leaves nothing behind then.
    """
    from semigrid.trainers.models.create import input_statistics
    from semigrid.trainers.trial.data import view_settings

    if onnx:
        require_onnx()
    replaced = FILES if overwrite else ()
    target = check_destination(destination, replaced)
    cell, record = find_winner(study, name)
    dataset = study.plan.experiment.datasets[cell.dataset]
    again = run_command(study.plan.experiment, name)
    predictions = _read_predictions(storage, record, dataset.manifest, again)
    beside = study.plan.control_of(cell, "compute") if cell.control is None else None
    results = read_result_set(study, storage, [name, *([beside.name] if beside else [])])
    by_cell = {row.cell: row for row in results.rows}
    row, seeds = by_cell[cell], list(study.searches[name].by_seed)
    exported = replace(row, seeds=[row.seeds[seeds.index(record.spec.seed)]])
    if not exported.predictions:  # other test images than those of the other seeds
        raise InputError(*results.problems)
    model, _ = load_winner(study.plan, cell, record, storage.uri)
    with whole_or_not(target, replaced) as folder:
        views = view_settings(record.spec.recipe, input_statistics(model))
        teachers = [study.records[teacher] for teacher in record.spec.teachers]
        license = card_license(record.weights, dataset.manifest.license, licenses_of(teachers))
        classes = dataset.manifest.classes
        write_timm_folder(folder, model, record.spec, classes, views, license)
        if onnx:
            metadata = {
                "class_names": json.dumps(classes),
                "img_size": str(views.img_size),
                "crop_pct": str(CROP_PCT),
                "interpolation": views.interpolation,
                "mean": json.dumps(views.mean),
                "std": json.dumps(views.std),
                "license": license,
                "cell": name,
                "trial": record.id,
            }
            write_onnx(folder / ONNX, model, views.img_size, record.spec.backbone, metadata)
        check = check_files(
            folder, model, views, dataset, predictions, onnx, set(record.device_seconds) == {"cpu"}
        )
        parameters = sum(weight.numel() for weight in model.parameters())
        control = None if beside is None else by_cell[beside]
        worth = None if cell.unlabeled is None else pool_worth(study.plan, row, control)
        of_cell = replace(results, rows=[exported])
        card = model_card(of_cell, record, predictions, parameters, check, worth)
        (folder / CARD).write_text(card, encoding="utf-8")
        files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    notes = [] if check.why_random is None else [f"{check.why_random}: random ones were used"]
    sources = {f"learnt from {each.cell}, made from": each.weights for each in teachers}
    for how, weights in {"made from": record.weights, **sources}.items():
        if weights is not None and is_non_commercial(weights.license):
            notes.append(f"{how} {weights.describe()}")
    if (note := adjustment_note(record)) is not None:
        notes.append(note)
    return Exported(str(target), name, record.spec.seed, record.id, files, check, notes)


def show(done: Exported) -> list[str]:
    """The written files and the result of their check, in lines."""
    check = done.check
    width = max(len(name) for name in done.files)
    images = "test images" if check.real_images else "random images"
    lines = [
        f"{done.cell}, seed {done.seed} (trial {done.trial}), is exported to {done.destination}:",
        *(f"  {name:{width}}  {size:>13,} bytes" for name, size in done.files.items()),
        f"checked on {check.images} {images} against PyTorch; largest differences of logits and "
        f"probabilities (allowed: {MAX_DIFFERENCE:g}, or {MAX_OF_LARGEST:g} of the largest logit):",
        f"  opened by timm: {show_difference(check.timm)}",
    ]
    if check.onnx is not None:
        lines.append(f"  run by ONNX Runtime: {show_difference(check.onnx)}")
    if check.measured is not None:
        lines.append(f"  to the probabilities measured on test: {show_difference(check.measured)}")
    return [*lines, *done.notes]


def _read_predictions(
    storage: Storage, record: Record, manifest: Manifest, again: str
) -> Predictions:
    """The predictions of the test images, as evaluated."""
    try:
        return read_predictions(storage, record, manifest)
    except (FileNotFoundError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        problem = "missing" if missing else f"{error}; delete it"
        raise InputError(
            f"{storage.location(predictions_file(record.id))}: {problem}; to measure it again: "
            f"{again}"
        ) from error
