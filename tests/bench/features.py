"""Features of a pool by Ray Data beside a plain loop over a ``DataLoader``: rate and memory."""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.bench.stream import PROCESSES, pool_of, running_ray, used_memory
from torch.utils.data import DataLoader, Dataset

from semigrid.data.catalog import open_dataset
from semigrid.data.schema import ImageTable
from semigrid.data.views.augment import ViewSettings, normalize, timm_transform
from semigrid.data.views.render import decode
from semigrid.trainers.features.backbone import FrozenBackbone
from semigrid.trainers.features.extract import fill
from semigrid.trainers.features.store import FeatureStore
from semigrid.trainers.models.create import create_model
from semigrid.trainers.models.weights import file_weights
from semigrid.trainers.recipe import Recipe

BACKBONE, SIZE, BATCH = "resnet18", 64, 64
FEW, MANY = 20_000, 100_000
GOAL = "at least 0.95"


class EvalViews(Dataset[Any]):
    """What a plain torch program would write: timm's evaluation view of one image."""

    def __init__(self, table: ImageTable, settings: ViewSettings):
        self.table, self.transform = table, timm_transform(settings, "eval")

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> Any:
        return torch.as_tensor(self.transform(decode(self.table.images[row], "")))


def backbone_at(folder: str) -> FrozenBackbone:
    """The network with the weights in a folder, which are made if they are not there."""
    file = Path(folder) / "weights.safetensors"
    if not file.exists():
        recipe = Recipe(global_pool=None)
        save_file(create_model(BACKBONE, 2, recipe, {}, False, 0).state_dict(), file)
    return FrozenBackbone.of(BACKBONE, file_weights(str(file), None, BACKBONE), True, SIZE)


def feature_rates(few: int = FEW, many: int = MANY) -> Iterator[tuple[str, str, str]]:
    """What, found and goal: images/s as a ratio, and the peak of memory at two sizes."""
    with tempfile.TemporaryDirectory(prefix="semigrid-bench-") as folder:
        backbone = backbone_at(folder)
        with pool_of(few, SIZE) as dataset:
            plain = _plain_rate(dataset.read("pool"), backbone)
            small = _by_ray(dataset.storage.uri, folder)
        with pool_of(many, SIZE) as dataset:
            large = _by_ray(dataset.storage.uri, folder)
    what = f"{BACKBONE}, {SIZE} px, {PROCESSES} processes"
    yield f"images/s of a DataLoader loop, {few:,} images, {what}", f"{plain:,.0f}", ""
    yield f"the same by Ray Data, {few:,} images", _ratio(small[0], plain), GOAL
    yield f"the same by Ray Data, {many:,} images", _ratio(large[0], plain), GOAL
    yield f"peak memory, {few:,} images, MiB", f"{small[1]:,.0f}", ""
    yield f"peak memory, {many:,} images, MiB", _ratio(large[1], small[1]), "bounded"


def _ratio(found: float, beside: float) -> str:
    return f"{found:,.0f}, ratio {found / beside:.2f}"


def _plain_rate(table: ImageTable, backbone: FrozenBackbone) -> float:
    """Images/s of the network in this process, the views made by loader processes."""
    torch.set_num_threads(PROCESSES)
    network: Any = backbone.network
    batches = DataLoader(EvalViews(table, backbone.views), BATCH, num_workers=PROCESSES)
    started = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            images = normalize(batch, backbone.views)
            network.forward_head(network.forward_features(images), pre_logits=True).half()
    return len(table) / (time.perf_counter() - started)


def _by_ray(uri: str, folder: str) -> tuple[float, float]:
    """Images/s and peak memory in MiB of a process of its own, Ray's start not counted."""
    command = [sys.executable, "-m", "tests.bench.features", uri, folder]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate, peak = map(float, told.split())
    return rate, peak


def _extract(uri: str, folder: str) -> None:
    before = peak = used_memory()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.2):
            peak = max(peak, used_memory())

    threading.Thread(target=watch, daemon=True).start()
    from semigrid.trainers.cluster.ray_tasks import Workers, work_in_order

    backbone = backbone_at(folder)
    with running_ray(), tempfile.TemporaryDirectory() as kept:
        store = FeatureStore(kept, backbone, open_dataset(uri))
        workers = Workers(PROCESSES, 1, 0)
        started = time.perf_counter()
        images = fill(
            store,
            ["pool"],
            lambda parts: work_in_order(
                [part.images for part in parts], backbone.views, backbone.features, workers
            ),
        )
        seconds = time.perf_counter() - started
    done.set()
    print(images / seconds, peak - before)


if __name__ == "__main__":
    _extract(*sys.argv[1:])
