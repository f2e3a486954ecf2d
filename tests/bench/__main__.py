"""Speed as ratios against a named alternative, both measured in this run: ``make bench``.

Absolute numbers depend on the machine and on what else it does; compare the ratios.
"""

import argparse
import logging
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from data.augment import ViewSettings, timm_transform
from data.batches import MemoryBatches, decode
from data.build import Row, write_dataset
from data.order import Share, StreamOrder
from data.schema import Dataset as ImageDataset
from data.schema import ImageTable
from tests.bench.step import semi_steps, utilization
from trainers.mixup import draw_pseudo_mix, pseudo_mix, smooth_one_hot

SIZE, IMAGES, BATCH, STEPS = 96, 2048, 64, 48
SETTINGS = ViewSettings(img_size=64)


def photographs() -> ImageDataset:
    """Generated colour images, JPEG, in a pool of a dataset of their own."""
    import io

    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for number in range(IMAGES + 3):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(buffer, "jpeg", quality=85)
        split = "pool" if number < IMAGES else ("train", "val", "test")[number - IMAGES]
        label = None if split == "pool" else 0
        rows.append(Row(str(number), buffer.getvalue(), label, split, str(number)))
    folder = tempfile.mkdtemp(prefix="semigrid-bench-")
    return write_dataset(folder, rows, name="bench", classes=["a"], license="", source="")


class TwoViews(Dataset):  # type: ignore[type-arg]
    """What a plain torch training would write: weak and strong view of one image."""

    def __init__(self, table: ImageTable):
        self.table = table
        self.weak, self.strong = (timm_transform(SETTINGS, view) for view in ("weak", "strong"))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        image = decode(self.table.images[row], self.table.ids[row])
        return self.weak(image), self.strong(image)


def images_per_second(batches: Iterator[Any]) -> tuple[float, float]:
    """Steady images/s without the first batch, and the seconds to the first batch."""
    started = time.perf_counter()
    next(batches)
    first = time.perf_counter()
    count = sum(1 for _ in batches)
    return count * BATCH / (time.perf_counter() - first), first - started


def loader(table: ImageTable, workers: int) -> Iterator[Any]:
    order = [row for _, row in StreamOrder([len(table)], 0).rows(0, STEPS * BATCH)]
    return iter(DataLoader(TwoViews(table), BATCH, sampler=order, num_workers=workers))


def streams(dataset: ImageDataset) -> Iterator[tuple[str, str, float, float]]:
    table = dataset.read("pool")
    units = dataset.row_groups("pool")
    order = StreamOrder([unit.rows for unit in units], 0)
    share = Share(BATCH)
    memory = MemoryBatches(table, order, share, SETTINGS, ("weak", "strong"), 0)
    for workers in (0, 2):
        memory.loader_workers = workers
        ours, _ = images_per_second(memory(0, STEPS))
        theirs, _ = images_per_second(loader(table, workers))
        name = f"weak + strong views, {workers} loader processes, images/s"
        yield name, "torch DataLoader, unseeded views", ours, theirs

    import ray

    from data.stream import RayBatches

    ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR", object_store_memory=2**29)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    stream = RayBatches(dataset.storage, units, order, share, SETTINGS, ("weak", "strong"), 0)
    list(stream(0, 2))  # starts Ray's workers
    ours, first = images_per_second(stream(0, STEPS))
    theirs, their_first = images_per_second(loader(table, 2))
    ray.shutdown()
    yield "Ray stream, 2 CPUs, images/s", "torch DataLoader, 2 processes", ours, theirs
    yield "Ray stream, 1/seconds to first batch", "torch DataLoader", 1 / first, 1 / their_first


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

    yield (
        "pseudo mixup of 128 images at 224 px, batches/s",
        "a loop over the images",
        *(1 / seconds(f) for f in (whole_batch, per_image)),
    )


def seconds(function: Callable[[], Any], repeats: int = 5) -> float:
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def rates() -> Table:
    torch.set_num_threads(1)
    table = Table(title="higher is better", title_justify="left")
    for column in ("what", "semigrid", "alternative", "ratio", "the alternative is"):
        table.add_column(column, justify="right" if column in ("semigrid", "ratio") else "left")
    for what, alternative, ours, theirs in [*mixing(), *streams(photographs())]:
        table.add_row(what, f"{ours:,.1f}", f"{theirs:,.1f}", f"{ours / theirs:.2f}", alternative)
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


def gpu_use() -> Table:
    table = Table(title=f"ViT-B/16, bf16, {torch.cuda.get_device_name()}: goal 50 % of peak")
    for column in ("what", "images/s", "of peak FLOP/s"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for what, speed, share in utilization():
        table.add_row(what, f"{speed:,.0f}", f"{share:.1%}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", choices=["steps", "rates"])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    console = Console(width=140)
    if options.only != "rates":
        console.print(step_times(options.device))
        if options.device == "cuda":
            console.print(gpu_use())
    if options.only != "steps" and options.device == "cpu":
        console.print(rates())


if __name__ == "__main__":
    main()
