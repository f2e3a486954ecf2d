"""Exact checkpoints, and the weights that a finished training leaves."""

import contextlib
import hashlib
import io
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from semigrid.data.storage import Storage
from semigrid.trainers.execution.background import Background
from semigrid.trainers.execution.host_copy import HostCopy
from semigrid.trainers.layout import LATEST_CHECKPOINT, PREVIOUS_CHECKPOINT

MICRO_BATCH = "micro_batch"

# The states of student and teacher: ``{"student": ..., "ema": ...}``.
NetworkStates = dict[str, dict[str, torch.Tensor]]


class Checkpoints:
    """The latest checkpoint of one training and the best weights that it names.

    They are encoded and written in the background, the weights first. A step waits only while its
    state is copied, or while the previous checkpoint is still being written. So the state is in
    memory twice, and once more as the file while that is written.

    A checkpoint is one file, replaced atomically, that ends with its SHA-256. Best weights are
    files of their own, named by their SHA-256, so that a kill between the two writes never pairs a
    checkpoint with later weights. The previous checkpoint is kept. A damaged file is not used;
    ``damaged`` describes each.
    """

    def __init__(self, storage: Storage):
        self.storage = storage
        self.damaged: list[str] = []
        self.background = Background()
        self._copy = HostCopy()
        self._best = ""  # name of the best weights so far, if any
        self._latest: str | None = None  # those of the latest checkpoint, if it is whole

    def save(self, state: dict[str, Any], is_best: bool = False) -> None:
        """Copies the state and writes it.

        Raises what went wrong with the previous checkpoint.

        Args:
            is_best: whether the networks in the state, ``student`` and ``ema``, are the best
                weights from now on.
        """
        self.background.wait()  # it holds the copy, however slow the storage is
        self._copy.take(state)
        self.background.do(lambda: self._write(is_best))

    def _write(self, is_best: bool) -> None:
        state = self._copy.state()
        if is_best:
            best = encode_weights({"student": state["student"], "ema": state["ema"]})
            self._best = _weights_name(best)
            self.storage.write(self._best, best)
            del best  # before the next large file is made
        kept = {self._best, self._latest}
        if self._latest is not None:
            self.storage.keep(LATEST_CHECKPOINT, PREVIOUS_CHECKPOINT)
        content = io.BytesIO()
        torch.save(state | {"best": self._best}, content)
        content.write(hashlib.sha256(content.getbuffer()).digest())  # torch reads it as before
        self.storage.write(LATEST_CHECKPOINT, content.getvalue())
        self._latest = self._best
        for name in self.storage.names("", ".safetensors"):
            if name not in kept:
                self.storage.delete(name)

    def load(self) -> dict[str, Any] | None:
        """The latest whole state, tensors on the CPU; None if there is none."""
        self.background.wait()
        for name in (LATEST_CHECKPOINT, PREVIOUS_CHECKPOINT):
            try:
                state = self._read(name)
            except FileNotFoundError:
                continue
            except ValueError as damage:
                self.damaged.append(f"{self.storage.location(name)}: {damage}")
                continue
            self._best = state["best"]
            if name == LATEST_CHECKPOINT:
                self._latest = self._best
            return state
        return None

    def _read(self, name: str) -> dict[str, Any]:
        """A checkpoint's state. Raises ``ValueError`` if it or its best weights are of no use."""
        sealed = self.storage.read(name)
        content, digest = sealed[:-32], sealed[-32:]
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("damaged, it is not what was written")
        state: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
        if "best" not in state:
            raise ValueError("written by another version of semigrid")
        if best := state["best"]:
            try:
                whole = _weights_name(self.storage.read(best)) == best
            except FileNotFoundError:
                whole = False
            if not whole:
                raise ValueError(f"{best}, which it names, is missing or damaged")
        return state

    def best_weights(self) -> bytes:
        self.background.wait()
        return self.storage.read(self._best)

    def save_micro_batch(self, rows: int) -> None:
        """Records that no more than this many images fit the device's memory at once."""
        self.storage.write(MICRO_BATCH, str(rows).encode())

    def load_micro_batch(self) -> int | None:
        try:
            return max(1, int(self.storage.read(MICRO_BATCH)))
        except (FileNotFoundError, ValueError):  # it will be found out anew
            return None

    def delete(self) -> None:
        """Removes everything, checkpoints first: they must not outlive the weights they name."""
        with contextlib.suppress(OSError):
            self.background.wait()  # else it would come back
        for name in (LATEST_CHECKPOINT, PREVIOUS_CHECKPOINT, ""):
            self.storage.delete(name)


def _weights_name(content: bytes) -> str:
    return f"best-{hashlib.sha256(content).hexdigest()}.safetensors"


def encode_weights(weights: NetworkStates) -> bytes:
    """Both weights of a training as one safetensors file, names prefixed ``student.``, ``ema.``."""
    content: bytes = save_safetensors(
        {
            f"{network}.{name}": tensor.detach().cpu().contiguous()
            for network, state in weights.items()
            for name, tensor in state.items()
        }
    )
    return content


def decode_weights(content: bytes) -> NetworkStates:
    """The weights in a file that ``encode_weights`` made."""
    weights: NetworkStates = {"student": {}, "ema": {}}
    for key, tensor in load_safetensors(content).items():
        network, _, name = key.partition(".")
        weights[network][name] = tensor
    return weights
