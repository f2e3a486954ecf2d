"""Files on their way to storage: no step waits for them, none is lost, none comes too early."""

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.tiny import run_tiny, tiny_recipe

from semigrid.data.schema import Dataset
from semigrid.data.storage import Storage, open_storage
from semigrid.data.storage.files import Confirm
from semigrid.data.storage.local import LocalFiles
from semigrid.trainers.execution.background import Background
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.progress import Meter, read_progress
from semigrid.trainers.layout import LATEST_CHECKPOINT, PROGRESS


class SlowFiles(LocalFiles):
    """Files whose writes come to nothing until they are let through, or refused."""

    def __init__(self, folder: Path):
        super().__init__()
        self.storage = Storage(self, str(folder))
        self.open_to = threading.Event()
        self.full = False
        self.written: list[str] = []

    def write(self, path: str, content: bytes, confirm: Confirm) -> None:
        assert self.open_to.wait(60)
        if self.full:
            raise OSError(28, "No space left on device")
        super().write(path, content, confirm)
        self.written.append(Path(path).name)


def state(step: int) -> dict[str, Any]:
    weights = {name: {"w": torch.full((3,), float(step))} for name in ("student", "ema")}
    return {"step": step, "history": [step], **weights}


def test_steps_go_on_while_a_checkpoint_is_on_its_way(digits: Dataset, tmp_path: Path) -> None:
    slow = SlowFiles(tmp_path / "slow")
    recipe = tiny_recipe("finetune", evaluations=2)  # of eight steps: at 4 and 8
    seen: list[tuple[int, list[str]]] = []

    def look(step: int) -> None:
        seen.append((step, list(slow.written)))
        if step == 8:
            slow.open_to.set()

    outcome = run_tiny(digits, "finetune", recipe, Checkpoints(slow.storage), on_step=look)
    # nothing had arrived when the last step began, and all has when the training ends
    assert seen == [(step, []) for step in range(1, 9)]
    plain = Checkpoints(open_storage(tmp_path / "plain"))
    assert outcome.history == run_tiny(digits, "finetune", recipe, plain).history
    here, there = Checkpoints(slow.storage).load(), plain.load()
    assert here is not None and there is not None
    assert here["outcome"]["step"] == 8
    assert all(torch.equal(here["student"][k], there["student"][k]) for k in there["student"])


def test_a_checkpoint_is_of_its_own_step(tmp_path: Path) -> None:
    slow = SlowFiles(tmp_path)
    checkpoints = Checkpoints(slow.storage)
    now = state(1)
    checkpoints.save(now, is_best=True)  # the weights have to arrive before the rest is encoded
    now["student"]["w"] += 100  # the next step, while it is on its way
    now["step"] = 2
    now["history"].append(2)
    slow.open_to.set()
    checkpoints.background.wait()
    found = Checkpoints(open_storage(tmp_path)).load()
    assert found is not None
    assert found["student"]["w"].tolist() == [1, 1, 1]
    assert found["step"] == 1 and found["history"] == [1]


def test_one_checkpoint_is_on_its_way_at_a_time(tmp_path: Path) -> None:
    slow = SlowFiles(tmp_path)
    checkpoints = Checkpoints(slow.storage)
    checkpoints.save(state(1))
    second = threading.Thread(target=checkpoints.save, args=(state(2),))
    second.start()
    second.join(0.2)
    assert second.is_alive()  # waits: a slow storage must not fill the memory
    slow.open_to.set()
    second.join(60)
    checkpoints.background.wait()
    assert slow.written == [LATEST_CHECKPOINT, LATEST_CHECKPOINT]


@pytest.mark.parametrize(
    "last",
    [
        lambda checkpoints: checkpoints.save(state(2)),
        lambda checkpoints: checkpoints.background.wait(),
        Checkpoints.load,
        Checkpoints.best_weights,
    ],
)
def test_what_could_not_be_written_is_said_the_next_time(
    tmp_path: Path, last: Callable[[Checkpoints], Any]
) -> None:
    slow = SlowFiles(tmp_path)
    slow.full = True
    slow.open_to.set()
    checkpoints = Checkpoints(slow.storage)
    checkpoints.save(state(1))
    with pytest.raises(OSError, match="No space left"):
        last(checkpoints)


def test_no_checkpoint_names_weights_that_could_not_be_written(tmp_path: Path) -> None:
    slow = SlowFiles(tmp_path)
    checkpoints = Checkpoints(slow.storage)
    slow.full = True
    checkpoints.save(state(4), is_best=True)
    written_before = list(slow.written)
    slow.open_to.set()
    with pytest.raises(OSError, match="No space left"):
        checkpoints.background.wait()
    assert slow.written == written_before == []


def test_a_training_that_cannot_save_ends_with_the_reason(digits: Dataset, tmp_path: Path) -> None:
    slow = SlowFiles(tmp_path)
    slow.full = True
    slow.open_to.set()
    recipe = tiny_recipe("finetune")
    with pytest.raises(OSError, match="No space left"):  # its only checkpoint is that of its end
        run_tiny(digits, "finetune", recipe, Checkpoints(slow.storage))


def test_nothing_comes_back_after_it_was_deleted(tmp_path: Path) -> None:
    slow = SlowFiles(tmp_path / "training")
    checkpoints = Checkpoints(slow.storage)
    checkpoints.save(state(4), is_best=True)
    threading.Timer(0.1, slow.open_to.set).start()
    checkpoints.delete()
    assert not (tmp_path / "training").exists()


def test_no_step_waits_for_the_progress_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMIGRID_PROGRESS_SECONDS", "0.001")
    slow = SlowFiles(tmp_path)
    slow.open_to.set()
    meter = Meter(slow.storage, {"cpu": 1})
    meter.begin(0)  # this one is waited for: a kill would hide the attempt
    assert slow.written == [PROGRESS]
    slow.open_to.clear()
    for step in range(1, 50):
        meter.step(step)
        threading.Event().wait(0.002)
    assert slow.written == [PROGRESS]
    slow.open_to.set()
    meter.write()
    assert read_progress(open_storage(tmp_path))["reached"] == 49
    assert len(slow.written) == 3  # not one for each step that had to pass by


def fail() -> None:
    raise OSError("away")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_is_not_hidden_by_one_of_the_storage(error: type[BaseException]) -> None:
    background = Background()
    with pytest.raises(error), background:
        background.do(fail)
        raise error
    background.wait()
    with pytest.raises(OSError, match="away"), background:
        background.do(fail)


def test_work_is_done_in_the_order_given() -> None:
    background = Background()
    seen: list[int] = []

    def work(number: int) -> Callable[[], None]:
        return lambda: seen.append(number)

    for number in range(100):
        background.do(work(number))
    background.wait()
    assert seen == list(range(100)) and not background.busy


def test_a_checkpoint_opens_in_torch_with_its_seal(tmp_path: Path) -> None:
    checkpoints = Checkpoints(open_storage(tmp_path))
    checkpoints.save(state(7))
    checkpoints.background.wait()
    content = open_storage(tmp_path).read(LATEST_CHECKPOINT)
    assert torch.load(io.BytesIO(content))["step"] == 7
