"""The quickstart as a job on a real cluster of three nodes on this machine: ``make cluster-test``.

It is submitted, followed, left, followed again; a node dies in the middle; the table must be that
of a run on this machine alone. About a quarter of an hour on two cores.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from tests.cluster.nodes import Nodes, cluster

LOCAL_SECONDS, CLUSTER_SECONDS = 900, 1500


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--expected", type=Path, help="storage of a finished local run")
    parser.add_argument("--experiment", type=Path, help="a file instead of the quickstart")
    parser.add_argument("--folder", type=Path, help="an empty one, to keep what is left")
    options = parser.parse_args()
    quickstart = Path(str(files("semigrid.grid.experiments").joinpath("quickstart.yaml")))
    experiment = options.experiment or quickstart
    with tempfile.TemporaryDirectory(prefix="semigrid-cluster-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        expected = options.expected or folder / "local"
        local = semigrid("run", str(experiment), "--storage", str(expected))
        subprocess.run(local, check=True, timeout=LOCAL_SECONDS, stdout=subprocess.DEVNULL)
        print("run on this machine alone", flush=True)
        found = folder / "cluster"
        with cluster(folder, workers=2) as nodes:
            print(f"a head and two nodes, token authentication on, at {nodes.url}", flush=True)
            _submit(nodes, experiment, found)
        problems = compare(experiment, expected, found)
        problems += _secrets(folder, nodes.token)
    for problem in problems:
        print(problem)
    print("the table is the same" if not problems else f"{len(problems)} problems")
    sys.exit(bool(problems))


def semigrid(*words: str) -> list[str]:
    return [sys.executable, "-m", "semigrid", *words]


def _submit(nodes: Nodes, experiment: Path, storage: Path) -> None:
    command = semigrid("submit", str(experiment), "--storage", str(storage))
    command += ["--address", nodes.url]
    deadline = time.monotonic() + CLUSTER_SECONDS

    def follow(log: str) -> subprocess.Popen[bytes]:
        file = (nodes.folder / log).open("wb")
        return subprocess.Popen(command, env=nodes.environment, stdout=file, stderr=file)

    first = follow("first.log")
    _wait_for(storage, 1, deadline, first)
    first.send_signal(signal.SIGINT)
    code = first.wait(timeout=60)
    said = (nodes.folder / "first.log").read_text()
    assert code == 0 and "continues without this terminal" in said, said
    print("followed and left, the job goes on", flush=True)
    second = follow("second.log")
    _wait_for(storage, 3, deadline, second)
    said = (nodes.folder / "second.log").read_text()
    assert "already at work" in said, said
    nodes.kill(2)
    print("followed again, a node killed in the middle", flush=True)
    _wait_for(storage, 4, deadline, second)
    nodes.start_node()
    print("another node joined", flush=True)
    code = second.wait(timeout=deadline - time.monotonic())
    said = (nodes.folder / "second.log").read_text()
    assert code == 0 and "report: " in said, said
    third = follow("third.log")  # it is finished: this one finds nothing to train
    code = third.wait(timeout=240)
    said = (nodes.folder / "third.log").read_text()
    assert code == 0 and "nothing to train" in said, said


def _wait_for(storage: Path, cells: int, deadline: float, process: subprocess.Popen[bytes]) -> None:
    """Until so many cells are measured on test."""
    while sum(1 for _ in storage.glob("*/predictions/*")) < cells:
        assert time.monotonic() < deadline, f"{cells} cells are not finished in time"
        assert process.poll() is None, "the command that follows the job has ended"
        time.sleep(0.5)


def _table(experiment: Path, storage: Path | None) -> list[dict[str, Any]]:
    command = semigrid("table", str(experiment), "--json")
    command += [] if storage is None else ["--storage", str(storage)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in json.loads(shown)]


def compare(experiment: Path, expected: Path, found: Path | None) -> list[str]:
    """The cells that differ in two storages, the second the file's own if it is None."""
    pairs = zip(_table(experiment, expected), _table(experiment, found), strict=True)
    return [f"{one['cell']}: {two} instead of {one}" for one, two in pairs if one != two]


def _secrets(folder: Path, token: str) -> list[str]:
    """Files in which the token stands, but for its own."""
    return [
        f"{path}: the token stands in it"
        for path in folder.rglob("*")
        if path.is_file() and path.name != "token" and token.encode() in path.read_bytes()
    ]


if __name__ == "__main__":
    main()
