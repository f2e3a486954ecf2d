"""The two networks of a training: what is done to a model before the first step, their states."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from semigrid.trainers.execution.checkpoint import (
    NetworkStates,
    decode_weights,
    encode_weights,
)
from semigrid.trainers.loop.seeds import seeded, step_seed
from semigrid.trainers.loop.stepper import normalizes_over_batch
from semigrid.trainers.loop.teacher import Teacher
from semigrid.trainers.methods import Stepped
from semigrid.trainers.methods.method import NetworkName
from semigrid.trainers.models.adapter import adapt, learning, merged
from semigrid.trainers.models.drop_path import DropPaths
from semigrid.trainers.options import Precision
from semigrid.trainers.recipe import SteppedRecipe

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def fast_norms(model: nn.Module) -> None:
    """Lets timm's layer norms compute in the precision of what they are given.

    Autocast would turn it into float32 and back, which takes longer than the norm.
    """
    modules: list[Any] = list(model.modules())
    for module in modules:
        if hasattr(module, "_fast_norm"):
            module._fast_norm = True


class Networks:
    """Student and teacher, prepared as the method and the recipe's adapter want them.

    Attributes:
        batch_norm: whether the student's output for an image depends on the images beside it.
        answers: the network that answers the method's teacher; None where nothing asks it.

    Args:
        model: the student, with the weights that it starts from; it changes.
        teacher_state: the weights that the teacher starts from; None for the student's.
    """

    def __init__(
        self,
        method: Stepped[Any],
        recipe: SteppedRecipe,
        model: nn.Module,
        teacher_state: dict[str, torch.Tensor] | None,
        *,
        seed: int,
        precision: Precision,
        device: torch.device,
    ):
        assert recipe.ema_decay is not None, "the recipe is not resolved"
        self._adapted, self._device = recipe.adapter is not None, device
        self._autocast_dtype = PRECISIONS[precision]
        # convolutional networks run 1.1 to 1.3 times as fast then, on a CPU
        self.channels_last = normalizes_over_batch(model.train())
        # what it puts in eval mode stays so: no train() of the whole model from here on
        with seeded(step_seed(seed, 0, "prepare"), device):
            method.prepare(model, recipe)
        self.student = model.to(device)
        if device.type == "cuda" and self._autocast_dtype is not None:
            fast_norms(self.student)
        if recipe.adapter is not None:
            adapt(self.student, recipe.adapter, seed)
        self.drop_paths = DropPaths(self.student)
        self.batch_norm = normalizes_over_batch(self.student)
        if self.channels_last:
            self.student = self.student.to(memory_format=torch.channels_last)
        self.teacher = Teacher(
            self.student,
            recipe.ema_decay,
            teacher_state,
            self.autocast,
            shares_frozen=self._adapted,  # what a method freezes is saved twice
        )
        self.answers = None if method.teacher is None else method.teacher(recipe)

    def teach(self, weak: torch.Tensor, at_most: int | None) -> torch.Tensor:
        """Logits (N, K) of weak views, as ``Teacher.logits``."""
        own = self.student if self.answers == "student" else None
        return self.teacher.logits(weak, at_most, own)

    def autocast(self) -> AbstractContextManager[None]:
        """The context of a forward in the training's precision."""
        on = self._autocast_dtype is not None
        return torch.autocast(self._device.type, dtype=self._autocast_dtype, enabled=on)

    def compile(self) -> None:
        # masks change the number of rows from step to step: one graph must serve them all
        self.student.compile(dynamic=True)
        self.teacher.network.compile(dynamic=True)

    @property
    def by_name(self) -> dict[NetworkName, nn.Module]:
        return {"student": self.student, "ema": self.teacher.network}

    def states(self) -> NetworkStates:
        """What of the networks' states changes in the training: of adapted ones, little."""
        states = {str(name): network.state_dict() for name, network in self.by_name.items()}
        if not self._adapted:
            return states
        names = learning(self.student)
        return {network: {n: state[n] for n in names} for network, state in states.items()}

    def load(self, states: NetworkStates) -> None:
        """Goes on from what ``states`` returned; other entries are ignored.

        Raises ``RuntimeError`` if it lacks a tensor.
        """
        learn = set(learning(self.student))
        for name, network in self.by_name.items():
            own = network.state_dict() if self._adapted else {}
            frozen = {n: each for n, each in own.items() if n not in learn}
            network.load_state_dict(frozen | states[name])

    def plain(self, best: bytes) -> bytes:
        """A file of plain timm models of a file of ``states``, after the last step.

        An adapter is merged into the weights that it was trained on. The networks change.
        """
        if not self._adapted:
            return best
        self.load(decode_weights(best))
        return encode_weights({name: merged(each) for name, each in self.by_name.items()})
