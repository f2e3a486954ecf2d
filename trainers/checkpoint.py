"""Exact checkpoints, and the weights that a finished training leaves."""

import io
import json
import random
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from data.storage import Storage


class Checkpoints:
    """The latest checkpoint of one training and the best weights that it names.

    The checkpoint is one file replaced atomically. Best weights are files of their own, named by
    step, so that a kill between the two writes never pairs a checkpoint with later weights.
    """

    FILE = "latest.pt"
    MICRO_BATCH = "micro_batch"

    def __init__(self, storage: Storage):
        self.storage = storage

    def save(self, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.storage.write(self.FILE, buffer.getvalue())
        for name in self.storage.names("", ".safetensors"):
            if name != self.weights_name(state["best_step"]):
                self.storage.delete(name)

    def load(self) -> dict[str, Any] | None:
        """The latest state, tensors on the CPU; None if there is none."""
        if not self.storage.exists(self.FILE):
            return None
        state: dict[str, Any] = torch.load(
            io.BytesIO(self.storage.read(self.FILE)), map_location="cpu", weights_only=True
        )
        return state

    def save_weights(self, step: int, content: bytes) -> None:
        self.storage.write(self.weights_name(step), content)

    def load_weights(self, step: int) -> bytes:
        return self.storage.read(self.weights_name(step))

    @staticmethod
    def weights_name(step: int) -> str:
        return f"best-{step}.safetensors"

    def save_micro_batch(self, rows: int) -> None:
        """Notes that no more rows than this fit the device's memory at once."""
        self.storage.write(self.MICRO_BATCH, str(rows).encode())

    def load_micro_batch(self) -> int | None:
        if not self.storage.exists(self.MICRO_BATCH):
            return None
        return int(self.storage.read(self.MICRO_BATCH))

    def delete(self) -> None:
        """Removes everything, the checkpoint first: it must not outlive the weights it names."""
        self.storage.delete(self.FILE)
        self.storage.delete("")


def random_states() -> dict[str, Any]:
    """The states of all random generators of this process."""
    numpy_state: Any = np.random.get_state(legacy=True)
    return {
        "python": json.dumps(random.getstate()),
        "numpy": [
            numpy_state[0],
            torch.from_numpy(numpy_state[1].astype(np.int64)),
            *numpy_state[2:],
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Puts back what ``random_states`` returned."""
    version, internal, gauss = json.loads(states["python"])
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])


def encode_weights(student: dict[str, torch.Tensor], ema: dict[str, torch.Tensor]) -> bytes:
    """Both weights of a training as one safetensors file, names prefixed ``student.``, ``ema.``."""
    named = {f"student.{k}": v for k, v in student.items()}
    named |= {f"ema.{k}": v for k, v in ema.items()}
    content: bytes = save_safetensors({k: v.detach().cpu().contiguous() for k, v in named.items()})
    return content


def decode_weights(content: bytes) -> dict[str, dict[str, torch.Tensor]]:
    """``{"student": state, "ema": state}`` of a file that ``encode_weights`` made."""
    weights: dict[str, dict[str, torch.Tensor]] = {"student": {}, "ema": {}}
    for name, tensor in load_safetensors(content).items():
        kind, _, rest = name.partition(".")
        weights[kind][rest] = tensor
    return weights
