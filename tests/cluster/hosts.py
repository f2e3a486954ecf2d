"""A node that lacks the run's storage: ``python -m tests.cluster.hosts``, about a minute.

The node sees an empty disk of its own (in a mount namespace) where the others have the run's
folder. While it is there, a run starts nothing and names it; once it is gone, the same run
finishes. Exit code 77 where such namespaces are not allowed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.__main__ import semigrid
from tests.cluster.nodes import Nodes
from tests.experiments import experiment_text

SECONDS = 240.0
SKIPPED = 77
HIDING = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"']


class Hosts(Nodes):
    """Nodes of which some do not see a folder."""

    hidden: Path | None = None

    def _launch(self, command: list[str], log: str) -> None:
        hiding = [] if self.hidden is None else [*HIDING, str(self.hidden)]
        super()._launch([*hiding, *command], log)

    def start_node_without(self, folder: Path) -> int:
        self.hidden = folder
        try:
            return self.start_node()
        finally:
            self.hidden = None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.hosts", description=__doc__)
    parser.add_argument("--folder", type=Path, help="an empty one, to keep what is left")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="semigrid-hosts-") as temporary:
        folder = options.folder or Path(temporary)
        storage = folder / "storage"
        storage.mkdir(parents=True)
        if subprocess.run([*HIDING, str(storage), "true"], capture_output=True).returncode:
            print("not run: this machine does not allow mount namespaces")
            sys.exit(SKIPPED)
        _run_beside_a_node_without(folder, storage)


def _run_beside_a_node_without(folder: Path, storage: Path) -> None:
    experiment = folder / "small.yaml"
    cells = [{"model": "vit", "labels": ["50%"]}]
    experiment.write_text(experiment_text(grid=cells, search={"trials": 1, "wave": 1}))
    nodes = Hosts(folder)
    try:
        nodes.start_head()
        nodes.start_node()
        unfit = nodes.start_node_without(storage)
        _until(lambda: _alive(nodes) == 3)
        done = _run(nodes, experiment, storage)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("node ") == 1 and "cannot be read here" in done.stderr, done.stderr
        assert not list(storage.glob("*/ledger/*")), "something was started"
        print("refused, with the node named; nothing started", flush=True)
        nodes.kill(unfit)
        done = _run(nodes, experiment, storage)
        assert done.returncode == 0, done.stderr
        print("without that node the grid finishes")
    finally:
        nodes.close()


def _run(nodes: Hosts, experiment: Path, storage: Path) -> "subprocess.CompletedProcess[str]":
    command = semigrid("run", str(experiment), "--storage", str(storage))
    environment = nodes.environment | {"RAY_ADDRESS": f"127.0.0.1:{nodes.port}"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)


def _alive(nodes: Hosts) -> int:
    program = (
        "import ray; ray.init(log_to_driver=False, logging_level='ERROR'); "
        "print('alive', sum(node['Alive'] for node in ray.nodes()))"
    )
    environment = nodes.environment | {"RAY_ADDRESS": f"127.0.0.1:{nodes.port}"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("alive ")]
    return int(found[0]) if found else 0


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, "the nodes did not join in time"
        time.sleep(0.5)


if __name__ == "__main__":
    main()
