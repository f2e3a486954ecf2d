"""Datasets of the real sets, built by the command that users have."""

import subprocess
import sys
from pathlib import Path

from tests.accuracy.sets import COLUMNS, SETS, write_table


def built(name: str, folder: Path, everything: bool = False) -> Path:
    """The dataset of a set, built if it is not there; ``everything`` keeps all labels."""
    place = folder / (f"{name}-all" if everything else name)
    table = write_table(name, place, folder / "downloads", everything)
    dataset = place / "dataset"
    if not (dataset / "dataset.json").exists():
        columns = (f"--{column}-column={column}" for column in COLUMNS)
        command = ["data", "build", str(table), str(dataset), *columns]
        command += ["--name", name, "--license", SETS[name].license]
        # half of the labelled images: a test of a tenth would hide what the table asks
        command += ["--test-share", "0.4", "--val-share", "0.1"]
        print("semigrid", *command, flush=True)
        subprocess.run([sys.executable, "-m", "semigrid", *command], check=True)
    return dataset
