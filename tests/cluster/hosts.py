"""Hosts with addresses and names of their own: ``make hosts-test``, some eight minutes.

A head and workers in network namespaces on one bridge. One worker sees an empty disk of its own (in
a mount namespace) where the others have the run's folder: a run starts nothing while it is there,
and names it. Without it the grid is submitted, with groups of two workers over two hosts. One of
those is cut off for a minute, in which it trains on alone with the storage in its reach; the one
without the storage joins again meanwhile, and is given no work. The table must be that of a run on
this machine alone. Exit code 77 where such namespaces are not allowed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from tests.chaos.grid import EXPERIMENT, PAIR, records_of, table_of
from tests.cluster.__main__ import semigrid
from tests.cluster.nodes import Nodes
from tests.cluster.restarts import tell

SECONDS = 600.0
CUT_SECONDS = 60.0
SKIPPED = 77
BRIDGE, NETWORK, LAPTOP = "semigrid0", "10.77.0", 254
NAMING = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"']
HIDING = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"']
# a host that is gone is noticed in seconds, not in half a minute
HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


class Hosts(Nodes):
    """Nodes on hosts of their own, the head the first. Some do not see a folder."""

    def __init__(self, folder: Path):
        super().__init__(folder, HEALTH, address=f"{NETWORK}.1")
        self._hidden: Path | None = None

    def start_head(self) -> None:
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{NETWORK}.{LAPTOP}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        super().start_head()

    def _launch(self, command: list[str], log: str) -> None:
        number = len(self._nodes) + 1
        name, address = _name(number), f"{NETWORK}.{number}"
        _ip("netns", "add", name)
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", name, "master", BRIDGE, "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", name, "link", "set", device, "up")
        command = [*command, f"--node-ip-address={address}"]
        if number == 1:
            command += [f"--dashboard-host={address}"]
        hiding = [] if self._hidden is None else [*HIDING, str(self._hidden)]
        super()._launch([*self.on_host(number - 1), *NAMING, name, *hiding, *command], log)

    @staticmethod
    def on_host(number: int) -> list[str]:
        """What is put before a command that is to run on the node's host."""
        return ["ip", "netns", "exec", _name(number + 1)]

    def start_node_without(self, folder: Path) -> int:
        self._hidden = folder
        try:
            return self.start_node()
        finally:
            self._hidden = None

    def cut_off(self, number: int) -> None:
        _ip("link", "set", _name(number + 1), "down")

    def connect(self, number: int) -> None:
        _ip("link", "set", _name(number + 1), "up")

    def close(self) -> None:
        super().close()
        for number in range(len(self._nodes) + 1):  # the last one may have been begun
            _ip("netns", "del", _name(number + 1), check=False)
        _ip("link", "del", BRIDGE, check=False)


def _name(number: int) -> str:
    return f"semigrid-{number}"


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, stderr=None if check else subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.hosts", description=__doc__)
    parser.add_argument("--folder", type=Path, help="an empty one, to keep what is left")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="semigrid-hosts-") as temporary:
        folder = options.folder or Path(temporary)
        storage = folder / "storage"
        storage.mkdir(parents=True)
        if not _are_allowed(storage):
            print("not run: this machine does not allow network and mount namespaces")
            sys.exit(SKIPPED)
        experiment = folder / "hosts.yaml"
        experiment.write_text(yaml.safe_dump(_grid(), sort_keys=False))
        local = semigrid("run", str(experiment), "--storage", str(folder / "local"))
        subprocess.run(local, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)
        tell("run on this machine alone")
        hosts = Hosts(folder)
        try:
            _is_refused_beside_a_host_without(hosts, experiment, storage)
            _finishes_with_one_cut_off(hosts, experiment, storage)
        finally:
            hosts.close()
        same = table_of(experiment, folder / "local") == table_of(experiment, storage)
    tell("the table is the same" if same else "the table is another")
    sys.exit(not same)


def _are_allowed(folder: Path) -> bool:
    network = ["unshare", "--net", "--uts", "sh", "-c", f"ip link add {BRIDGE} type bridge"]
    hiding = [*HIDING, str(folder), "true"]
    tries = (subprocess.run(each, capture_output=True) for each in (network, hiding))
    return all(tried.returncode == 0 for tried in tries)


def _grid() -> dict[str, object]:
    """Groups of two, and single workers beside them."""
    pair = EXPERIMENT["models"][PAIR]
    models = {**EXPERIMENT["models"], PAIR: {**pair, "recipe": {**pair["recipe"], "steps": 600}}}
    cells = [
        {"model": PAIR, "labels": ["100%"]},
        {"model": "semi-pair", "labels": ["100%"]},
        {"model": "vit", "labels": ["50%", "100%"]},
    ]
    models.pop("semi-vit")
    return {**EXPERIMENT, "name": "chaos", "models": models, "grid": cells}


def _is_refused_beside_a_host_without(hosts: Hosts, experiment: Path, storage: Path) -> None:
    hosts.start_head()
    hosts.start_node()
    hosts.start_node()
    unfit = hosts.start_node_without(storage)
    _until(lambda: _alive(hosts) == 4)
    run = semigrid("run", str(experiment), "--storage", str(storage))
    environment = hosts.environment | {"RAY_ADDRESS": f"{hosts.address}:{hosts.port}"}
    done = subprocess.run(
        [*hosts.on_host(0), *run], env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 2, done.stderr
    named = f"node {NETWORK}.{unfit + 1} ({_name(unfit + 1)}): storage: {storage}"
    assert done.stderr.count("node ") == 1 and named in done.stderr, done.stderr
    assert not list(storage.glob("*/ledger/*")), "something was started"
    hosts.kill(unfit)
    tell("refused, with the host named that lacks the storage; nothing started")


def _finishes_with_one_cut_off(hosts: Hosts, experiment: Path, storage: Path) -> None:
    log = hosts.folder / "follow.log"
    command = semigrid("submit", str(experiment), "--storage", str(storage))
    with log.open("wb") as file:
        follower = subprocess.Popen(
            [*command, "--address", hosts.url], env=hosts.environment, stdout=file, stderr=file
        )
    try:
        _until(lambda: _pair_has_a_checkpoint(storage), follower)
        hosts.cut_off(2)
        tell("a group trains over two hosts, and one of them is cut off")
        unfit = hosts.start_node_without(storage)
        time.sleep(CUT_SECONDS)
        hosts.connect(2)
        tell(f"it is back after {CUT_SECONDS:g} s")
        time.sleep(10)
        hosts.kill(2)  # Ray ends a node that was given up; here the host starts anew
        hosts.start_node()
        code = follower.wait(timeout=SECONDS)
    finally:
        if follower.poll() is None:
            follower.kill()
    said = log.read_text()
    assert code == 0 and "report: " in said, said
    where = f"node {NETWORK}.{unfit + 1} ({_name(unfit + 1)})"
    assert said.count(f"{where}: storage: {storage}") == 1, said
    assert f"{where} is given no work" in said, said
    records = records_of(storage).values()
    assert all(record.status == "finished" for record in records), said
    tell("the grid finished, without the host that lacks the storage")


def _pair_has_a_checkpoint(storage: Path) -> bool:
    records = records_of(storage).values() if (storage / "chaos").exists() else ()
    begun = [r.id for r in records if r.status == "started" and f"/{PAIR}/" in r.cell]
    return any(list((storage / "chaos" / "checkpoints" / i).glob("*.pt")) for i in begun)


def _alive(hosts: Hosts) -> int:
    program = (
        "import ray; ray.init(log_to_driver=False, logging_level='ERROR'); "
        "print('alive', sum(node['Alive'] for node in ray.nodes()))"
    )
    environment = hosts.environment | {"RAY_ADDRESS": f"{hosts.address}:{hosts.port}"}
    done = subprocess.run(
        [*hosts.on_host(0), sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
    )
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("alive ")]
    return int(found[0]) if found else 0


def _until(holds: Callable[[], bool], follower: "subprocess.Popen[bytes] | None" = None) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        assert follower is None or follower.poll() is None, "the command that follows has ended"
        time.sleep(0.5)


if __name__ == "__main__":
    main()
