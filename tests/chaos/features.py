"""Kills of ``semigrid probe`` while it makes features: part of ``make chaos``.

The command is killed by SIGKILL, with all that it started, after some parts, each time while Ray
Data makes them; then it may end. Exit code 1 if a part that was finished is made or written again,
or the features are not those of threads that nobody killed.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from tests.helpers.processes import descendants, kill

from semigrid.data.builder.write import StoredImage, write_dataset
from semigrid.data.catalog import open_dataset
from semigrid.data.schema import Split
from semigrid.trainers.features.backbone import FrozenBackbone
from semigrid.trainers.features.extract import fill, in_threads
from semigrid.trainers.features.store import FeatureStore
from semigrid.trainers.models.create import create_model
from semigrid.trainers.models.weights import file_weights
from semigrid.trainers.recipe import Recipe

# So many that Ray Data makes them, and after the first kill too; few to learn from: quick fits.
TRAIN, TEST, PART = 100, 4000, 512
BACKBONE, SIZE = "resnet18", 48
# Parts that each command has finished when it is killed.
KILLS = (1, 3)
WAIT_SECONDS = 600.0


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="semigrid-chaos-") as temporary:
        folder = Path(temporary)
        _prepare(folder)
        problems = _killed(folder)
        _undisturbed(folder)
        if _parts(folder / "features").keys() != _parts(folder / "undisturbed").keys():
            problems.append("the features are not those of a process that nobody killed")
    for problem in problems:
        print(problem)
    print(f"{len(KILLS)} kills: {'nothing was made twice' if not problems else 'WRONG'}")
    sys.exit(bool(problems))


def _prepare(folder: Path) -> None:
    digits = open_dataset("builtin://digits")
    table = digits.read("train")
    labels = np.asarray(table.labels)
    rows = []
    counts: dict[Split, int] = {"train": TRAIN, "val": 20, "test": TEST}
    for split, count in counts.items():
        for number in range(count):
            of = number % len(labels)
            name = f"{split}-{number:05}"
            rows.append(StoredImage(name, table.images[of], int(labels[of]), split, name))
    classes = list(digits.manifest.classes)
    write_dataset(str(folder / "set"), rows, name="set", classes=classes, license="", source="")
    network = create_model(BACKBONE, 2, Recipe(global_pool=None), {}, False, 0)
    save_file(network.state_dict(), folder / "weights.safetensors")


def _command(folder: Path, features: str, log: str) -> "subprocess.Popen[bytes]":
    words = ["probe", str(folder / "set"), "--backbone", BACKBONE, "--img-size", str(SIZE)]
    words += ["--pretrained", str(folder / "weights.safetensors")]
    words += ["--features", str(folder / features), "--picture", str(folder / "curve.png")]
    with (folder / log).open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "semigrid", *words], stdout=output, stderr=output
        )


def _undisturbed(folder: Path) -> None:
    weights = file_weights(str(folder / "weights.safetensors"), None, BACKBONE)
    backbone = FrozenBackbone.of(BACKBONE, weights, True, SIZE)
    store = FeatureStore(str(folder / "undisturbed"), backbone, open_dataset(str(folder / "set")))
    fill(store, ["train", "test"], lambda parts: in_threads(backbone, parts, 2))


def _parts(features: Path) -> dict[str, tuple[int, int]]:
    """The finished files by their names, which have the hash of the content, and their facts."""
    files = sorted(features.glob("*/*-*.parquet"))
    return {file.name: ((s := file.stat()).st_ino, s.st_mtime_ns) for file in files}


def _killed(folder: Path) -> list[str]:
    """What was done twice, by a command that is killed again and again."""
    finished: dict[str, tuple[int, int]] = {}
    problems = []
    for number, wanted in enumerate((*KILLS, None)):
        there = len(finished)
        command = _command(folder, "features", f"{number}.log")
        if wanted is not None:
            _kill_at(command, folder, there + wanted)
        else:
            assert command.wait(WAIT_SECONDS) == 0, (folder / f"{number}.log").read_text()
        found = _parts(folder / "features")
        problems += [
            f"{name}: made again after kill {number}"
            for name, facts in finished.items()
            if found.get(name) != facts
        ]
        if len({name.rpartition("-")[0] for name in found}) != len(found):
            problems.append(f"after kill {number} a part has two files")
        before, finished = finished, found
        if wanted is not None:
            print(f"killed with {len(found)} parts finished, {len(before)} before", flush=True)
    said = (folder / f"{len(KILLS)}.log").read_text()
    images, made = map(_number, re.findall(r"features: ([\d,]+) images, ([\d,]+) of them", said)[0])
    kept = sum(TRAIN if name.startswith("train") else PART for name in before)
    print(f"the last command made {made:,} of {images:,} images", flush=True)
    if (images, made) != (TRAIN + TEST, TRAIN + TEST - kept):
        problems.append(f"{made} of {images} images were made at last, {kept} were there")
    return problems


def _kill_at(command: "subprocess.Popen[bytes]", folder: Path, parts: int) -> None:
    """Ends the command and all that it started at once, when so many parts are finished."""
    deadline = time.monotonic() + WAIT_SECONDS
    while len(_parts(folder / "features")) < parts:
        assert command.poll() is None and time.monotonic() < deadline, "it was not to be killed"
        time.sleep(0.01)
    started = list(descendants(command.pid))
    command.kill()
    for pid in started:
        kill(pid)
    command.wait()


def _number(text: str) -> int:
    return int(text.replace(",", ""))


if __name__ == "__main__":
    main()
