"""The teacher: an exponential moving average of the student's weights."""

import copy
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from semigrid.trainers.evaluation.evaluate import eval_mode
from semigrid.trainers.loop.stepper import OutOfMemoryError


class Teacher:
    """The teacher network, its updates and its answers.

    Every training has one, whether its method asks it for pseudo labels or not: val decides
    between its weights and the student's.

    Args:
        decay: d of teacher ← d·teacher + (1 − d)·student, over parameters; buffers are copied.
        state: the weights that it starts from; None for the student's.
        shares_frozen: whether the two networks share the parameters that do not learn. They need
            memory once, and start from one state.
    """

    def __init__(
        self,
        student: nn.Module,
        decay: float,
        state: dict[str, torch.Tensor] | None,
        autocast: Callable[[], AbstractContextManager[None]],
        shares_frozen: bool = False,
    ):
        self._average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        frozen = (each for each in student.parameters() if not each.requires_grad)
        shared = {id(each): each for each in frozen if shares_frozen}
        self.network: nn.Module = copy.deepcopy(student, shared).eval().requires_grad_(False)
        if state is not None:
            self.network.load_state_dict(state)
        self._rows, self._autocast = sys.maxsize, autocast

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        pairs = zip(self.network.parameters(), student.parameters(), strict=True)
        own, new = zip(*((t, s) for t, s in pairs if t is not s), strict=True)
        self._average(own, new, 0)
        for buffer, of_student in zip(self.network.buffers(), student.buffers(), strict=True):
            buffer.copy_(of_student)

    def logits(
        self, images: torch.Tensor, at_most: int | None, network: nn.Module | None = None
    ) -> torch.Tensor:
        """Logits (N, K) of images (N, 3, H, W), in eval mode and without gradient.

        ``network`` answers instead where it is given: the student, as its own teacher.

        At most ``at_most`` images pass at once. When memory runs out their number is halved, and
        stays so. Raises ``OutOfMemoryError`` if not even one image fits.
        """
        network = self.network if network is None else network
        # some models keep what they derive from weights until they are told to be in eval mode
        with eval_mode(network):
            return self._logits(network, images, at_most)

    def _logits(
        self, network: nn.Module, images: torch.Tensor, at_most: int | None
    ) -> torch.Tensor:
        rows = max(1, min(self._rows, at_most or self._rows, len(images)))
        while True:
            try:
                with torch.inference_mode(), self._autocast():
                    parts = torch.split(images, rows)
                    logits = [network(part) for part in parts]
                return torch.cat(logits)  # outside inference mode: an ordinary tensor again
            except torch.OutOfMemoryError:
                if rows == 1:
                    raise OutOfMemoryError(
                        "the device's memory is too small for one image; use a smaller model or "
                        "img_size, or precision: bf16"
                    ) from None
            torch.cuda.empty_cache()
            rows = self._rows = (rows + 1) // 2
