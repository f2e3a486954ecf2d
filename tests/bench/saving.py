"""Steps per second while checkpoints are on their way to a storage that takes its time."""

import tempfile
import time
from collections.abc import Iterator

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
