"""Datasets of the real sets, built by the command that users have."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.accuracy.sets import COLUMNS, SETS, write_table


@dataclass(frozen=True)
class Use:
    """What a dataset is for: the shares of its labelled images in test and val, and its folder.

    Attributes:
        labeled: by set, how many images keep their labels; the others are the pool.
    """

    suffix: str
    test_share: float
    val_share: float
    labeled: dict[str, int]


# nearly half of the labelled images: a test of a tenth would hide what the table asks
TABLE = Use(
    "", 0.4, 0.1,
    labeled={"solar-cells": 1500, "emoji": 2600, "digits": 800},
)  # fmt: skip
# candidates are compared on val, so that is nearly half; 1,000 labels to train where there are
RULE = Use(
    "-rule", 0.05, 0.45,
    labeled={"solar-cells": 2080, "emoji": 2150, "digits": 1150},
)  # fmt: skip


def built(name: str, folder: Path, use: Use = TABLE) -> Path:
    """The dataset of a set, built if it is not there."""
    place = folder / f"{name}{use.suffix}"
    table = write_table(name, place, folder / "downloads", use.labeled[name])
    dataset = place / "dataset"
    if not (dataset / "dataset.json").exists():
        columns = (f"--{column}-column={column}" for column in COLUMNS)
        command = ["data", "build", str(table), str(dataset), *columns]
        command += ["--name", name, "--license", SETS[name].license]
        command += ["--test-share", str(use.test_share), "--val-share", str(use.val_share)]
        # twice the pixels of a view: decoding larger pictures would take as long as training
        command += ["--shorter-side", str(2 * SETS[name].pixels)]
        print("semigrid", *command, flush=True)
        subprocess.run([sys.executable, "-m", "semigrid", *command], check=True)
    return dataset
