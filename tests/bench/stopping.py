"""What early stopping saves on the quickstart's grid, and what it costs its winners."""

import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import yaml

from semigrid.data.storage import open_storage
from semigrid.grid.study.ledger import ENDED, Ledger, Record

SEEDS = 3
SEARCH = {"trials": 16, "wave": 4}


def searched(folder: Path, early: bool) -> list[Record]:
    """The records of the grid, run whole with or without early stopping, or as it was left."""
    content = yaml.safe_load(
        files("semigrid.grid.experiments").joinpath("quickstart.yaml").read_text()
    )
    content["search"] = SEARCH | {"early_stopping": early}
    name = "early" if early else "full"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    command = [sys.executable, "-m", "semigrid", "run", str(file)]
    command += ["--storage", str(folder / name), "--seeds", str(SEEDS)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = Ledger(open_storage(folder / name / content["name"])).read_all()
    return [record for record in found.values() if record.status in ENDED]


def trial_steps(records: list[Record]) -> int:
    """By the trials of all searches; the winners' other seeds are trained to the end anyway."""
    return sum(int(r.history[-1]["step"]) for r in records if r.spec.seed == 0)


def winners(records: list[Record]) -> dict[str, list[float]]:
    """The Acc@1 on val of each cell's winner, in per cent, one a seed."""
    found: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if record.test is not None:
            found[record.cell].append(record.val["acc1"])
    return found


def early_stopping(folder: Path) -> Iterator[tuple[str, str, str]]:
    """(what, found, goal) of two runs of the grid: half an hour on two cores."""
    full, early = (searched(folder, stops) for stops in (False, True))
    all_steps, steps = trial_steps(full), trial_steps(early)
    stopped = sum(record.status == "stopped" for record in early)
    share = f"{steps:,} of {all_steps:,}, {steps / all_steps:.0%}; {stopped} trials stopped"
    yield "steps of all trials, early stopping and none", share, "at most 50%"
    ours, theirs = winners(early), winners(full)
    apart = {
        cell: abs(statistics.mean(ours[cell]) - statistics.mean(scores)) / statistics.stdev(scores)
        for cell, scores in theirs.items()
    }
    worst = max(apart, key=lambda cell: apart[cell])
    yield (
        f"winners' val Acc@1, means of {SEEDS} seeds: apart, in standard deviations over seeds",
        f"at most {apart[worst]:.2f} ({worst})",
        "at most 1",
    )
