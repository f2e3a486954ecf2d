"""A job whose process is killed, then one whose head is replaced, while one command follows it.

``make restart-test``: a small grid on a head and a node on this machine, some three
minutes. The command that follows starts the job again each time, the grid goes on from its ledger,
and its table is that of a run without a cluster.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from tests.chaos.grid import EXPERIMENT, table_of
from tests.cluster.__main__ import semigrid
from tests.cluster.nodes import Nodes, cluster

SECONDS = 600
STARTED = time.monotonic()


def tell(what: str) -> None:
    print(f"{time.monotonic() - STARTED:5.0f} s: {what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.restarts", description=__doc__)
    parser.add_argument("--folder", type=Path, help="an empty one, to keep what is left")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="semigrid-restarts-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        experiment = folder / "restarts.yaml"
        experiment.write_text(yaml.safe_dump(small_grid(), sort_keys=False))
        local = semigrid("run", str(experiment), "--storage", str(folder / "local"))
        subprocess.run(local, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)
        tell("run on this machine alone")
        with cluster(folder, workers=1) as nodes:
            _is_refused_without_a_token(nodes, experiment, folder / "refused")
            _follow(nodes, experiment, folder / "cluster")
        expected = table_of(experiment, folder / "local")
        same = expected == table_of(experiment, folder / "cluster")
    tell("the table is the same" if same else "the table is another")
    sys.exit(not same)


def small_grid() -> dict[str, object]:
    """Four cells, some minutes: enough to be struck twice."""
    cells = [{"model": model, "labels": ["50%", "100%"]} for model in ("vit", "semi-vit")]
    models = {name: EXPERIMENT["models"][name] for name in ("vit", "semi-vit")}
    models["vit"] = {**models["vit"], "recipe": {**models["vit"]["recipe"], "steps": 1500}}
    return {**EXPERIMENT, "name": "restarts", "models": models, "grid": cells}


def _is_refused_without_a_token(nodes: Nodes, experiment: Path, storage: Path) -> None:
    run = semigrid("run", str(experiment), "--storage", str(storage))
    unset = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
    environment = {k: v for k, v in nodes.environment.items() if k not in unset}
    environment["RAY_ADDRESS"] = f"127.0.0.1:{nodes.port}"
    done = subprocess.run(run, env=environment, timeout=60, capture_output=True, text=True)
    assert done.returncode == 2 and "wants its token" in done.stderr, done.stderr
    tell("a run without the cluster's token is refused")


def _follow(nodes: Nodes, experiment: Path, storage: Path) -> None:
    command = semigrid("submit", str(experiment), "--storage", str(storage))
    log = nodes.folder / "follow.log"
    with log.open("wb") as file:
        follower = subprocess.Popen(
            [*command, "--address", nodes.url], env=nodes.environment, stdout=file, stderr=file
        )
    results = storage / "restarts"
    deadline = time.monotonic() + SECONDS

    def until_finished(trials: int) -> None:
        while _finished(results) < trials:
            assert time.monotonic() < deadline, log.read_text()
            assert follower.poll() is None, log.read_text()
            time.sleep(0.2)

    try:
        until_finished(1)
        _kill_driver(results)
        tell("the job's process killed")
        until_finished(3)
        nodes.kill(0)
        _kill_driver(results)  # it ran on the head, in a session of its own
        tell("the head killed")
        time.sleep(5)
        nodes.kill(1)  # without a head, a node ends too, but in its own time
        nodes.start_head()
        nodes.start_node()
        tell("a new head and a new node")
        code = follower.wait(timeout=deadline - time.monotonic())
    finally:
        if follower.poll() is None:
            follower.kill()
    said = log.read_text()
    assert code == 0 and "report: " in said, said
    assert "was killed, or its machine was lost" in said, said
    assert "cannot be reached" in said and "whose head was replaced" in said, said


def _finished(results: Path) -> int:
    records = (json.loads(file.read_text()) for file in results.glob("ledger/*.json"))
    return sum(record["status"] == "finished" for record in records)


def _kill_driver(results: Path) -> None:
    """The process that holds the lock, and with it the driver that it supervises."""
    pid = json.loads((results / "lock.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
