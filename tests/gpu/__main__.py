"""What only a GPU can show, within eight minutes: ``make gpu-check``.

Right numbers, speed as a share of the device's peak, the time that it waits for data, evaluations,
memory that runs out, checkpoints, NCCL, and a resumed training. Exit code 0 if all that ran ran
right, 1 for a wrong number or a failure (a missed goal of speed is none), 77 without a GPU.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from tests.gpu.evaluation import evaluation
from tests.gpu.feeding import feeding, streaming
from tests.gpu.group import group
from tests.gpu.losses import losses
from tests.gpu.memory import memory
from tests.gpu.parts import PRELOADED, PROCESSES, Part, Result, Setup, run_parts
from tests.gpu.resume import resume
from tests.gpu.saving import saving
from tests.gpu.speed import speed

SECONDS = 480.0
NO_GPU = 77
# in order of worth: what does not fit is left out from the end
PARTS = [
    Part("losses", 60, losses),
    Part("speed", 130, speed),
    Part("feeding", 75, feeding),
    Part("streaming", 80, streaming),
    Part("evaluation", 40, evaluation),
    Part("memory", 40, memory),
    Part("saving", 45, saving),
    Part("group", 60, group),
    Part("resume", 40, resume),
]
NAMES = [part.name for part in PARTS]


def device_facts(device: str) -> dict[str, Any]:
    """What runs this; empty without a GPU where one is wanted."""
    facts: dict[str, Any] = {"device": "cpu", "cpus": os.cpu_count()}
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return {}
        facts |= {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
        facts["memory"] = torch.cuda.get_device_properties(0).total_memory
    return facts


def table_of(results: list[Result], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("what", "found", "goal", "met?"):
        table.add_column(column)
    for result in results:
        heading = f"[bold]{result.name}[/bold], {result.seconds:.0f} s"
        table.add_row(heading, "", "", "" if result.lines else result.verdict)
        for line in result.lines:
            table.add_row(f"  {line.what}", line.found, line.goal or "none", line.verdict)
        if result.error:
            table.add_row(f"  {result.error}", "", "", result.verdict if result.lines else "")
        table.add_section()
    return table


def summary(results: list[Result], seconds: float) -> str:
    lines = [line for result in results for line in result.lines]
    missed = sum(line.verdict == "missed" for line in lines)
    failed = [result.name for result in results if result.verdict == "failed"]
    left_out = [result.name for result in results if result.verdict == "left out"]
    words = f"{len(lines)} findings in {seconds:.0f} s; goals of speed missed: {missed}"
    words += f"; failed: {', '.join(failed) or 'nothing'}"
    return words + f"; left out: {', '.join(left_out) or 'nothing'}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="all parts in small, as on a CPU")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="PART")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="most that it takes")
    parser.add_argument("--output", type=Path, help="write the findings to this file, as JSON")
    options = parser.parse_args()
    if options.device == "cpu" and not options.tiny:
        parser.error("a CPU takes hours for all parts in full: add --tiny")
    started = time.monotonic()
    facts = device_facts(options.device)
    if not facts:
        print("no GPU: torch finds no CUDA device, so nothing was checked")
        sys.exit(NO_GPU)
    PROCESSES.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()  # it imports beside this process
    console = Console(width=100)
    results: list[Result] = []
    parts = [part for part in PARTS if part.name in options.only]
    with tempfile.TemporaryDirectory(prefix="semigrid-gpu-") as folder:
        setup = Setup(options.device, options.tiny, Path(folder))
        for result in run_parts(parts, setup, options.seconds - (time.monotonic() - started)):
            results.append(result)
            console.print(f"{result.name}: {result.verdict}, {result.seconds:.0f} s", style="dim")
            if options.output:  # after each part: whatever ends this process, they are kept
                found = facts | {"parts": [each.as_json() for each in results]}
                options.output.write_text(json.dumps(found, indent=1))
    console.print(table_of(results, f"{facts['device']}, {facts['cpus']} cores"))
    console.print(summary(results, time.monotonic() - started))
    sys.exit(any(result.verdict == "failed" for result in results))


if __name__ == "__main__":
    main()
