"""The teacher: an exponential moving average of the student's weights."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from timm.utils import ModelEmaV3
from torch import nn

from semigrid.trainers.loop.stepper import OutOfMemoryError


class Teacher:
    """The teacher network, its updates and its answers.

    Every training has one, whether its method asks it for pseudo labels or not: val decides
    between its weights and the student's.

    Args:
        decay: d of teacher ← d·teacher + (1 − d)·student, over parameters; buffers are copied.
        state: the weights that it starts from; None for the student's.
    """

    def __init__(
        self,
        student: nn.Module,
        decay: float,
        state: dict[str, torch.Tensor] | None,
        autocast: Callable[[], AbstractContextManager[None]],
    ):
        self._ema = ModelEmaV3(student, decay=decay, exclude_buffers=True)
        self.network: nn.Module = self._ema.module
        self.network.requires_grad_(False)
        if state is not None:
            self.network.load_state_dict(state)
        self._rows, self._autocast = sys.maxsize, autocast

    def update(self, student: nn.Module) -> None:
        self._ema.update(student)

    def logits(
        self, images: torch.Tensor, at_most: int | None, network: nn.Module | None = None
    ) -> torch.Tensor:
        """Logits (N, K) of images (N, 3, H, W), in eval mode and without gradient.

        ``network`` answers instead where it is given: the student, as its own teacher.

        At most ``at_most`` images pass at once. When memory runs out their number is halved, and
        stays so. Raises ``OutOfMemoryError`` if not even one image fits.
        """
        network = self.network if network is None else network
        was_training = network.training
        network.eval()  # some models keep what they derive from weights until this is called
        try:
            return self._logits(network, images, at_most)
        finally:
            network.train(was_training)

    def _logits(
        self, network: nn.Module, images: torch.Tensor, at_most: int | None
    ) -> torch.Tensor:
        self._rows = min(self._rows, at_most or len(images))
        while True:
            try:
                with torch.inference_mode(), self._autocast():
                    parts = torch.split(images, self._rows)
                    logits = [network(part) for part in parts]
                return torch.cat(logits)  # outside inference mode: an ordinary tensor again
            except torch.OutOfMemoryError:
                if self._rows == 1:
                    raise OutOfMemoryError(
                        "the device's memory is too small for one image; use a smaller model or "
                        "img_size, or precision: bf16"
                    ) from None
            torch.cuda.empty_cache()
            self._rows = (min(self._rows, len(images)) + 1) // 2
