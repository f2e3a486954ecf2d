"""Twenty kills during a grid of ten cells, and the same numbers afterwards: ``make chaos``.

The grid runs undisturbed, then again while processes of its cluster are killed at random moments.
Exit code 1 if any number in the ledger differs, more work was repeated than a checkpoint interval
for each kill, or some kind of process was never killed.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.chaos import grid
from tests.chaos.cluster import TwoNodes, title
from tests.helpers.processes import children, kill

from semigrid.grid.study.ledger import ENDED
from semigrid.trainers.execution.progress import WRITE_SECONDS_VARIABLE

# So many of each: trial is the process of a training, worker one of a DDP group, controller Ray
# Train's, node the second raylet with all that it started, driver the process that drives Ray,
# run that and the process that would start it again.
KILLS = {"trial": 6, "worker": 4, "controller": 2, "node": 3, "driver": 3, "run": 2}
GAP_SECONDS = (1.0, 10.0)
NODE_AWAY_SECONDS = (0.5, 4.0)
# What must not be among the results on somebody's terminal.
NOISE = ("raylet", "Traceback", "(pid=", "WARNING", "gcs_", "core_worker")


class Run:
    """``semigrid run`` on the cluster, started again when it was killed."""

    def __init__(self, file: Path, storage: Path, address: str, output: Path):
        self.file, self.storage, self.output = file, storage, output
        self.environment = {**os.environ, "RAY_ADDRESS": address}
        self.start()

    def start(self) -> None:
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                grid.command("run", str(self.file), "--storage", str(self.storage)),
                stdout=output,
                stderr=output,
                env=self.environment,
                start_new_session=True,
            )

    @property
    def driver(self) -> int | None:
        """The process that drives Ray."""
        found = [pid for pid in children(self.process.pid) if "semigrid drive" in title(pid)]
        return found[0] if found else None

    def kill(self) -> None:
        """Both processes at once."""
        if self.process.poll() is not None:
            return
        driver = self.driver
        kill(self.process.pid)
        if driver is not None:
            kill(driver)
        self.process.wait()

    def ended(self) -> int | None:
        return self.process.poll()


class Chaos:
    """Kills one thing after the other while a run lasts."""

    def __init__(self, nodes: TwoNodes, run: Run, draw: random.Random):
        self.nodes, self.run, self.draw = nodes, run, draw
        self.plan = Counter(KILLS)
        self.done: Counter[str] = Counter()
        self.times: list[float] = []  # when, in seconds since 1970
        self.started = time.monotonic()
        self.ways: dict[str, Callable[[], str | None]] = {
            **{kind: self._actor(kind) for kind in ("trial", "worker", "controller")},
            "node": self._node,
            "driver": self._driver,
            "run": self._run,
        }

    def go_on(self, deadline: float) -> int:
        """Until the run ends by itself; its exit code. Raises ``TimeoutError``."""
        next_kill, at_work = self._next()
        while (code := self.run.ended()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError
            due = self.plan.total() and time.monotonic() > next_kill and self._is_turn()
            if due and (not at_work or grid.is_training(self.run.storage)) and self._kill_one():
                next_kill, at_work = self._next()
            time.sleep(0.1)
        return code

    def _is_turn(self) -> bool:
        """Whether the grid has come far enough for one more: they are to last until its end."""
        return self.done.total() < 4 + 20 * self._ended() / grid.TRAININGS

    def _ended(self) -> int:
        found = grid.records_of(self.run.storage).values()
        return sum(record.status in ENDED for record in found)

    def _next(self) -> tuple[float, bool]:
        """When, and whether only while a training makes steps: else most would hit starts."""
        return time.monotonic() + self.draw.uniform(*GAP_SECONDS), self.draw.random() < 0.8

    def _kill_one(self) -> bool:
        """Kills something of which there is one now."""
        if not self._groups_left():
            for kind in ("worker", "controller"):
                self.plan["trial"] += self.plan.pop(kind, 0)
        kinds = [k for k in self.plan if self.plan[k] and self._is_there(k)]
        groups = [k for k in kinds if k in ("worker", "controller")]
        if groups and self.draw.random() < 0.5:  # they are seldom there
            kinds = groups
        if not kinds:
            return False
        kind = self.draw.choices(kinds, [self.plan[k] for k in kinds])[0]
        self.times.append(time.time())  # before: what it ends may be over when it returns
        what = self.ways[kind]()
        if what is None:
            self.times.pop()
            return False
        self.plan[kind] -= 1
        self.done[kind] += 1
        print(
            f"{time.monotonic() - self.started:6.1f} s  kill {self.done.total():2}: "
            f"{kind:10} {what}; {self._ended()} trials have ended",
            flush=True,
        )
        return True

    def _groups_left(self) -> bool:
        found = grid.records_of(self.run.storage).values()
        ended = [r for r in found if f"/{grid.PAIR}/" in r.cell and r.status in ENDED]
        return len(ended) < grid.TRIALS

    def _is_there(self, kind: str) -> bool:
        if kind in ("trial", "worker", "controller"):
            return bool(self.nodes.find(kind))
        return self.run.driver is not None

    def _actor(self, kind: str) -> Callable[[], str | None]:
        def one() -> str | None:
            pids = self.nodes.find(kind)
            if not pids:
                return None
            pid = self.draw.choice(pids)
            what = f"process {pid}, {title(pid).strip()}"
            kill(pid)
            return what

        return one

    def _node(self) -> str:
        self.nodes.kill_second()
        away = self.draw.uniform(*NODE_AWAY_SECONDS)
        time.sleep(away)
        self.nodes.add_second()
        return f"the second node, a new one after {away:.1f} s"

    def _driver(self) -> str | None:
        pid = self.run.driver
        if pid is None:
            return None
        kill(pid)
        return f"process {pid}"

    def _run(self) -> str:
        pid = self.run.process.pid
        self.run.kill()
        time.sleep(self.draw.uniform(0.0, 2.0))
        self.run.start()
        return f"process {pid} and its driver; run again"


def undisturbed(file: Path, storage: Path, nodes: TwoNodes, output: Path, seconds: float) -> None:
    run = Run(file, storage, nodes.address, output)
    try:
        code = run.process.wait(seconds)
    except subprocess.TimeoutExpired:
        sys.exit(f"the undisturbed run was not done after {seconds:.0f} s\n{output.read_text()}")
    finally:
        run.kill()
    if code != 0:
        sys.exit(f"the undisturbed run failed:\n{output.read_text()}")


def verdict(file: Path, expected: Path, found: Path, chaos: Chaos, code: int) -> list[str]:
    """All that is not as it should be."""
    problems = [f"the run ended with exit code {code}"] if code else []
    before, after = grid.records_of(expected), grid.records_of(found)
    problems += grid.differences(before, after)
    if grid.table_of(file, expected) != grid.table_of(file, found):
        problems.append("the table is another one")
    problems += grid.repeated_too_much(after, chaos.times)
    problems += [f"no {kind} was killed" for kind in KILLS if not chaos.done[kind]]
    if chaos.plan.total():
        problems.append(f"the grid ended before all kills were made; left: {dict(chaos.plan)}")
    said = chaos.run.output.read_text()
    problems += [f"on the terminal: {line}" for line in said.splitlines() if _is_noise(line)]
    exact = sum(not grid.differences({i: before[i]}, {i: after[i]}) for i in before if i in after)
    repeats = [grid.repeats(r) for r in after.values() if r.history]
    print(
        f"{chaos.done.total()} kills: {dict(chaos.done)}\n"
        f"{exact} of {len(before)} records as in the undisturbed run\n"
        f"{sum(killed for _, killed in repeats)} attempts at trainings were ended; "
        f"{sum(steps for steps, _ in repeats):,} steps repeated of "
        f"{sum(r.steps_run for r in after.values()):,}; at most "
        f"{max((s / k for s, k in repeats if k), default=0):.1f} an attempt, "
        f"{sum(steps for steps, _ in repeats) / max(1, chaos.done.total()):.1f} a kill, and a "
        f"checkpoint is written every {grid.CHECKPOINT_SECONDS} s"
    )
    return problems


def _is_noise(line: str) -> bool:
    return any(word in line for word in NOISE)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--minutes", type=float, default=15.0, help="give up after this long")
    parser.add_argument("--folder", help="keep everything here, and an undisturbed run for later")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    temporary = tempfile.TemporaryDirectory(prefix="semigrid-chaos-")
    folder = Path(options.folder or temporary.name)
    folder.mkdir(parents=True, exist_ok=True)
    # every process of the cluster has these from here; each step is written down, to be counted
    os.environ |= {WRITE_SECONDS_VARIABLE: "0", "OMP_NUM_THREADS": "1"}
    os.environ.setdefault("SEMIGRID_CACHE", str(folder / "cache"))
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "60"
    file = grid.write_experiment(folder)
    expected, found = folder / "undisturbed", folder / f"seed-{options.seed}"
    nodes = TwoNodes()
    try:
        if not (folder / "undisturbed.ended").exists():
            left = deadline - time.monotonic()
            undisturbed(file, expected, nodes, folder / "undisturbed.txt", left)
            (folder / "undisturbed.ended").touch()
            print("the undisturbed run is done", flush=True)
        output = folder / f"seed-{options.seed}.txt"
        run = Run(file, found, nodes.address, output)
        chaos = Chaos(nodes, run, random.Random(options.seed))
        try:
            code = chaos.go_on(deadline)
        except TimeoutError:
            sys.exit(f"not done after {options.minutes:g} minutes\n{output.read_text()}")
        finally:
            run.kill()
        problems = verdict(file, expected, found, chaos, code)
    finally:
        nodes.close()
    for problem in problems:
        print(problem)
    print("FAILED" if problems else "passed")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
