"""Files cut, changed or gone: what is found is said, the least is trained again, numbers stay."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.experiments import experiment_text
from tests.helpers.in_process import Grid
from tests.helpers.scheduling import start_next
from tests.helpers.small_disk import MOUNT, can_mount
from tests.helpers.tiny import Died, Watched, die_in_step

from semigrid.data.storage import open_storage
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.study.ledger import Ledger
from semigrid.grid.study.plan import Plan
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.layout import predictions_file, weights_file
from semigrid.trainers.options import TrainOptions
from semigrid.trainers.trial.job import TrialJob
from semigrid.trainers.trial.run import run_trial

TEXT = experiment_text(
    grid=[{"model": "vit", "labels": ["50%"]}, {"model": "semi-vit", "labels": ["50%"]}],
    search={"trials": 2, "wave": 1},
    train={"checkpoint_seconds": 0},
)


@dataclass(frozen=True)
class Prepared:
    """A finished grid, and the same with one of its trials interrupted at a checkpoint."""

    plan: Plan
    whole: Path
    interrupted: Path
    trial: str  # the interrupted one
    numbers: dict[str, Any]
    table: Any

    def steps_of(self, trial_id: str) -> int:
        return int(self.numbers[trial_id][6][-1]["step"])


def seconds_out(table: str) -> Any:
    """A table's rows without what a machine's speed is part of."""
    rows = json.loads(table)
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("grids")
    plan = Plan(load_experiment("file.yaml", text=TEXT))
    whole = folder / "whole"
    grid = Grid(plan, whole).run()
    assert not grid.found and {s.stage for s in grid.study.searches.values()} == {"finished"}
    # the last trial of the child again, up to its second checkpoint
    interrupted = folder / "interrupted"
    shutil.copytree(whole, interrupted)
    trial = grid.study.searches["digits/semi-vit/50%/100%"].trials[-1].spec
    record = grid.records[trial.id]
    for name in (weights_file(trial.id), predictions_file(trial.id)):
        (interrupted / name).unlink(missing_ok=True)
    record = record.model_copy(update={"status": "started", "test": None, "val": {}})
    Ledger(open_storage(interrupted)).write(record)
    place = plan.place(grid.study.searches["digits/semi-vit/50%/100%"].search, str(interrupted))
    job = TrialJob(spec=trial, place=place, options=TrainOptions(checkpoint_seconds=0))
    checkpoints = Checkpoints(job.checkpoints)
    with pytest.raises(Died):
        run_trial(job, Watched(checkpoints, die_in_step(5)))
    state = checkpoints.load()
    assert state is not None
    assert state["outcome"]["step"] == 4 and state["outcome"]["best_step"] == 3
    return Prepared(plan, whole, interrupted, trial.id, grid.numbers(), seconds_out(grid.table()))


def trained_steps(grid: Grid, prepared: Prepared) -> int:
    """Steps that a run did itself, from its records."""
    steps = 0
    for trial_id in grid.scheduler.trained:
        resumed = grid.records[trial_id].resumed_at
        steps += prepared.steps_of(trial_id) - (resumed[-1] if resumed else 0)
    return steps


def damage_and_run(
    prepared: Prepared, start: Path, folder: Path, damage: Callable[[Path], None]
) -> Grid:
    """Runs on a damaged copy, which must end with the numbers and the table of the whole one."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(start, folder)
    damage(folder)
    grid = Grid(prepared.plan, folder).run()
    assert grid.numbers() == prepared.numbers
    assert seconds_out(grid.table()) == prepared.table
    return grid


def cut_in(file: Path, length: int, folder: Path) -> None:
    path = folder / file
    path.write_bytes(path.read_bytes()[:length])


def test_files_cut_at_random_bytes_are_named_and_the_least_is_trained_again(
    prepared: Prepared, thorough: bool, tmp_path: Path
) -> None:
    rng = random.Random(0)
    undamaged = damage_and_run(prepared, prepared.interrupted, tmp_path / "run", lambda _: None)
    assert undamaged.scheduler.trained == [prepared.trial] and not undamaged.found
    assert trained_steps(undamaged, prepared) == 2
    files = sorted(
        path
        for kind in ("ledger", "checkpoints", "weights", "predictions")
        for path in (prepared.interrupted / kind).rglob("*")
        if path.is_file()
    )
    kinds = {path.relative_to(prepared.interrupted).parts[0] for path in files}
    assert kinds == {"ledger", "checkpoints", "weights", "predictions"}
    for number, file in enumerate(files * (15 if thorough else 2)):
        victim = file.relative_to(prepared.interrupted)
        size = (prepared.interrupted / victim).stat().st_size
        length = rng.randrange(size - 1)  # a record without its last line break is whole
        grid = damage_and_run(
            prepared,
            prepared.interrupted,
            tmp_path / "run",
            partial(cut_in, victim, length),
        )
        what = f"cut {number}: {victim} at {length} of {size}"
        ours = prepared.trial in str(victim)
        steps = trained_steps(grid, prepared)
        if victim.parts[0] == "checkpoints" and victim.name == "previous.pt":
            assert (steps, grid.found) == (2, []), what  # nobody needs it
            continue
        assert any(victim.name in found for found in grid.found), f"{what}: {grid.found}"
        if victim.parts[0] == "checkpoints":
            # the one before the latest is at step 3; without the best weights, none is of use
            assert steps == (3 if victim.name == "latest.pt" else 6), what
        elif victim.parts[0] == "predictions":
            assert steps == 2 and len(grid.scheduler.evaluated) >= 1, what
        elif ours:
            assert steps == 2, what  # it was to go on anyway
        else:
            assert steps == 2 + 6 and len(grid.scheduler.trained) == 2, what


def test_weights_of_the_right_length_with_another_byte_are_found_by_who_loads_them(
    prepared: Prepared, tmp_path: Path
) -> None:
    parent = prepared.plan.searches[0]
    winner = Grid(prepared.plan, prepared.whole).study.searches[parent.name].winner
    assert winner is not None

    def flip(folder: Path) -> None:
        path = folder / weights_file(winner.id)
        content = bytearray(path.read_bytes())
        content[-100] ^= 1
        path.write_bytes(content)

    grid = damage_and_run(prepared, prepared.interrupted, tmp_path / "run", flip)
    assert grid.scheduler.trained == [winner.id, prepared.trial]
    assert len(grid.problems) == 1
    assert weights_file(winner.id) in grid.problems[0] and "damaged" in grid.problems[0]

    # and by the measurement of a winner, whose predictions are gone as well
    def flip_and_lose(folder: Path) -> None:
        flip(folder)
        (folder / predictions_file(winner.id)).unlink()

    grid = damage_and_run(prepared, prepared.whole, tmp_path / "run", flip_and_lose)
    assert grid.scheduler.trained == [winner.id] and winner.id in grid.scheduler.evaluated


def test_weights_that_are_damaged_again_and_again_fail_what_needs_them(
    prepared: Prepared, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(prepared.interrupted, folder)
    grid = Grid(prepared.plan, folder)
    parent = next(s for s in grid.study.searches.values() if s.search.parent is None)
    assert parent.winner is not None
    path = folder / weights_file(parent.winner.id)
    jobs = 0
    while job := start_next(grid.scheduler):
        size = path.stat().st_size
        path.write_bytes(os.urandom(size))
        grid.do(job)
        jobs += 1
    assert jobs <= 6 and grid.scheduler.done
    child = grid.study.searches["digits/semi-vit/50%/100%"]
    assert child.stage == "failed" and "was trained again once already" in str(child.failure)


@pytest.mark.parametrize("gone", ["weights", "predictions", "both"])
def test_lost_weights_are_trained_again_and_lost_predictions_only_measured(
    gone: str, prepared: Prepared, tmp_path: Path
) -> None:
    state = Grid(prepared.plan, prepared.whole).study.searches["digits/semi-vit/50%/100%"]
    assert state.winner is not None
    winner = state.winner.id

    def lose(folder: Path) -> None:
        if gone != "predictions":
            (folder / weights_file(winner)).unlink()
        if gone != "weights":
            (folder / predictions_file(winner)).unlink()

    grid = damage_and_run(prepared, prepared.whole, tmp_path / "run", lose)
    assert grid.scheduler.trained == ([] if gone == "predictions" else [winner])
    assert grid.scheduler.evaluated == [winner]
    assert all("missing" in found for found in grid.found) and grid.found
    for name in (weights_file(winner), predictions_file(winner)):
        assert (tmp_path / "run" / name).read_bytes() == (prepared.whole / name).read_bytes()


def test_records_of_a_version_that_kept_no_sizes_stay_valid(
    prepared: Prepared, tmp_path: Path
) -> None:
    def forget(folder: Path) -> None:
        for path in (folder / "ledger").iterdir():
            record = json.loads(path.read_text())
            for key in ("weights_file", "predictions_file", "damaged"):
                record.pop(key)
            path.write_text(json.dumps(record))

    grid = damage_and_run(prepared, prepared.whole, tmp_path / "run", forget)
    assert grid.scheduler.trained == [] and grid.found == []


def test_a_run_waits_for_storage_that_is_away_and_loses_nothing(
    prepared: Prepared, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    open_storage(folder).write("experiment.yaml", b"")
    grid = Grid(prepared.plan, folder, patience=60)
    over = threading.Event()

    def move() -> int:
        # Goes away at the start and after each new record, so that the run gets on between two
        # absences however slow the machine, and cannot end between them however quick.
        moves = 0
        while not over.wait(0.01):
            if len(list((folder / "ledger").glob("*.json"))) >= moves:
                os.rename(folder, tmp_path / "away")
                time.sleep(0.2)
                assert not folder.exists()
                os.rename(tmp_path / "away", folder)
                moves += 1
        return moves

    with ThreadPoolExecutor(1) as pool:
        moved = pool.submit(move)
        grid.run()
        over.set()
        assert moved.result() > 1
    assert grid.numbers() == prepared.numbers and not grid.found


FULL_DISK = """
import json, os, sys
from pathlib import Path
from tests.helpers.in_process import Grid
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.study.plan import Plan

disk, found = Path(sys.argv[1]), []
plan = Plan(load_experiment("file.yaml", text=sys.stdin.read()))
for free in sys.argv[2:]:
    folder, filler = disk / free, disk / "filler"
    facts = os.statvfs(disk)
    filler.write_bytes(bytes(facts.f_bavail * facts.f_bsize - int(free)))
    full = Grid(plan, folder).run()
    kept = {i: numbers for i, numbers in full.numbers().items() if numbers[0] == "finished"}
    filler.unlink()
    after = Grid(plan, folder).run()
    found.append({
        "states": [state.stage for state in full.study.searches.values()],
        "problems": full.problems,
        "failed": [r.error for r in full.records.values() if r.status == "failed"],
        "kept": kept,
        "retrained": sorted(set(after.scheduler.trained) & set(kept)),
        "numbers": after.numbers(),
    })
print(json.dumps(found))
"""


@pytest.mark.skipif(not can_mount(), reason="no small file system can be mounted here")
def test_a_full_disk_is_the_reason_given_and_the_next_run_ends_it(
    prepared: Prepared, tmp_path: Path
) -> None:
    sizes = [str(kb * 1024) for kb in (0, 40, 150, 260)]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", MOUNT, "sh", str(tmp_path)]
        + [sys.executable, "-c", FULL_DISK, str(tmp_path), *sizes],
        input=TEXT,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
        },
    )
    assert done.returncode == 0, done.stderr
    whole = json.loads(json.dumps(prepared.numbers))
    for found in json.loads(done.stdout):
        assert "failed" in found["states"] and found["states"][-1] in ("failed", "blocked")
        assert found["problems"] and all("No space left" in what for what in found["problems"])
        assert all("No space left" in what for what in found["failed"])
        # finished work is kept, and what is trained later is what it would have been
        assert found["retrained"] == [] and found["kept"].items() <= whole.items()
        assert found["numbers"] == whole
