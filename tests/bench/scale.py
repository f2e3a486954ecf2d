"""What a grid on a thousand GPUs asks of the one process that drives it, measured here."""

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from tests.helpers.scheduling import scheduler_of
from tests.helpers.scores import alike

from semigrid.grid.study.ledger import Record, start_record

GPUS, GPUS_PER_MACHINE = 1000, 4
MODELS, FRACTIONS = 25, 20  # 500 cells
TRIALS = 16
JOBS = 1500  # followed to their ends
REPORTERS, REPORTS = 2, 400
MIB = 2**20


def scale() -> Iterator[tuple[str, str, str]]:
    """(what, found, goal); the goals are those of ``docs/scale.md``."""
    yield from deciding()
    yield "reports of trials that a driver takes", f"{_apart('reports'):,.0f} / s", "100 / s"
    for what, found in _apart("memory").items():
        yield f"memory of a 2-worker group: {what}", f"{found / MIB:,.0f} MiB", ""


def _grid(cells: list[dict[str, Any]], storage: str, **changes: Any) -> dict[str, Any]:
    tiny = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    model = {"backbone": "vit_tiny_patch16_224", "method": "finetune", "pretrained": False}
    models = {
        cell["model"]: {
            **model,
            "backbone_args": tiny,
            "recipe": {"img_size": 16, "steps": 100 + number},
        }
        for number, cell in enumerate(cells)
    }
    return {
        "name": "scale",
        "datasets": {"digits": "builtin://digits"},
        "models": models,
        "grid": cells,
        "search": {"trials": TRIALS, "wave": 4},
        "storage": storage,
    } | changes


def deciding() -> Iterator[tuple[str, str, str]]:
    """Planning 500 cells, and what the driver thinks for each job while a thousand run."""
    from semigrid.grid.cluster.machines import Admission, Demand, Machine
    from semigrid.grid.experiment.load import load_experiment
    from semigrid.grid.study.plan import Plan
    from semigrid.grid.study.state import Job

    labels = [f"{100 * (i + 1) // FRACTIONS}%" for i in range(FRACTIONS)]
    cells = [{"model": f"vit{i}", "labels": labels} for i in range(MODELS)]
    started = time.perf_counter()
    text = yaml.safe_dump(_grid(cells, "/nowhere"))
    plan = Plan(load_experiment("scale.yaml", text=text))
    scheduler = scheduler_of(plan)
    seconds = time.perf_counter() - started
    what = f"a plan of {len(plan.searches)} cells, {len(plan.searches) * TRIALS:,} trainings"
    yield what, f"{seconds:.1f} s", "30 s"
    machines = [Machine(48, GPUS_PER_MACHINE)] * (GPUS // GPUS_PER_MACHINE)
    admission, demand, draw = Admission(), Demand(8, 1), random.Random(0)
    running: list[Job] = []
    most, ended = 0, 0
    started = time.perf_counter()
    while ended < JOBS:
        ready = ((job, demand) for job in scheduler.ready())
        job = admission.choose(ready, machines, [demand] * len(running))
        if job is not None:
            running.append(scheduler.start(job))
            most = max(most, len(running))
            continue
        over = running.pop(draw.randrange(len(running)))
        scheduler.complete(over, _ending(over, draw))
        ended += 1
    seconds = time.perf_counter() - started
    what = f"deciding for one job while {most:,} run on {len(machines)} machines"
    yield what, f"{1e3 * seconds / (ended + len(running)):.0f} ms", "100 ms"


def _ending(job: Any, draw: random.Random) -> Record:
    record = start_record(job.spec, job.search.name)
    record.status = "finished"
    record.val = alike({"acc1": draw.uniform(50, 90), "acc5": 100.0, "ce": draw.random()})
    return record


def _run(folder: str, grid: dict[str, Any], work: Any = None) -> None:
    """Runs a grid by Tune in this process, whatever this machine has."""
    from rich.console import Console

    from semigrid.data.storage import open_storage
    from semigrid.grid.experiment.load import load_experiment
    from semigrid.grid.run.tune import run_plan
    from semigrid.grid.status.live import LiveView
    from semigrid.grid.study.ledger import Ledger
    from semigrid.grid.study.plan import Plan
    from semigrid.grid.trackers.tracker import Trackers

    experiment = load_experiment("scale.yaml", text=yaml.safe_dump(grid))
    open_storage(experiment.folder).write("experiment.yaml", experiment.text.encode())
    ledger = Ledger(open_storage(experiment.folder, patience=60))
    scheduler = scheduler_of(Plan(experiment), {}, ledger.has_weights)
    console, trackers = Console(stderr=True, quiet=True), Trackers({}, {}, print)
    with LiveView(console, scheduler.study, ledger.storage) as view:
        run_plan(scheduler, ledger, view, threading.Event(), trackers, work)
    assert not scheduler.study.failed, scheduler.study.failed


def chatter(config: dict[str, Any]) -> None:
    """A job that does nothing but say where it stands."""
    from ray import tune
    from tests.bench.trials import trivial

    began = time.time()
    for step in range(REPORTS):
        tune.report({"step": step, "images_per_s": 1.0, "device_seconds": {"cpu": 1.0}})
    Path(os.environ["SEMIGRID_BENCH_TIMES"], f"{os.getpid()}-{began}").write_text(
        json.dumps([began, time.time()])
    )
    trivial(config)


def reports(folder: str) -> float:
    """Reports a second that Tune, our searcher and the live view take from trials side by side."""
    times = Path(folder, "times")
    times.mkdir()
    os.environ["SEMIGRID_BENCH_TIMES"] = str(times)
    cells = [{"model": f"vit{i}", "labels": ["100%"]} for i in range(REPORTERS)]
    search = {"trials": 1}
    _run(folder, _grid(cells, folder, search=search), chatter)
    spans = [json.loads(file.read_text()) for file in times.iterdir()]
    trained = sorted(spans)[:REPORTERS]  # the rest measures
    seconds = max(end for _, end in trained) - min(began for began, _ in trained)
    return REPORTERS * REPORTS / float(seconds)


def memory(folder: str) -> dict[str, float]:
    """Bytes of memory that each kind of process of a two-worker group has of its own, at most."""
    found: dict[str, float] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            for kind, size in _processes():
                found[kind] = max(found.get(kind, 0.0), size)

    watcher = threading.Thread(target=look)
    watcher.start()
    cells = [{"model": "vit0", "labels": ["100%"]}]
    changes = {"search": {"trials": 1}, "train": {"workers": 2, "max_failures": 0}}
    _run(folder, _grid(cells, folder, **changes))
    over.set()
    watcher.join()
    return found


KINDS = {
    "what drives it": "ray::ImplicitFunc",
    "Ray Train's controller": "ray::TrainController",
    "a worker": "ray::RayTrainWorker",
}


def _processes() -> Iterator[tuple[str, float]]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            title = (process / "cmdline").read_text()
            for what, start in KINDS.items():
                if title.startswith(start):
                    lines = (process / "smaps_rollup").read_text().splitlines()
                    sizes = {line.split(":")[0]: line.split()[-2] for line in lines[1:]}
                    # of its own: what a second one on this machine would take
                    own = int(sizes["Private_Clean"]) + int(sizes["Private_Dirty"])
                    yield what, 1024.0 * own


def _apart(way: str) -> Any:
    """Measured in a process of its own, as Ray is started for each."""
    with tempfile.TemporaryDirectory(prefix="semigrid-bench-") as folder:
        command = [sys.executable, "-m", "tests.bench.scale", way, folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.decode().splitlines()[-1])


if __name__ == "__main__":
    ways = {"reports": reports, "memory": memory}
    print(json.dumps(ways[sys.argv[1]](sys.argv[2])))
