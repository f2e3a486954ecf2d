"""The pool's stream beside a torch ``DataLoader``: images/s, time to the first batch, memory."""

import io
import logging
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from semigrid.data.batches import MemoryBatches, load
from semigrid.data.builder.write import StoredImage, write_dataset
from semigrid.data.catalog import open_dataset
from semigrid.data.order import Share, StreamOrder
from semigrid.data.schema import Dataset as ImageDataset
from semigrid.data.schema import ImageTable, Split
from semigrid.data.views.augment import ViewName, ViewSettings, timm_transform
from semigrid.data.views.render import decode

VIEWS: tuple[ViewName, ...] = ("weak", "strong")
BATCH, PROCESSES = 128, 2
# Batches that are let go by, so that all processes work at their pace, and that are timed: so many
# that what lay ready when the clock started is little beside them.
WARM_UP, TIMED, ROUNDS = 24, 168, 2
# Yields the batches of the steps from one to another.
Way = Callable[[int, int], Iterator[Any]]
DIFFERENT = 512  # JPEGs; the images are these again and again


def photographs(count: int, size: int) -> list[bytes]:
    """Generated colour images with edges and grain: JPEGs as large as photographs' are."""
    found = []
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)).astype(float)
        grainy = np.clip(smooth + rng.normal(0, 5, smooth.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(grainy).save(buffer, "jpeg", quality=85)
        found.append(buffer.getvalue())
    return found


def photographs_at(
    folder: str, counts: dict[Split, int], size: int, different: int = DIFFERENT, classes: int = 1
) -> ImageDataset:
    """A dataset of generated photographs with so many images of each split."""
    encoded = photographs(different, size)
    rows = []
    for split, count in counts.items():
        for n in range(count):
            label = None if split == "pool" else n % classes
            name = f"{split}-{n:07d}"
            rows.append(StoredImage(name, encoded[n % different], label, split, name))
    names = [f"class {n}" for n in range(classes)]
    return write_dataset(folder, rows, name="bench", classes=names, license="", source="")


@contextmanager
def pool_of(images: int, size: int) -> Iterator[ImageDataset]:
    """A dataset with so many pool images, deleted afterwards."""
    folder = tempfile.mkdtemp(prefix="semigrid-bench-")
    try:
        yield photographs_at(folder, {"pool": images, "train": 1, "val": 1, "test": 1}, size)
    finally:
        shutil.rmtree(folder)


class TwoViews(Dataset[Any]):
    """What a plain torch training would write: timm's weak and strong view of one image."""

    def __init__(self, table: ImageTable, settings: ViewSettings):
        self.table = table
        self.weak, self.strong = (timm_transform(settings, view) for view in VIEWS)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> Any:
        image = decode(self.table.images[row], self.table.ids[row])
        return self.weak(image), self.strong(image)


class DecodeOnly(TwoViews):
    """No views at all: nothing that decodes by Pillow can be faster."""

    def __getitem__(self, row: int) -> Any:
        return decode(self.table.images[row], self.table.ids[row]).size[0]


class Streams:
    """The same images in the same order by every way; each yields batches until ``steps``."""

    def __init__(self, dataset: ImageDataset, settings: ViewSettings):
        from semigrid.data.stream import RayBatches

        units = dataset.row_groups("pool")
        self.order = StreamOrder([unit.rows for unit in units], 0)
        self.table, self.settings = dataset.read("pool"), settings
        share = Share(BATCH)
        make = (self.order, share, settings, VIEWS, 0)
        self.memory = MemoryBatches(self.table, *make)
        self.by_ray = RayBatches(dataset.storage, units, *make)

    def stream(self, start: int, stop: int) -> Iterator[Any]:
        return self.by_ray(start, stop)

    def in_memory(self, start: int, stop: int) -> Iterator[Any]:
        return load({"pool": self.memory}, range(start, stop), PROCESSES)

    def timm(self, start: int, stop: int) -> Iterator[Any]:
        return self._loader(TwoViews(self.table, self.settings), start, stop)

    def decoding(self, start: int, stop: int) -> Iterator[Any]:
        return self._loader(DecodeOnly(self.table, self.settings), start, stop)

    def _loader(self, images: TwoViews, start: int, stop: int) -> Iterator[Any]:
        rows = [row for _, row in self.order.rows(start * BATCH, stop * BATCH)]
        return iter(DataLoader(images, BATCH, sampler=rows, num_workers=PROCESSES))


def images_per_second(way: Way, start: int, stop: int) -> tuple[float, float]:
    """Steady images/s, and the seconds to the first batch."""
    started = time.perf_counter()
    batches = way(start, stop)
    next(batches)
    first = time.perf_counter() - started
    for _ in range(WARM_UP - 1):
        next(batches)
    started = time.perf_counter()
    count = sum(1 for _ in batches)
    return count * BATCH / (time.perf_counter() - started), first


def in_turns(
    ways: dict[str, Way],
) -> dict[str, tuple[list[float], list[float]]]:
    """Images/s and seconds to the first batch of each way, in rounds over fresh images.

    The ways take turns, so that all see the same machine.
    """
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
    steps = WARM_UP + TIMED
    for turn in range(ROUNDS):
        for name, way in ways.items():
            rate, first = images_per_second(way, turn * steps, (turn + 1) * steps)
            found[name][0].append(rate)
            found[name][1].append(first)
    return found


def of_a_process(streams: Streams, steps: int = 4) -> tuple[float, float]:
    """Images for each second of processor time, semigrid's and timm's: at best, in turns."""
    by_timm = TwoViews(streams.table, streams.settings)
    found: tuple[list[float], list[float]] = ([], [])
    for step in range(steps):
        started = time.process_time()
        streams.memory[step]
        found[0].append(time.process_time() - started)
        for _, row in streams.order.rows(step * BATCH, (step + 1) * BATCH):
            by_timm[row]
        found[1].append(time.process_time() - started - found[0][-1])
    ours, theirs = (BATCH / min(times) for times in found)
    return ours, theirs


def stream_rates(images: int = 50_000, size: int = 256) -> Iterator[tuple[str, str, float, float]]:
    """What, the alternative's name, ours and its rate: medians over the rounds."""
    with pool_of(images, size) as dataset, running_ray():
        streams = Streams(dataset, ViewSettings(img_size=size * 7 // 8))
        cold = images_per_second(streams.stream, 0, WARM_UP + 8)[1]  # starts Ray's workers
        ways: dict[str, Way] = {"stream": streams.stream, "timm": streams.timm}
        ways |= {"memory": streams.in_memory, "decode": streams.decoding}
        found = in_turns(ways)
        process = of_a_process(streams)
    rates = {name: statistics.median(of) for name, (of, _) in found.items()}
    firsts = {name: statistics.median(of) for name, (_, of) in found.items()}
    what = f"{images:,} images of {size} px, weak + strong, {PROCESSES} processes, images/s"
    timm, loader = "torch DataLoader, timm's transforms", "torch DataLoader, the same transforms"
    yield f"Ray stream, {what}", timm, rates["stream"], rates["timm"]
    yield "the same", loader, rates["stream"], rates["memory"]
    yield "the same", "decoding alone", rates["stream"], rates["decode"]
    yield "from memory, the same images", timm, rates["memory"], rates["timm"]
    yield "the same, images for a second of processor time", "timm's transforms", *process
    yield "Ray stream, 1/seconds to first batch", timm, 1 / firsts["stream"], 1 / firsts["timm"]
    yield "Ray stream, the same, Ray's workers not started", timm, 1 / cold, 1 / firsts["timm"]


@contextmanager
def running_ray(cpus: int = PROCESSES) -> Iterator[None]:
    import ray
    import ray.data

    ray.init(num_cpus=cpus, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current()  # sets up the loggers
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def memory_at(images: int, size: int = 256) -> float:
    """Peak of the machine's memory, in MiB above what it was, while a pool streams by once."""
    with pool_of(images, size) as dataset:
        command = [sys.executable, "-m", "tests.bench.stream", dataset.storage.uri]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _stream_by(uri: str) -> None:
    before = used_memory()
    peak, done = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.2):
            peak = max(peak, used_memory())

    threading.Thread(target=watch, daemon=True).start()
    from semigrid.data.stream import RayBatches

    dataset = open_dataset(uri)
    units = dataset.row_groups("pool")
    order = StreamOrder([unit.rows for unit in units], 0)
    settings = ViewSettings()
    with running_ray():
        stream = RayBatches(dataset.storage, units, order, Share(BATCH), settings, VIEWS, 0)
        for _ in stream(0, order.total // BATCH):
            pass
    done.set()
    print(peak - before)


def used_memory() -> float:
    """Memory that is not to be had, in MiB: all processes, and Ray's object store."""
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(facts[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return (total - available) / 1024


if __name__ == "__main__":
    _stream_by(sys.argv[1])
