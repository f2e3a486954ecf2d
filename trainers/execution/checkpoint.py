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
from semigrid.trainers.layout import LATEST_CHECKPOINT, PREVIOUS_CHECKPOINT


class Checkpoints:
    """The latest checkpoint of one training and the best weights that it names.

    They are written in the background, in the order given. A step waits only while its state is
    copied, or while the previous checkpoint is still being written.

    A checkpoint is one file, replaced atomically. Best weights are files of their own, named by
    step, so that a kill between the two writes never pairs a checkpoint with later weights. The
    previous checkpoint is kept. A damaged file is not used; ``damaged`` describes each.
    """

    FILE, PREVIOUS = LATEST_CHECKPOINT, PREVIOUS_CHECKPOINT
    MICRO_BATCH = "micro_batch"

    def __init__(self, storage: Storage):
        self.storage = storage
        self.damaged: list[str] = []
        self._latest_best: int | None = None  # best step of the latest checkpoint, if it is whole
        self._hashes: dict[int, str] = {}  # of the best weights, by step
        self.background = Background()
        self._saving = False

    def save(self, state: dict[str, Any]) -> None:
        """Copies the state and writes it; raises what went wrong with the previous checkpoint."""
        self._wait_for_the_last()
        best = state["best_step"]
        copy = io.BytesIO()
        torch.save(state | {"best_sha256": self._hashes.get(best)}, copy)
        self._saving = True
        self.background.do(lambda: self._write(copy, best))

    def _write(self, copy: io.BytesIO, best: int) -> None:
        kept = {self.weights_name(best)}
        if self._latest_best is not None:
            self.storage.keep(self.FILE, self.PREVIOUS)
            kept.add(self.weights_name(self._latest_best))
        _seal(copy)
        self.storage.write(self.FILE, copy.getvalue())
        self._latest_best = best
        for name in self.storage.names("", ".safetensors"):
            if name not in kept:
                self.storage.delete(name)

    def _wait_for_the_last(self) -> None:
        """Keeps no more than one copy in memory, however slow the storage is."""
        if self._saving:
            self.wait()

    def wait(self) -> None:
        """Returns when everything is written; raises what went wrong."""
        self._saving = False
        self.background.wait()

    def load(self) -> dict[str, Any] | None:
        """The latest whole state, tensors on the CPU; None if there is none."""
        self.wait()
        for name in (self.FILE, self.PREVIOUS):
            try:
                content = self.storage.read(name)
            except FileNotFoundError:
                continue
            state, damage = self._open(content)
            if state is None:
                self.damaged.append(f"{self.storage.location(name)}: {damage}")
                continue
            if name == self.FILE:
                self._latest_best = state["best_step"]
            return state
        return None

    def _open(self, content: bytes) -> tuple[dict[str, Any] | None, str]:
        """A checkpoint's state, or the damage to it or to the weights that it names."""
        whole = _unseal(content)
        if whole is None:
            return None, "damaged, it is not what was written"
        state: dict[str, Any] = torch.load(io.BytesIO(whole), map_location="cpu", weights_only=True)
        best, expected = state["best_step"], state["best_sha256"]
        if expected is not None:
            weights = self.weights_name(best)
            try:
                actual = hashlib.sha256(self.storage.read(weights)).hexdigest()
            except FileNotFoundError:
                return None, f"{weights}, which it names, is missing"
            if actual != expected:
                return None, f"{weights}, which it names, is damaged"
            self._hashes[best] = expected
        return state, ""

    def save_weights(self, step: int, content: bytes) -> None:
        self._wait_for_the_last()
        self._hashes[step] = hashlib.sha256(content).hexdigest()
        self.background.do(lambda: self.storage.write(self.weights_name(step), content))

    def load_weights(self, step: int) -> bytes:
        self.wait()
        return self.storage.read(self.weights_name(step))

    @staticmethod
    def weights_name(step: int) -> str:
        return f"best-{step}.safetensors"

    def save_micro_batch(self, rows: int) -> None:
        """Records that no more than this many images fit the device's memory at once."""
        self.storage.write(self.MICRO_BATCH, str(rows).encode())

    def load_micro_batch(self) -> int | None:
        try:
            return int(self.storage.read(self.MICRO_BATCH))
        except (FileNotFoundError, ValueError):  # it will be found out anew
            return None

    def delete(self) -> None:
        """Removes everything, checkpoints first: they must not outlive the weights they name."""
        with contextlib.suppress(OSError):
            self.wait()  # else it would come back
        self.storage.delete(self.FILE)
        self.storage.delete(self.PREVIOUS)
        self.storage.delete("")


def _seal(content: io.BytesIO) -> None:
    """Appends the content's SHA-256; torch reads the file as before."""
    digest = hashlib.sha256(content.getbuffer()).digest()
    content.seek(0, io.SEEK_END)
    content.write(digest)


def _unseal(sealed: bytes) -> bytes | None:
    """The content that was sealed; None if it is damaged."""
    content, digest = sealed[:-32], sealed[-32:]
    return content if hashlib.sha256(content).digest() == digest else None


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
