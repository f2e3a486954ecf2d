"""What features change by where the network computes otherwise: other kernels, TF32, bfloat16.

TF32, in which a GPU's convolutions compute by default, is emulated: it rounds what is multiplied to
10 bits. Each way is held to float64, and to the float16 in which features are kept.
"""

import argparse
import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from semigrid.data.catalog import open_dataset
from semigrid.data.ranges import SplitRange, make_views
from semigrid.data.schema import Dataset
from semigrid.data.views.augment import normalize
from semigrid.trainers.features.backbone import FrozenBackbone
from semigrid.trainers.models.weights import file_weights
from semigrid.trainers.probe.fit import fit_probe

BATCH = 64
_MULTIPLYING = (nn.Conv2d, nn.Linear)


def to_tf32(values: torch.Tensor) -> torch.Tensor:
    """Float32 numbers rounded to 10 bits after the leading one, to the nearest."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


class _Rounded(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return to_tf32(weight)


@contextlib.contextmanager
def emulated_tf32(network: nn.Module) -> Iterator[None]:
    """Layers that multiply round their weights and what enters them."""
    layers = [module for module in network.modules() if isinstance(module, _MULTIPLYING)]
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: tuple(map(to_tf32, inputs)))
        for layer in layers
    ]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _Rounded())
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def features(network: Any, images: torch.Tensor) -> np.ndarray:
    """As ``FrozenBackbone.features`` makes them, before they are rounded to half precision."""
    with torch.inference_mode():
        made = [
            network.forward_head(network.forward_features(batch), pre_logits=True).flatten(1)
            for batch in torch.split(images, BATCH)
        ]
    return torch.cat(made).double().numpy()


def ways(backbone: FrozenBackbone, images: torch.Tensor) -> dict[str, np.ndarray]:
    torch.set_num_threads(1)
    network = backbone.network
    made = {"float32": features(network, images)}
    with torch.backends.mkldnn.flags(enabled=False):
        made["float32, other kernels"] = features(network, images)
    with emulated_tf32(network):
        made["TF32"] = features(network, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made["bfloat16"] = features(network, images)
    made["float64"] = features(network.double(), images.double())
    return made


def main(uri: str, backbone: str, weights_uri: str, size: int, most: int) -> None:
    dataset = open_dataset(uri)
    file = file_weights(weights_uri, None, backbone)
    model = FrozenBackbone.of(backbone, file, True, size)
    labels = {split: _labels(dataset, split)[:most] for split in ("train", "val")}
    images = torch.cat([_images(dataset, split, model, most) for split in labels])
    made = ways(model, images)
    exact, learnt = made["float64"], len(labels["train"])
    kept = exact.astype(np.float16)
    print(f"{len(images)} images of {dataset.manifest.name}, {backbone}, {size} px")
    print(f"{'':26} relative error   float16 numbers   of val, predicted   right")
    print(f"{'':26} (median image)   that differ       otherwise           %")
    # learnt from features made one way, asked about those made another: the worst mixture
    classes = dataset.num_classes
    groups, weights = np.arange(learnt), np.ones(classes)
    probe = fit_probe(kept[:learnt], labels["train"], groups, classes, weights)
    usual = None
    for name, each in [("float16 of float64", kept.astype(float)), *made.items()]:
        error = np.linalg.norm(each - exact, axis=1) / np.linalg.norm(exact, axis=1)
        half = each.astype(np.float16)
        guesses = probe.logits(half[learnt:]).argmax(axis=1)
        usual = guesses if usual is None else usual
        right = 100 * np.mean(guesses == labels["val"])
        differ = 100 * np.mean(half != kept)
        print(
            f"{name:26} {np.median(error):<16.1e} {differ:<17.2f}"
            f" {(guesses != usual).sum():<19} {right:.2f}"
        )


def _labels(dataset: Dataset, split: str) -> np.ndarray:
    return np.asarray(dataset.column(split, "label"), dtype=np.int64)


def _images(dataset: Dataset, split: str, model: FrozenBackbone, most: int) -> torch.Tensor:
    rows = dataset.rows_in(split)
    whole = SplitRange(dataset.storage, dataset.row_groups(split), 0, rows)
    views = make_views(whole.cut(0, min(most, rows)).read(), model.views)
    return normalize(torch.from_numpy(views.rows), model.views)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.arithmetic")
    for name in ("dataset", "backbone", "weights"):
        parser.add_argument(name)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--images", type=int, default=1000, help="most of train, and of val")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # torch's, of other kernels
    main(given.dataset, given.backbone, given.weights, given.img_size, given.images)
