"""Checkpoints by time, in steps that all ranks agree on."""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.helpers.tiny import on_ranks

from semigrid.data.storage import open_storage
from semigrid.trainers.execution import timer
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.timer import CheckpointTimer


class Ride:
    """Steps that take these seconds, from step 7 on, and what the timer says after each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float, steps: Iterable[float]):
        self.now, self.looks = 1e5, 0
        monkeypatch.setattr(timer, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.timer = CheckpointTimer(seconds, 7, self.gather)
        self.saved_at = [self.now]
        for number, taken in enumerate(steps, start=8):
            self.now += taken
            if self.timer.due(number):
                self.timer.saved()
                self.saved_at.append(self.now)

    def gather(self, value: Any) -> list[Any]:
        self.looks += 1
        return [value]

    @property
    def intervals(self) -> list[float]:
        return [b - a for a, b in zip(self.saved_at, self.saved_at[1:], strict=False)]


def test_checkpoints_come_by_time_and_ranks_seldom_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    ride = Ride(monkeypatch, 120, [0.1] * 6200)
    assert ride.intervals == pytest.approx([120] * 5, abs=0.1)
    # 1, 4, 16, 64 and 256 steps on, the rest of the first interval, then one look for each
    assert ride.looks <= 12


@pytest.mark.parametrize("first", [0.001, 60.0])  # a GPU's first step returns early, or compiles
def test_the_first_step_says_little_of_the_others(
    monkeypatch: pytest.MonkeyPatch, first: float
) -> None:
    ride = Ride(monkeypatch, 120, [first, *[0.1] * 5000])
    assert ride.intervals[0] == pytest.approx(120, abs=0.2)


def test_an_interval_follows_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    ride = Ride(monkeypatch, 120, [0.1] * 1500 + [0.3] * 4000)
    # the one in which it changes has the steps of before, the next the mean of both speeds
    assert ride.intervals[1] < 3 * 120 and ride.intervals[2] < 1.5 * 120
    assert ride.intervals[3:] == pytest.approx([120] * len(ride.intervals[3:]), abs=0.3)
    assert len(ride.intervals) > 8


def test_with_no_time_between_them_every_step_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(Ride(monkeypatch, 0, [0.1, 3, 0.0, 0.1]).intervals) == 4


def test_a_checkpoint_of_an_evaluation_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    ride = Ride(monkeypatch, 120, [1.0] * 100)
    ride.timer.saved()
    due = []
    for step in range(108, 108 + 130):
        ride.now += 1
        due += [step] * ride.timer.due(step)
    assert due == [108 + 119]


def test_all_ranks_have_the_steps_of_rank_0(tmp_path: Path) -> None:
    def steps(rank: Any) -> list[int]:
        # rank 1 is in no hurry of its own
        mine = CheckpointTimer(0.0 if rank.rank == 0 else 1e6, 0, rank.gather)
        return [step for step in range(1, 20) if mine.due(step)]

    ranks = on_ranks(2, Checkpoints(open_storage(tmp_path)), steps)
    assert ranks[0] == ranks[1] == list(range(1, 20))
