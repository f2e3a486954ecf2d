"""The quickstart as a job on a bucket that fails, dataset and storage: ``make bucket-test``.

A head and two nodes with token authentication, and a real S3 server, moto's, all on this machine.
The job's process is killed, and the same command submits it again; it is killed once more, and the
command does so by itself; the server refuses connections for half a minute, in which a node dies;
then it is silent for as long. The table must be that of a run on this machine alone, and no secret
may stand in any file of the cluster or any object of the bucket. About ten minutes on two cores.
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
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path

import yaml
from tests.cluster.__main__ import LOCAL_SECONDS, compare, semigrid
from tests.cluster.nodes import Nodes, cluster
from tests.cluster.restarts import tell
from tests.helpers.buckets import BUCKET, KEY, SECRET, Forwarder, S3Server, credentials, s3_server

from semigrid.data.catalog import open_dataset
from semigrid.data.schema import MANIFEST
from semigrid.data.storage.storage import PATIENCE

SECONDS = 1500.0
AWAY_SECONDS, PATIENCE_SECONDS = 30.0, 150
FOLDER = "experiments"
RESULTS = f"{FOLDER}/quickstart"
DATASET = f"s3://{BUCKET}/digits"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.bucket", description=__doc__)
    parser.add_argument("--expected", type=Path, help="storage of a finished local run")
    parser.add_argument("--folder", type=Path, help="an empty one, to keep what is left")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="semigrid-bucket-") as temporary:
        folder = options.folder or Path(temporary)
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        quickstart = Path(str(files("semigrid.grid.experiments").joinpath("quickstart.yaml")))
        experiment = folder / "quickstart.yaml"
        places = {"storage": f"s3://{BUCKET}/{FOLDER}", "datasets": {"digits": DATASET}}
        content = {**yaml.safe_load(quickstart.read_text()), **places}
        experiment.write_text(yaml.safe_dump(content, sort_keys=False))
        expected = options.expected or folder / "local"
        local = semigrid("run", str(quickstart), "--storage", str(expected))
        subprocess.run(local, check=True, timeout=LOCAL_SECONDS, stdout=subprocess.DEVNULL)
        tell("run on this machine alone")
        problems = []
        with s3_server() as server:
            _upload_digits(server)
            forwarder = Forwarder(server.port)
            away = credentials(forwarder.port)
            # what a process leaves behind for a moment is searched, too
            environment = away | {"TMPDIR": str(folder / "tmp"), PATIENCE: f"{PATIENCE_SECONDS}"}
            with cluster(folder, workers=2, environment=environment) as nodes:
                job = Job(nodes, experiment, server)
                try:
                    _killed_and_submitted_again(job)
                    problems += _secrets(folder, server, nodes.token)
                    _killed_while_followed(job)
                    _server_away(job, forwarder)
                    _finishes(job)
                finally:
                    job.close()
                problems += _secrets(folder, server, nodes.token)
            verbs = Counter(line.split(b" ")[0].decode() for line in forwarder.requests)
            tell(", ".join(f"{count} {verb}" for verb, count in verbs.most_common()))
            os.environ.update(away)  # as on a laptop: no cluster is there any more
            problems += compare(experiment, expected, None)
            _is_looked_at(experiment, server)
    for problem in problems:
        print(problem)
    tell(
        "the table is the same, no secret is told" if not problems else f"{len(problems)} problems"
    )
    sys.exit(bool(problems))


class Job:
    """The experiment on the cluster, and the commands that submit and follow it."""

    def __init__(self, nodes: Nodes, experiment: Path, server: S3Server):
        self.nodes, self.server = nodes, server
        self.command = semigrid("submit", str(experiment), "--address", nodes.url)
        self.deadline = time.monotonic() + SECONDS
        self.follower: subprocess.Popen[bytes] | None = None

    def follow(self, log: str, *options: str) -> None:
        self.log = self.nodes.folder / log
        with self.log.open("wb") as file:
            self.follower = subprocess.Popen(
                [*self.command, *options], env=self.nodes.environment, stdout=file, stderr=file
            )

    def ends(self) -> tuple[int, str]:
        """The exit code of the command that follows, and what it said."""
        assert self.follower is not None
        code = self.follower.wait(timeout=self.deadline - time.monotonic())
        return code, self.log.read_text()

    def close(self) -> None:
        if self.follower is not None and self.follower.poll() is None:
            self.follower.kill()

    def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            assert time.monotonic() < self.deadline, self.log.read_text()
            assert self.follower is None or self.follower.poll() is None, self.log.read_text()
            time.sleep(0.5)

    def until_measured(self, cells: int) -> None:
        self.until(lambda: len(self.server.names(f"{RESULTS}/predictions/")) >= cells)

    def until_trained(self, trials: int) -> None:
        self.until(lambda: self.trained() >= trials)

    def trained(self) -> int:
        names = self.server.names(f"{RESULTS}/ledger/")
        records = (json.loads(self.server.read(name)) for name in names)
        return sum(record["status"] == "finished" for record in records)

    def holder(self) -> Mapping[str, object]:
        """The process that holds the lock."""
        found: dict[str, object] = json.loads(self.server.read(f"{RESULTS}/lock.json"))
        return {name: found[name] for name in ("pid", "born")}

    def kill(self) -> Mapping[str, object]:
        """The process that holds the lock, and with it the driver that it supervises."""
        holder = self.holder()
        os.kill(int(str(holder["pid"])), signal.SIGKILL)
        return holder


def _upload_digits(server: S3Server) -> None:
    """The same dataset, so that its trainings are the same."""
    digits = open_dataset("builtin://digits")
    for file in [MANIFEST, *(shard.file for shard in digits.manifest.shards)]:
        server.client.put_object(
            Bucket=BUCKET, Key=f"digits/{file}", Body=digits.storage.read(file)
        )


def _killed_and_submitted_again(job: Job) -> None:
    job.follow("first.log", "--retries", "0")
    job.until_measured(1)
    job.kill()
    code, said = job.ends()
    assert code == 1 and "was killed, or its machine was lost" in said, said
    assert "finished trials are kept; to resume: semigrid submit" in said, said
    tell("the job's process killed; the command that followed it said so and ended (--retries 0)")
    job.follow("second.log")
    job.until(lambda: "submitted" in job.log.read_text())
    tell("the same command again")


def _killed_while_followed(job: Job) -> None:
    before = job.trained()
    job.until_trained(before + 2)
    killed = job.kill()
    tell("the job's process killed again")
    # the new process takes the lock over
    job.until(lambda: job.server.names(f"{RESULTS}/lock.json") != [] and job.holder() != killed)
    tell("started again by the command that follows it")
    job.until_trained(before + 4)


def _server_away(job: Job, forwarder: Forwarder) -> None:
    holder, before = job.holder(), job.trained()
    forwarder.close()
    time.sleep(AWAY_SECONDS / 2)
    job.nodes.kill(2)
    time.sleep(AWAY_SECONDS / 2)
    job.until(lambda: True)  # it is still followed
    assert job.trained() == before
    forwarder.open()
    tell(f"the server refused connections for {AWAY_SECONDS:g} s; a node died meanwhile")
    job.nodes.start_node()
    job.until_trained(before + 2)
    before = job.trained()
    job.server.process.send_signal(signal.SIGSTOP)
    time.sleep(AWAY_SECONDS)
    job.server.process.send_signal(signal.SIGCONT)
    tell(f"the server was silent for {AWAY_SECONDS:g} s")
    job.until_trained(before + 2)
    assert job.holder() == holder, "another process is at work"
    tell("the same process goes on")


def _finishes(job: Job) -> None:
    code, said = job.ends()
    assert code == 0 and "report: " in said, said
    assert said.count(": submitted") == 2, said
    assert f"waiting for it, up to {PATIENCE_SECONDS} seconds" in said, said
    tell("finished")
    job.follow("third.log")
    code, said = job.ends()
    assert code == 0 and "nothing to train" in said, said
    tell("submitted once more: nothing to train")


def _is_looked_at(experiment: Path, server: S3Server) -> None:
    """By the commands that need nothing but the storage."""
    page = f"{RESULTS}/report.html"
    server.client.delete_object(Bucket=BUCKET, Key=page)
    said = {}
    for name in ("status", "answer", "report"):
        done = subprocess.run(semigrid(name, str(experiment)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said[name] = done.stdout + done.stderr
    assert f"s3://{BUCKET}/{page}" in said["report"], said
    assert b"</html>" in server.read(page)
    tell("status, answer and report, from the bucket alone")


def _secrets(folder: Path, server: S3Server, token: str) -> list[str]:
    """Where a secret stands, of all files and objects, but for the token's own."""
    secrets = {"the token": token, "the key's id": KEY, "the key": SECRET}
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "token"]
    names = server.names()
    contents = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # the cluster is at work
            contents.append((str(path), path.read_bytes()))
    contents += [(f"s3://{BUCKET}/{name}", server.read(name)) for name in names]
    tell(f"searched {len(paths)} files and {len(names)} objects for secrets")
    return [
        f"{where}: {what} stands in it"
        for where, content in contents
        for what, secret in secrets.items()
        if secret.encode() in content
    ]


if __name__ == "__main__":
    main()
