"""A frozen pretrained backbone: from evaluation views to one vector an image."""

import threading
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import timm
import torch
from timm.data import resolve_data_config
from torch import nn

from semigrid.data.errors import InputError
from semigrid.data.ranges import Block
from semigrid.data.views.augment import ViewSettings, normalize
from semigrid.trainers.models.create import create_model
from semigrid.trainers.models.head import pooled
from semigrid.trainers.models.pretrained import first_line, from_file, from_hub
from semigrid.trainers.models.weights import Weights, hub_weights
from semigrid.trainers.recipe import Recipe
from semigrid.trainers.trial.data import EVALUATION_BATCH, view_settings

# Raise it when the same backbone gives other features than before.
FEATURES_VERSION = 2
# What to do where a network cannot be reached.
_FROM_FILE = (
    "Give a local file instead, --pretrained model.safetensors (or .pth), or copy the hub's cache "
    "(HF_HOME) from a machine that has them"
)


class _Float32:
    """Within it, a GPU multiplies all bits of float32 numbers, in every thread of the process.

    By default its convolutions take 10 (TF32), which features in half precision would show.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, [""]

    @property
    def _settings(self) -> list[Any]:
        cudnn: Any = torch.backends.cudnn
        return [cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul]

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = [each.fp32_precision for each in self._settings]
                for each in self._settings:
                    each.fp32_precision = "ieee"
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:  # the last thread
                for each, before in zip(self._settings, self._before, strict=True):
                    each.fp32_precision = before


_float32 = _Float32()


@dataclass(frozen=True)
class FrozenBackbone:
    """timm's pooled features before the head, of the evaluation view at ``recipe.img_size``.

    Processes get it without its network, which each loads when it first works.

    Attributes:
        recipe: of it, only the size of the images and the pooling count.
        uri: the file of the weights; None for those of the backbone's tag, from the hub.
        sha256: of the weights, or which random ones they are; None where the hub's are not known.
    """

    backbone: str
    recipe: Recipe
    uri: str | None
    sha256: str | None
    backbone_args: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    @staticmethod
    def of(
        backbone: str, weights: Weights, is_file: bool, img_size: int, device: str = "cpu"
    ) -> "FrozenBackbone":
        """With timm's own pooling."""
        recipe = Recipe(img_size=img_size, global_pool=None)
        uri = weights.source if is_file else None
        return FrozenBackbone(backbone, recipe, uri, weights.sha256, device=device)

    def using(self, network: nn.Module) -> "FrozenBackbone":
        """The same with its network at hand, in eval mode on ``device``, whatever its head is."""
        own = replace(self)
        vars(own)["network"] = network
        return own

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that changes the features of an image.

        All devices compute in float32: what they and builds of torch do in another order is far
        smaller than what half precision rounds.
        """
        views = self.views
        return {
            "version": FEATURES_VERSION,
            "backbone": self.backbone,
            "backbone_args": self.backbone_args,
            "weights": self.sha256 or "timm",
            "global_pool": self.recipe.global_pool,
            "img_size": views.img_size,
            "interpolation": views.interpolation,
            "mean": views.mean,
            "std": views.std,
        }

    @cached_property
    def views(self) -> ViewSettings:
        config = timm.get_pretrained_cfg(self.backbone).to_dict()
        statistics = resolve_data_config(pretrained_cfg=config)
        return view_settings(self.recipe, (statistics["mean"], statistics["std"]))

    @cached_property
    def network(self) -> nn.Module:
        """The backbone in eval mode. Raises ``InputError`` where its weights cannot be loaded."""
        # one class, whose head is not used: a model without one keeps no hidden layer of its head
        how = (self.backbone, 1, self.recipe, self.backbone_args)
        if self.uri is None:
            with from_hub(self.backbone, _FROM_FILE):
                network = create_model(*how, True, 0)
            loaded = hub_weights(self.backbone)
            if self.sha256 not in (None, loaded.sha256):
                raise InputError(
                    f"{loaded.describe()}: these are not the weights with sha256 "
                    f"{str(self.sha256)[:12]} that this began with; run it again"
                )
        else:
            with from_file(self.uri, str(self.sha256), self.backbone) as overlay:
                network = create_model(*how, overlay, 0)
        return network.to(self.device).eval()

    def check(self) -> None:
        """Shows the network a black image. Raises ``InputError`` where it does not take it."""
        size = self.recipe.img_size
        try:
            views = Block(["a black image"], [None], np.zeros((1, 3, size, size), np.uint8))
            self.check_finite(self.features(views))
        except InputError:
            raise
        except Exception as error:  # each of timm's models has its own errors
            raise InputError(
                f"{self.backbone} does not take images of {size} pixels: {first_line(error)}"
            ) from error

    def check_finite(self, features: Block) -> None:
        """Raises ``InputError`` where features of an image without an error are no numbers."""
        for name, error, row in zip(features.ids, features.errors, features.rows, strict=True):
            if error is None and not np.isfinite(row).all():
                raise InputError(
                    f"{name}: {self.backbone} makes features of it that half precision does not "
                    "hold; its weights are damaged, or of no use as they are: give others"
                )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "network"}

    def features(self, views: Block) -> Block:
        """Vectors (N, D) in float16, in the batches of an evaluation, one thread for each."""
        torch.set_num_threads(1)  # sums are the same on any number of cores
        made = []
        with torch.inference_mode(), _float32:
            for batch in torch.split(torch.from_numpy(views.rows), EVALUATION_BATCH):
                images = normalize(batch.to(self.device), self.views)
                made.append(pooled(self.network, images).half().cpu().numpy())
        return Block(views.ids, views.errors, np.concatenate(made))
