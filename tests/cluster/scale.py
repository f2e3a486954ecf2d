"""A grid on a cluster that grows from nothing and shrinks to nothing again: ``make scale-test``.

Ray's own fake provider starts real raylets on this machine as its autoscaler asks for nodes of
cluster.yaml's types: same names, limits and priorities. Only their CPUs are fewer, 2 for 48, so
that trainings of one CPU, with as many threads as in the run that they are compared with, need more
than one node; the GPUs are numbers that nothing asks for. First a run meets a node that lacks its
storage and goes on without it; it is killed, and what it asked for must go with it; the next run
goes on, with new nodes, of which one is lost.

It runs alone: on two cores a second Ray beside it would make it late. Four to eight minutes for
each of three autoscalers: Ray's two on the head, and one in a process of its own, as KubeRay has
it, of which a run cannot see what it may start.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import yaml
from tests.cluster.__main__ import compare, semigrid
from tests.cluster.nodes import Nodes
from tests.helpers.experiments import experiment_text

CLUSTER_FILE = Path(__file__).parent.parent.parent / "cluster.yaml"
CPUS = {48: 2, 0: 0}
IDLE_MINUTES = 0.25
VERSIONS = ["v2", "v1", "apart"]
PHASE_SECONDS = 600.0
# by these the fake provider knows the head, and each version of the autoscaler its instance
HEAD_ID, HEAD_TYPE = "f" * 51 + "00000", "ray.head.default"


class GrowingNodes(Nodes):
    """A head whose autoscaler starts nodes of cluster.yaml's types on this machine."""

    def __init__(self, folder: Path, version: str):
        super().__init__(folder)
        self.environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        if version != "v1":
            self.environment |= {
                "RAY_enable_autoscaler_v2": "1",
                "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
            }

    def start_head(self) -> None:
        config = self.folder / "autoscaler.yaml"
        config.write_text(yaml.safe_dump(self._config()))
        self._start(*self._options(), f"--autoscaling-config={config}")
        self._wait()

    def _options(self) -> list[str]:
        ports = [f"--port={self.port}", f"--dashboard-port={self.dashboard}"]
        return ["--head", "--node-ip-address=127.0.0.1", *ports, "--num-cpus=0"]

    def start_apart(self) -> None:
        """A head without an autoscaler, and one beside it, as in a container of Kubernetes."""
        config = self.folder / "autoscaler.yaml"
        config.write_text(yaml.safe_dump(self._config()))
        self._start(*self._options(), "--no-monitor")
        self._wait()
        program = (
            "from ray.autoscaler.v2.monitor import AutoscalerMonitor\n"
            "from ray.autoscaler.v2.instance_manager.config import FileConfigReader\n"
            f"reader = FileConfigReader({str(config)!r})\n"
            f"AutoscalerMonitor('127.0.0.1:{self.port}', reader, monitor_ip='127.0.0.1').run()\n"
        )
        self._launch([sys.executable, "-c", program], "autoscaler.log")

    def _config(self) -> dict[str, Any]:
        file = yaml.safe_load(CLUSTER_FILE.read_text())
        types = {}
        for name, kind in file["available_node_types"].items():
            cpus = CPUS[kind["resources"]["CPU"]]
            scaled = {"resources": {**kind["resources"], "CPU": cpus}, "node_config": {}}
            types[HEAD_TYPE if name == file["head_node_type"] else name] = {**kind, **scaled}
        return {
            "cluster_name": file["cluster_name"],
            "max_workers": file["max_workers"],
            "idle_timeout_minutes": IDLE_MINUTES,
            "head_node_type": HEAD_TYPE,
            "available_node_types": types,
            # its class by name: the defaults of type fake_multinode are not in Ray's wheel
            "provider": {
                "type": "external",
                "module": "ray.autoscaler._private.fake_multi_node.node_provider"
                ".FakeMultiNodeProvider",
                "gcs_address": f"127.0.0.1:{self.port}",
                "head_node_id": HEAD_ID,
                "launch_multiple": True,
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            # nothing is installed, and no command run, on a machine that is this one
            **{name: {} for name in ("auth", "docker", "file_mounts")},
            **{name: [] for name in file if name.endswith("_commands")},
            "initialization_commands": [],
            "cluster_synced_files": [],
            "file_mounts_sync_continuously": False,
        }

    def workers(self) -> list[str]:
        """The ids of the nodes that are there besides the head."""
        request = Request(
            f"{self.url}/api/v0/nodes?limit=1000",
            headers={"Authorization": f"Bearer {self.token}"},
        )
        with urlopen(request, timeout=30) as answer:
            nodes = json.load(answer)["data"]["result"]["result"]
        alive = (n for n in nodes if n["state"] == "ALIVE" and not n["is_head_node"])
        return [node["node_id"] for node in alive]

    def lose(self, node_id: str) -> None:
        """Kills a node's raylet, with which its workers die, as when a spot machine is taken."""
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                command = (process / "cmdline").read_text()
                if f"--node_id={node_id}" in command and str(self.folder) in command:
                    os.kill(int(process.name), signal.SIGKILL)


class Course:
    """Prints what happens, with the seconds since it began."""

    def __init__(self, nodes: GrowingNodes):
        self.nodes, self._began, self._last, self.most = nodes, time.monotonic(), 0, 0
        self.log = ""

    def say(self, words: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {words}", flush=True)

    def look(self) -> int:
        """The nodes there are now; a change is printed, and what the run first says of nodes."""
        path = self.nodes.folder / self.log
        for line in path.read_text().splitlines() if self.log else ():
            if line.startswith("asked the cluster"):
                self.say(line)
                self.log = ""
                break
        count = len(self.nodes.workers())
        if count != self._last:
            self.say(f"{count} nodes")
        self._last, self.most = count, max(self.most, count)
        return count

    def until_empty(self) -> None:
        deadline = time.monotonic() + PHASE_SECONDS
        while self.look():
            assert time.monotonic() < deadline, "nodes without work are still there"
            time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.scale", description=__doc__)
    parser.add_argument("--autoscaler", choices=VERSIONS, help="one of Ray's, not all")
    parser.add_argument("--folder", type=Path, help="an empty one, to keep what is left")
    options = parser.parse_args()
    problems = []
    with tempfile.TemporaryDirectory(prefix="semigrid-scale-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        experiment = folder / "small.yaml"
        # enough to be killed, and to lose a node, and still have something to do
        experiment.write_text(experiment_text(search={"trials": 6, "wave": 2}))
        local = semigrid("run", str(experiment), "--storage", str(folder / "local"))
        subprocess.run(local, check=True, timeout=PHASE_SECONDS, stdout=subprocess.DEVNULL)
        print("run on this machine alone", flush=True)
        for version in [options.autoscaler] if options.autoscaler else VERSIONS:
            print(f"Ray's autoscaler {version}", flush=True)
            (folder / version).mkdir()
            problems += _scale(folder / version, version, experiment)
            problems += compare(experiment, folder / "local", folder / version / "found")
    for problem in problems:
        print(problem)
    print("the tables are the same" if not problems else f"{len(problems)} problems")
    sys.exit(bool(problems))


def _scale(folder: Path, version: str, experiment: Path) -> list[str]:
    """Runs the grid on a cluster without nodes; what was not as it must be."""
    nodes = GrowingNodes(folder, version)
    storage = folder / "found"
    try:
        nodes.start_apart() if version == "apart" else nodes.start_head()
        course = Course(nodes)
        assert course.look() == 0
        killed = _start(course, experiment, storage, "killed.log")
        _first_node_is_unfit(storage, course, killed)
        _until_trained(storage, course, killed)
        killed.kill()  # its driver dies with it
        killed.wait()
        course.say("it is killed")
        course.until_empty()
        run = _start(course, experiment, storage, "run.log")
        deadline = time.monotonic() + PHASE_SECONDS
        while course.look() < 2:
            assert time.monotonic() < deadline and run.poll() is None, "no two nodes came"
            time.sleep(0.5)
        before = course.look()
        nodes.lose(nodes.workers()[0])
        course.say("a node is lost")
        while course.look() >= before and run.poll() is None:
            time.sleep(0.5)
        course.most = 0
        while run.poll() is None:
            assert time.monotonic() < deadline, "the grid is not finished in time"
            course.look()
            time.sleep(0.5)
        course.say(f"it ends with exit code {run.returncode}")
        said = (folder / "run.log").read_text()
        course.until_empty()
    finally:
        nodes.close()
    problems = [] if run.returncode == 0 else [f"{version}: {said}"]
    if course.most < 2:
        problems.append(f"{version}: after a node was lost, {course.most} at most")
    if "asked the cluster for" not in said:
        problems.append(f"{version}: nothing is said of what was asked for: {said}")
    return problems


def _first_node_is_unfit(storage: Path, course: Course, run: subprocess.Popen[bytes]) -> None:
    """Until it is named, the run's folder looks to nodes like another one."""
    told, log = storage / "small" / ".nodes", course.nodes.folder / "killed.log"
    deadline = time.monotonic() + PHASE_SECONDS

    def until(holds: Callable[[], bool]) -> None:
        while not holds():
            assert time.monotonic() < deadline and run.poll() is None, log.read_text()
            course.look()
            time.sleep(0.1)

    until(lambda: "asked the cluster for" in log.read_text())  # the head has answered
    content = told.read_bytes()
    told.write_bytes(b"another run's")
    until(lambda: "is given no work" in log.read_text())
    told.write_bytes(content)
    course.say("a node that lacks the run's storage is named; the run goes on without it")


def _start(course: Course, experiment: Path, storage: Path, log: str) -> subprocess.Popen[bytes]:
    nodes = course.nodes
    environment = nodes.environment | {"RAY_ADDRESS": f"127.0.0.1:{nodes.port}"}
    command = semigrid("run", str(experiment), "--storage", str(storage))
    file = (nodes.folder / log).open("wb")
    course.say("a run starts")
    course.log = log
    return subprocess.Popen(command, env=environment, stdout=file, stderr=file)


def _until_trained(storage: Path, course: Course, run: subprocess.Popen[bytes]) -> None:
    """Waits for the first weights of any trial."""
    deadline = time.monotonic() + PHASE_SECONDS
    while not any(storage.glob("*/weights/*")):
        assert time.monotonic() < deadline, "no trial is finished in time"
        assert run.poll() is None, "the run has ended"
        course.look()
        time.sleep(0.5)


if __name__ == "__main__":
    main()
