"""The grid that the chaos test runs, and what its ledger says afterwards."""

import contextlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from semigrid.data.storage import open_storage
from semigrid.grid.study.ledger import Ledger, Record
from semigrid.trainers.layout import PROGRESS

# a checkpoint after every step, as fast as they are written
CHECKPOINT_SECONDS = 0
# what one kill may cost: the steps made while a checkpoint is on its way
LOST_STEPS = 5
TRIALS = 2  # a cell
TRAININGS = 10 * TRIALS
PAIR = "pair"  # the model that trains on two workers
# Sums over two workers may be taken in another order; of scores in percent and of losses.
TOLERANCE = 1e-4

_RECIPE: dict[str, Any] = {
    "img_size": 16,
    "steps": 120,
    "batch_size": 8,
    "base_lr": 0.3,
    "drop_path": 0.1,
    "hflip": 0,
    "rand_augment": "",
    "evaluations": 4,
}
_SEMI = {**_RECIPE, "steps": 80, "batch_size": 4, "unlabeled_ratio": 2, "collapse_evaluations": 0}
_BACKBONE: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "method": "finetune",
    "pretrained": False,
    "backbone_args": {
        "img_size": 16,
        "patch_size": 4,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "class_token": False,
    },
}
EXPERIMENT: dict[str, Any] = {
    "name": "chaos",
    "datasets": {"digits": "builtin://digits"},
    "models": {
        "vit": {**_BACKBONE, "recipe": _RECIPE},
        # another drop path, or it would be the same training as vit
        PAIR: {
            **_BACKBONE,
            "recipe": {**_RECIPE, "drop_path": 0.2, "steps": 300, "evaluations": 5},
            "train": {"workers": 2},
        },
        "semi-vit": {"from": "vit", "method": "semi", "recipe": _SEMI},
        # with a child, the groups are on the longest chain and go first
        "semi-pair": {"from": PAIR, "method": "semi", "recipe": _SEMI},
    },
    "grid": [
        {"model": PAIR, "labels": ["100%"]},
        {"model": "vit", "labels": ["25%", "50%", "75%", "100%"]},
        {"model": "semi-vit", "labels": ["25%", "50%", "75%", "100%"]},
        {"model": "semi-pair", "labels": ["100%"]},
    ],
    "search": {"trials": TRIALS, "wave": 2},
    # twenty deaths in a few minutes may well be more in a row than the usual three
    "train": {"checkpoint_seconds": CHECKPOINT_SECONDS, "max_failures": 10},
}


def write_experiment(folder: Path) -> Path:
    file = folder / "chaos.yaml"
    file.write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False))
    return file


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "semigrid", *args]


def records_of(storage: Path) -> dict[str, Record]:
    return Ledger(open_storage(storage / "chaos")).read_all()


def is_training(storage: Path) -> bool:
    """Whether a training has made a step within the last second."""
    found = (storage / "chaos" / "checkpoints").glob(f"*/{PROGRESS}")
    with contextlib.suppress(FileNotFoundError):  # a training has just ended
        return any(time.time() - file.stat().st_mtime < 1 for file in found)
    return False


def table_of(file: Path, storage: Path) -> list[dict[str, Any]]:
    """The results table, without what depends on the machine."""
    shown = command("table", str(file), "--storage", str(storage), "--json")
    rows = json.loads(subprocess.run(shown, check=True, capture_output=True, text=True).stdout)
    rows = rows["cells"] if isinstance(rows, dict) else rows
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


def differences(expected: dict[str, Record], found: dict[str, Record]) -> list[str]:
    """What is not as in the undisturbed run; to the bit where one worker trained."""
    problems = [f"{i} is missing" for i in expected.keys() - found.keys()]
    problems += [f"{i} is one too many" for i in found.keys() - expected.keys()]
    for trial_id in expected.keys() & found.keys():
        one, other = expected[trial_id], found[trial_id]
        tolerance = TOLERANCE if PAIR in one.cell else 0.0  # what starts from it, too
        for name in ("status", "cell", "val", "test", "history", "best_step", "best_weights"):
            before, after = getattr(one, name), getattr(other, name)
            if not _same(before, after, tolerance):
                problems.append(f"{trial_id} of {one.cell}: {name} is {after}, was {before}")
    return problems


def _same(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, dict):
        same_keys = isinstance(other, dict) and one.keys() == other.keys()
        return same_keys and all(_same(one[k], other[k], tolerance) for k in one)
    if isinstance(one, list):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_same(a, b, tolerance) for a, b in pairs)
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    return bool(one == other)


def repeated_too_much(records: dict[str, Record], kills: Sequence[float]) -> list[str]:
    """What repeated more than a checkpoint interval for each of the kills, which have these times.

    A checkpoint counts once it has arrived: a few steps more are made meanwhile.

    One kill may end several trainings: each may have begun anew as often as something was killed
    before it was over, but all of them together, too, stay within an interval for each kill.
    """
    problems = []
    for record in records.values():
        repeated, ended = repeats(record)
        end = record.finished_at or time.time()
        before = sum(at <= end for at in kills)
        if not record.starts or ended > before or not 0 <= repeated <= ended * LOST_STEPS:
            problems.append(
                f"{record.id} of {record.cell} repeated {repeated} steps in {ended} ended "
                f"attempts after {before} kills (starts at {record.starts}, {record.steps_run} "
                "steps run)"
            )
    total = sum(repeats(record)[0] for record in records.values())
    if total > len(kills) * LOST_STEPS:
        problems.append(f"{total} steps were repeated after {len(kills)} kills")
    return problems


def repeats(record: Record) -> tuple[int, int]:
    """Steps that a trial made more than once, and how many of its attempts were ended."""
    return record.steps_run - int(record.history[-1]["step"]), len(record.starts) - 1
