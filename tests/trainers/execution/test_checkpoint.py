"""Checkpoints that cannot be used."""

import hashlib
import io
from pathlib import Path

import torch

from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints, decode_weights
from semigrid.trainers.layout import LATEST_CHECKPOINT


def test_a_checkpoint_of_another_version_is_named_and_not_used(tmp_path: Path) -> None:
    content = io.BytesIO()
    torch.save({"step": 7}, content)
    sealed = content.getvalue() + hashlib.sha256(content.getvalue()).digest()
    open_storage(tmp_path).write(LATEST_CHECKPOINT, sealed)
    checkpoints = Checkpoints(open_storage(tmp_path))
    assert checkpoints.load() is None
    assert checkpoints.damaged == [
        f"{tmp_path / LATEST_CHECKPOINT}: written by another version of semigrid"
    ]


def test_the_previous_checkpoint_keeps_its_best_weights(tmp_path: Path) -> None:
    checkpoints = Checkpoints(open_storage(tmp_path))
    for step in (0, 1):
        weights = {name: {"w": torch.full((2,), float(step))} for name in ("student", "ema")}
        checkpoints.save({"step": step, **weights}, is_best=True)
    checkpoints.background.wait()
    (tmp_path / LATEST_CHECKPOINT).write_bytes(b"damaged")
    after = Checkpoints(open_storage(tmp_path))
    state = after.load()
    assert state is not None and state["step"] == 0
    assert decode_weights(after.best_weights())["ema"]["w"].tolist() == [0, 0]
