"""The parts of the check: each in a process of its own, so that none can hide the others."""

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from tests.helpers.processes import descendants, kill

# ``missed`` is a goal of speed, ``failed`` a wrong number or an error
Verdict = Literal["ok", "missed", "failed", "left out"]
# Lines of a failed part's output that are kept.
KEPT_LINES = 40
# A server that has imported what the parts need, without touching a GPU: each part is a fork of it.
PROCESSES = multiprocessing.get_context("forkserver")
PRELOADED = [f"tests.gpu.{name}" for name in ("evaluation", "group", "memory", "resume", "saving")]


@dataclass(frozen=True)
class Line:
    """What was looked at, what was found, the goal, and the numbers for a program to read."""

    what: str
    found: str
    goal: str = ""
    verdict: Verdict = "ok"
    values: dict[str, Any] = field(default_factory=dict)


def failed_unless(right: bool) -> Verdict:
    return "ok" if right else "failed"


@dataclass(frozen=True)
class Setup:
    """What every part is told.

    Attributes:
        device: the type of torch device: ``cuda`` or ``cpu``.
        tiny: the same parts in small, for a test on a CPU.
        folder: where parts put their files; what one made, the next may use.
        deadline: when the part is ended, by ``time.monotonic()``.
    """

    device: str
    tiny: bool
    folder: Path
    deadline: float = float("inf")

    @property
    def left(self) -> float:
        """Seconds until the part is ended."""
        return self.deadline - time.monotonic()

    def goal(self, words: str, met: bool) -> tuple[str, Verdict]:
        """A goal of speed for a line, and whether it is met; there is none in small."""
        if self.tiny:
            return "", "ok"
        return words, "ok" if met else "missed"


@dataclass(frozen=True)
class Part:
    """One part of the check.

    Attributes:
        seconds: most that it may take; it begins only where so many are left of the whole.
        run: yields lines as it finds them.
    """

    name: str
    seconds: float
    run: Callable[[Setup], Iterator[Line]]


@dataclass
class Result:
    """What came of a part; lines that it found before it failed are kept."""

    name: str
    verdict: Verdict = "ok"
    seconds: float = 0.0
    error: str = ""
    output: list[str] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run_parts(parts: Sequence[Part], setup: Setup, seconds: float) -> Iterator[Result]:
    """The result of each part, in order; one that would not end within ``seconds`` is left out."""
    end = time.monotonic() + seconds
    ready = PROCESSES.Process(target=int)  # what the server imports is on no part's time
    ready.start()
    ready.join(seconds)
    for part in parts:
        left = end - time.monotonic()
        if part.seconds > left:
            why = f"needs up to {part.seconds:.0f} s, {max(0.0, left):.0f} s are left"
            yield Result(part.name, "left out", error=why)
        else:
            yield _run(part, setup)


def _run(part: Part, setup: Setup) -> Result:
    result = Result(part.name)
    log = setup.folder / f"{part.name}.log"
    log.touch()  # a process that dies at once writes none
    started = time.monotonic()
    setup = replace(setup, deadline=started + part.seconds)
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_work, args=(part, setup, sender, str(log)))
    process.start()
    sender.close()
    assert process.pid is not None
    server = _parent(process.pid)
    with contextlib.suppress(EOFError):  # it has found its last line
        while ready := wait([receiver, process.sentinel], timeout=max(0.0, setup.left)):
            if receiver not in ready:  # it has ended; others may hold its end of the pipe
                break
            result.lines.append(receiver.recv())
    process.join(max(0.0, setup.left))
    if process.is_alive():
        # parts run one at a time, so all that descends from the server is of this one
        for pid in list(descendants(server)):
            kill(pid)
        result.error = f"took longer than its {part.seconds:.0f} s"
    process.join()
    result.seconds = time.monotonic() - started
    if process.exitcode:
        result.output = log.read_text(errors="replace").splitlines()[-KEPT_LINES:]
        result.error = result.error or _reason(process.exitcode, result.output)
    verdicts = [line.verdict for line in result.lines]
    worst: tuple[Verdict, ...] = ("failed", "missed")
    result.verdict = next((verdict for verdict in worst if verdict in verdicts), "ok")
    if result.error or not result.lines:
        result.verdict, result.error = "failed", result.error or "found nothing"
    return result


def _work(part: Part, setup: Setup, sender: "Connection[Line, Any]", log: str) -> None:
    """The part, in its process; whatever it and its own processes say goes to the log."""
    sys.stdout.flush()
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    for line in part.run(setup):
        sender.send(line)


def _parent(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid")))


def _reason(exit_code: int, output: Sequence[str]) -> str:
    if exit_code < 0:
        return f"killed by signal {-exit_code}"
    said = [line for line in output if line.strip()]
    return said[-1] if said else f"exit code {exit_code}"
