"""Speed as ratios against a named alternative, both measured in this run: ``make bench``.

Absolute numbers depend on the machine and on what else it does; compare the ratios.
"""

import argparse
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from tests.bench.bucket import DELAY_SECONDS, looking_from_afar
from tests.bench.chosen import GRIDS as EQUAL_GRIDS
from tests.bench.chosen import chosen
from tests.bench.coverage import EXPERIMENTS, coverage
from tests.bench.evaluation import EVALUATIONS, IMAGES, evaluation_times
from tests.bench.features import feature_rates
from tests.bench.results import results_speed
from tests.bench.saving import steps_while_saving
from tests.bench.scale import GPUS, scale
from tests.bench.step import semi_steps
from tests.bench.stopping import early_stopping
from tests.bench.stream import memory_at, stream_rates
from tests.bench.trials import trial_costs
from tests.bench.worth import GRIDS, worth

from semigrid.trainers.methods.mixup import draw_pseudo_mix, pseudo_mix, smooth_one_hot


def mixing() -> Iterator[tuple[str, str, float, float]]:
    size, classes = 128, 30
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(size, 3, 224, 224, generator=generator)
    labels = torch.randint(classes, (size,), generator=generator)
    confidence = torch.rand(size, generator=generator)
    mix = draw_pseudo_mix(generator, size)

    def whole_batch() -> Any:
        targets, j = smooth_one_hot(labels, classes, 0.1), mix.permutation
        pair = images, images[j], targets, targets[j], confidence, confidence[j]
        return pseudo_mix(*pair, mix.use_cutmix, mix.centers)

    def per_image() -> Any:
        mixed, targets = images.clone(), smooth_one_hot(labels, classes, 0.1)
        for i, j in enumerate(mix.permutation.tolist()):
            lam = float(confidence[i] / (confidence[i] + confidence[j]))
            if mix.use_cutmix[i]:
                cut = int(224 * (1 - lam) ** 0.5)
                y, x = (random.randrange(224) for _ in range(2))
                top, bottom = max(0, y - cut // 2), min(224, y + (cut + 1) // 2)
                left, right = max(0, x - cut // 2), min(224, x + (cut + 1) // 2)
                mixed[i, :, top:bottom, left:right] = images[j, :, top:bottom, left:right]
            else:
                mixed[i] = lam * images[i] + (1 - lam) * images[j]
        return mixed, targets

    what, alternative = "pseudo mixup of 128 images at 224 px, batches/s", "a loop over the images"
    yield what, alternative, 1 / seconds(whole_batch), 1 / seconds(per_image)


def seconds(function: Callable[[], Any], repeats: int = 5) -> float:
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def rates(found: Iterator[tuple[str, str, float, float]]) -> Table:
    torch.set_num_threads(1)
    table = Table(title="higher is better", title_justify="left")
    for column in ("what", "semigrid", "alternative", "ratio", "the alternative is"):
        table.add_column(column, justify="right" if column in ("semigrid", "ratio") else "left")
    for what, alternative, ours, theirs in found:
        table.add_row(what, f"{ours:,.1f}", f"{theirs:,.1f}", f"{ours / theirs:.2f}", alternative)
    return table


def memory() -> Table:
    table = Table(
        title="peak memory of streaming a pool of 256 px once: the same, whatever its size"
    )
    for column in ("images", "MiB", "ratio"):
        table.add_column(column, justify="right")
    first = memory_at(20_000)
    for images, peak in ((20_000, first), (200_000, memory_at(200_000))):
        table.add_row(f"{images:,}", f"{peak:,.0f}", f"{peak / first:.2f}")
    return table


def step_times(device: str) -> Table:
    torch.set_num_threads(2)
    table = Table(title="seconds of a semi step of ViT-Small, 224 px: lower is better")
    for column in ("what", "semigrid", "tests/bench/plain.py", "ratio", "goal"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for what, ours, theirs, goal in semi_steps(device):
        ratio = f"{ours / theirs:.2f}"
        table.add_row(what, f"{ours:.3f}", f"{theirs:.3f}", ratio, f"at most {goal:.2f}")
    return table


def against_goals(title: str, rows: Iterable[tuple[str, str, str]]) -> Table:
    table = Table(title=title)
    for column in ("what", "found", "goal"):
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    return table


def print_as_found(console: Console, title: str, rows: Iterable[tuple[str, str, str]]) -> None:
    """One line each, as soon as it is known: the next may take minutes."""
    console.print(title)
    for what, found, goal in rows:
        console.print(f"{what}: {found}" + (f" (goal: {goal})" if goal else ""))


PARTS = ["steps", "mixing", "saving", "stream", "memory", "trials", "scale", "results", "bucket"]
PARTS += ["features", "evaluation", "stopping", "coverage", "worth", "chosen"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--folder", help="of --only stopping: keep its runs here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    console = Console(width=160)

    def wanted(part: str) -> bool:
        return options.only in (None, part)

    if wanted("steps"):
        console.print(step_times(options.device))
    if options.device == "cuda":
        return  # all else on a GPU: python -m tests.gpu
    if wanted("mixing"):
        console.print(rates(mixing()))
    if wanted("saving"):
        console.print(rates(steps_while_saving(options.device)))
    if wanted("stream"):
        console.print(rates(stream_rates()))
    if wanted("memory"):
        console.print(memory())
    if wanted("features"):
        title = "features of a pool by a frozen backbone"
        console.print(against_goals(title, feature_rates()))
    if wanted("evaluation"):
        title = f"{EVALUATIONS} evaluations of two small networks on {IMAGES:,} images of 256 px"
        print_as_found(console, title, evaluation_times())
    if wanted("trials"):
        console.print(against_goals("trials that cost nothing: lower is better", trial_costs()))
    if wanted("scale"):
        console.print(against_goals(f"what {GPUS:,} GPUs ask of the driver", scale()))
    if wanted("results"):
        title = "tables and report of 30 cells, 4,413 test images, 30 classes: processor seconds"
        console.print(against_goals(title, results_speed()))
    if wanted("bucket"):
        milliseconds = f"{1000 * DELAY_SECONDS:g}"
        title = f"looking at such a grid in a bucket {milliseconds} ms away"
        console.print(against_goals(title, looking_from_afar()))
    if options.only == "stopping":  # half an hour: only when asked for
        with tempfile.TemporaryDirectory(prefix="semigrid-bench-") as temporary:
            folder = Path(options.folder or temporary)
            console.print(against_goals("early stopping on digits", early_stopping(folder)))
    if options.only == "coverage":  # some minutes
        title = f"95 % intervals and tests at 5 %, {EXPERIMENTS:,} made-up test sets each"
        print_as_found(console, title, coverage())
    if options.only == "chosen":  # some minutes
        title = f"what is said of equally good cells, {EQUAL_GRIDS:,} grids each"
        print_as_found(console, title, chosen())
    if options.only == "worth":  # some minutes
        title = f"what is said of made-up pools, {GRIDS:,} grids each"
        print_as_found(console, title, worth())


if __name__ == "__main__":
    main()
