"""Thousands of trials that cost nothing: what the machinery itself takes, beside Tune's own."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from tests.helpers.scores import alike

from semigrid.trainers.layout import predictions_file, weights_file

CELLS, TRIALS = 20, 2000
# Trials that are let go by before memory counts: caches and pools have filled by then.
WARM_UP = 300


def quality(params: dict[str, float]) -> float:
    """What a trial with these hyper-parameters scores, in per cent."""
    return 90 - 1e4 * abs(params["base_lr"] - 4e-4) - 50 * abs(params["weight_decay"] - 0.07)


def experiment(folder: str, trials: int) -> str:
    """The file of a grid of ``CELLS`` independent cells."""
    file = Path(folder) / "trials.yaml"
    content = {
        "name": "trials",
        "datasets": {"digits": "builtin://digits"},
        "models": {
            "vit": {
                "backbone": "vit_tiny_patch16_224",
                "method": "finetune",
                "pretrained": False,
                "recipe": {"img_size": 16, "steps": 100},
            }
        },
        "grid": [{"model": "vit", "labels": [f"{100 * (i + 1) // CELLS}%" for i in range(CELLS)]}],
        "search": {"trials": trials // CELLS, "wave": 4},
        "storage": folder,
    }
    file.write_text(yaml.safe_dump(content))
    return str(file)


def trivial(config: dict[str, Any]) -> None:
    """A job that leaves all that a real one leaves, at once."""
    from ray import tune

    from semigrid.grid.study.ledger import Ledger, start_record
    from semigrid.trainers.trial.job import TrialJob

    job = TrialJob.model_validate_json(config["job"])
    spec, place = job.spec, job.place
    ledger = Ledger(place.storage)
    if job.kind == "evaluate":
        record = ledger.read(spec.id)
        assert record is not None
        place.storage.write(predictions_file(spec.id), b"predictions")
        record.test = record.val
    else:
        record = start_record(spec, job.cell)
        ledger.write(record)
        recipe = spec.recipe.model_dump()
        score = quality({name: recipe[name] for name in ("base_lr", "weight_decay")})
        record.val = alike({"acc1": score, "acc5": 100.0, "ce": 1.0})
        evaluation = {"step": 100.0, "student_acc1": score, "student_ce": 1.0}
        record.history = [alike(evaluation | {"ema_acc1": score, "ema_ce": 1.0})]
        place.storage.write(weights_file(spec.id), b"weights")
        record.status, record.finished_at = "finished", time.time()
    ledger.write(record)
    tune.report({"step": 100, **record.history[0]})
    tune.report({"step": 0, "failure": ""})


def ours(folder: str, trials: int) -> dict[str, float]:
    """The whole machinery in this process: seconds, and the bytes that a trial adds to it."""
    from semigrid.data.storage import open_storage
    from semigrid.grid.experiment.load import load_experiment
    from semigrid.grid.run.tune import run_plan
    from semigrid.grid.status.live import LiveView
    from semigrid.grid.study.ledger import Ledger
    from semigrid.grid.study.plan import Plan
    from semigrid.grid.study.rules import StudyRules
    from semigrid.grid.study.scheduler import Scheduler
    from semigrid.grid.study.search import Suggestions
    from semigrid.grid.trackers.create import create_trackers

    loaded = load_experiment(experiment(folder, trials))
    storage = open_storage(loaded.folder)
    storage.write("experiment.yaml", loaded.text.encode())
    memory: list[int] = []

    class View(LiveView):
        def completed(self, *args: Any) -> None:
            super().completed(*args)
            memory.append(resident())

    started = time.monotonic()
    ledger = Ledger(open_storage(storage.uri, patience=60))
    suggest = Suggestions(ledger.storage, writes=True).suggest
    rules = StudyRules(ledger.has_weights, suggest=suggest)
    scheduler = Scheduler(rules.assess(Plan(loaded), {}), rules)
    trackers = create_trackers(scheduler.study, ledger.storage, print)
    with View(Console(stderr=True, quiet=True), scheduler.study, ledger.storage) as view:
        run_plan(scheduler, ledger, view, threading.Event(), trackers, trivial)
    trackers.close()
    took = time.monotonic() - started
    assert len(scheduler.trained) == trials
    warm = min(WARM_UP, len(memory) // 2)
    return {"seconds": took, "bytes": (memory[-1] - memory[warm]) / (len(memory) - 1 - warm)}


def plain(folder: str, trials: int) -> dict[str, float]:
    """Tune as its guide shows it: its own loggers, processes kept, one study for all trials."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    import optuna
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(config: dict[str, float]) -> None:
        tune.report({"acc1": quality(config)})

    started = time.monotonic()
    ray.init(address="local", log_to_driver=False, logging_level="ERROR")
    space = {
        "base_lr": tune.loguniform(2.5e-4, 1e-3),
        "weight_decay": tune.loguniform(0.025, 0.1),
    }
    tuner = tune.Tuner(
        tune.with_resources(objective, {"CPU": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(metric="acc1", mode="max", seed=0),
            num_samples=trials,
            max_concurrent_trials=int(ray.cluster_resources()["CPU"]),
            metric="acc1",
            mode="max",
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="plain", storage_path=folder, verbose=0),
    )
    results = tuner.fit()
    took = time.monotonic() - started
    assert len(results) == trials and not results.errors
    ray.shutdown()
    return {"seconds": took, "bytes": 0.0}


def resident() -> int:
    """Bytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def trial_costs(trials: int = TRIALS) -> Iterator[tuple[str, str, str]]:
    """(what, found, goal) of the whole machinery over ``trials`` trials that cost nothing."""
    with tempfile.TemporaryDirectory(prefix="semigrid-bench-") as folder:
        by_us, by_tune = (_apart(way, f"{folder}/{way}", trials) for way in ("ours", "plain"))
        ratio = by_us["seconds"] / by_tune["seconds"]
        times = f"{by_us['seconds']:.0f} s and {by_tune['seconds']:.0f} s, ratio {ratio:.2f}"
        yield f"{trials:,} trials, semigrid and Tune with one OptunaSearch", times, "at most 1.25"
        yield "memory that a trial adds to the driver", f"{by_us['bytes'] / 1e3:.0f} kB", "200 kB"
        command = [sys.executable, "-m", "semigrid", "run", f"{folder}/ours/trials"]
        started = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        yield "run on the finished ledger", f"{time.monotonic() - started:.1f} s", "10 s"


def _apart(way: str, folder: str, trials: int) -> dict[str, float]:
    """One way in a process of its own."""
    os.makedirs(folder)
    command = [sys.executable, "-m", "tests.bench.trials", way, folder, str(trials)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout.decode().splitlines()[-1])
    return found


if __name__ == "__main__":
    ways = {"ours": ours, "plain": plain}
    print(json.dumps(ways[sys.argv[1]](sys.argv[2], int(sys.argv[3]))))
