"""What checkpoints take from a training: its steps while they are written, the stop for a copy."""

import io
import tempfile
import time
from collections.abc import Iterator

import torch
from tests.bench.step import Steps

from semigrid.data.storage import Storage
from semigrid.data.storage.files import Confirm
from semigrid.data.storage.local import LocalFiles

STEPS, INTERVAL = 60, 20
STORAGE_SECONDS = 2.0


class FarFiles(LocalFiles):
    """Takes as long for a file as a bucket may for a gigabyte, without this machine's CPU."""

    def write(self, path: str, content: bytes, confirm: Confirm) -> None:
        time.sleep(STORAGE_SECONDS)
        super().write(path, content, confirm)


def steps_while_saving(device: str) -> Iterator[tuple[str, str, float, float]]:
    what = f"steps/s, a checkpoint every {INTERVAL} that storage takes {STORAGE_SECONDS:g} s for"
    none, background, waited = (steps_per_second(device, how) for how in ("no", "yes", "waited"))
    yield what, "without checkpoints", background, none
    yield what, "with the step waiting for them", background, waited
    yield from stops(device)


def stops(device: str, saves: int = 3) -> Iterator[tuple[str, str, float, float]]:
    """Seconds that a step waits for a checkpoint of ViT-Base, the second one and later."""
    steps = Steps("vit_base_patch16_224", 224, 1, device, "fp32")
    step, training = steps.ours(steps.recipe)
    step()  # its optimiser has moments from here on
    checkpoints = training.runtime.checkpoints
    taken = []
    for _ in range(saves):
        steps.wait()
        started = time.perf_counter()
        training.save_checkpoint()
        taken.append(time.perf_counter() - started)
        checkpoints.background.wait()
    state = checkpoints.load()
    assert state is not None
    encoding = []
    for _ in range(saves):
        content = io.BytesIO()
        started = time.perf_counter()
        torch.save(state, content)
        encoding.append(time.perf_counter() - started)
    size = f"{content.tell() / 1e9:.1f} GB"
    what = f"a checkpoint of ViT-Base, {size}: 1/seconds that a step waits for it"
    yield what, "encoding it in the step", 1 / min(taken[1:]), 1 / min(encoding)
    yield "the same, the first", "the same", 1 / taken[0], 1 / min(encoding)


def steps_per_second(device: str, how: str) -> float:
    steps = Steps("test_vit", 160, 4, device, "fp32")
    step, training = steps.ours(steps.recipe)
    checkpoints = training.runtime.checkpoints
    checkpoints.storage = Storage(FarFiles(), tempfile.mkdtemp())
    step()
    started = time.perf_counter()
    for number in range(1, STEPS + 1):
        step()
        if how != "no" and number % INTERVAL == 0:
            training.save_checkpoint()
            if how == "waited":
                checkpoints.background.wait()
    seconds = time.perf_counter() - started
    checkpoints.background.wait()
    return STEPS / seconds
