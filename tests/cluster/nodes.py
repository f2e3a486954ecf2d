"""A Ray cluster of several nodes on one machine, each a real raylet, with token authentication."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.request import Request, urlopen

STORE_BYTES = 200 * 2**20
START_SECONDS = 90.0


class Nodes:
    """Starts nodes and kills them; ``environment`` is what clients of the cluster need.

    Nodes and clients get the one that is given besides this process's own.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
    ):
        self.folder, self.address = folder, address
        token = folder / "token"
        token.touch(mode=0o600)
        self.token = secrets.token_hex(32)
        token.write_text(self.token)
        self.port, self.dashboard = free_port(), free_port()
        self.environment = {
            **os.environ,
            **(environment or {}),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONWARNINGS": "ignore",
            # a job's command is looked for where that of `ray start` was
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.environment.pop("RAY_ADDRESS", None)
        self._nodes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.dashboard}"

    def start_head(self) -> None:
        """Without CPUs for trials, as the head of a cluster of spot machines has none."""
        self._start(
            "--head",
            f"--port={self.port}",
            f"--dashboard-port={self.dashboard}",
            "--num-cpus=0",
        )
        self._wait()

    def start_node(self) -> int:
        """Joins a node with one CPU; its number."""
        self._start(f"--address={self.address}:{self.port}", "--num-cpus=1")
        return len(self._nodes) - 1

    def _start(self, *options: str) -> None:
        ray = Path(sys.executable).with_name("ray")
        command = [str(ray), "start", *options, "--num-gpus=0", "--block"]
        command += [f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats"]
        # its own, as on a machine of its own: a node that joins unpacks a job's files anew
        command += [f"--temp-dir={self.folder / f'ray-{len(self._nodes)}'}"]
        self._launch(command, f"node-{len(self._nodes)}.log")

    def _launch(self, command: list[str], log: str) -> None:
        file = (self.folder / log).open("wb")
        self._nodes.append(
            subprocess.Popen(
                command,
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        )

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        request = Request(
            f"{self.url}/api/jobs/", headers={"Authorization": f"Bearer {self.token}"}
        )
        while True:
            with contextlib.suppress(OSError), urlopen(request, timeout=5):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the head did not start: see {self.folder}")
            time.sleep(0.5)

    def kill(self, number: int) -> None:
        """All processes of a node at once, as when a machine is lost."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._nodes[number].pid, signal.SIGKILL)
        self._nodes[number].wait()

    def close(self) -> None:
        for number in reversed(range(len(self._nodes))):
            self.kill(number)


@contextlib.contextmanager
def cluster(
    folder: Path, workers: int, environment: Mapping[str, str] | None = None
) -> Iterator[Nodes]:
    """A head and so many nodes with one CPU each, all gone at the end."""
    nodes = Nodes(folder, environment)
    try:
        nodes.start_head()
        for _ in range(workers):
            nodes.start_node()
        yield nodes
    finally:
        nodes.close()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
