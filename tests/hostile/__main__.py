"""Everything that strangers may send, at full size: ``make hostile``.

The collection by real commands under strace, every kind of source by every way in, a prediction and
its outputs, a run that another user of this machine looks at, and 500,000 damaged files for the
readers. Exit code 1 if anything was handled wrongly.
"""

import argparse
import contextlib
import functools
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray
from tests.helpers.buckets import BUCKET, KEY, S3Server, s3_server
from tests.helpers.buckets import SECRET as KEY_SECRET
from tests.hostile.attacks import ATTACKS, Attack
from tests.hostile.neighbour import wrong_openings
from tests.hostile.outcome import fault
from tests.hostile.place import SECONDS, Place, place
from tests.hostile.readers import readers
from tests.hostile.sources import SOUND, SOURCES, bad, good
from tests.hostile.tiny import TINY
from tests.hostile.traced import own_hosts

# What is checked, and the check, which gives what was wrong.
Check = tuple[str, Callable[[], str | None]]
# What Ray, matplotlib and the record of a commit start, whatever the images are.
OWN_PROGRAMS = ("/usr/bin/bash", "/usr/bin/uname", "/usr/bin/fc-list", "/usr/bin/git")
# Whom Ray's dashboard asks which cloud it is in; and a name server, port 53, for another of them.
RAYS_HOSTS = ("169.254.169.254",)
CHUNK = 10_000  # inputs of one process, which remembers what it has tried


def of_attack(attack: Attack) -> str | None:
    """An attack by a real command, and what it did."""
    with place() as at:
        done = at.semigrid(*attack.command(at.work))
        return fault(attack, done.code, done.output) or at.wrong_deeds(done)


def of_source(source: str, way: str, server: S3Server) -> str | None:
    """A source by a path, from a bucket or by HTTP: the dataset, and what is shown of it."""
    images = {**good(), **bad()}
    with place() as at, contextlib.ExitStack() as stack:
        args = SOURCES[source](at.work, images)
        hosts: set[tuple[str, int]] = set()
        if way == "s3":
            args = in_bucket(at, args, source, server)
            hosts = {("127.0.0.1", server.port)}
        elif way == "http":
            port = stack.enter_context(http_server(at.work))
            args = [f"http://127.0.0.1:{port}/{args[0]}", *args[1:]]
            hosts = {("127.0.0.1", port)}
        done = at.semigrid("data", "build", *args, "set", "--processes", "2", timeout=300)
        if done.code:
            return f"exit code {done.code}: {done.output[-500:]}"
        report = json.loads((at.work / "set/report.json").read_text())
        counts = report["images"], len(report["quarantined"])
        if counts != (len(SOUND) + len(images), len(bad())):
            return f"{counts[0]} images, {counts[1]} of them set aside"
        if deeds := at.wrong_deeds(done, hosts=hosts):
            return deeds
        (at.work / "tiny.yaml").write_text(TINY.replace("builtin://digits", "set"))
        for command in ("data check set", "data show set", "plan tiny.yaml"):
            said = at.semigrid(*command.split())
            if said.code or (deeds := at.wrong_deeds(said)):
                return f"{command}: exit code {said.code}, {deeds}: {said.output[-500:]}"
    return None


def in_bucket(at: Place, args: list[str], source: str, server: S3Server) -> list[str]:
    """Puts the working directory's files into the bucket; the arguments that name them there."""
    for path in at.work.rglob("*"):
        if path.is_file():
            name = f"{source}/{path.relative_to(at.work)}"
            server.client.put_object(Bucket=BUCKET, Key=name, Body=path.read_bytes())
    at.environment |= {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": KEY_SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    exists = [(at.work / arg).exists() for arg in args]
    return [
        f"s3://{BUCKET}/{source}/{arg}" if there else arg
        for arg, there in zip(args, exists, strict=True)
    ]


@contextlib.contextmanager
def http_server(folder: Path) -> Iterator[int]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def of_prediction() -> str | None:
    """A run, then a prediction of everything good and bad: Ray's programs and this machine only."""
    with place() as at:
        (at.work / "tiny.yaml").write_text(TINY)
        photos = at.work / "new"
        photos.mkdir()
        for name, content in {**good(), **bad()}.items():
            (photos / name).write_bytes(content)
        packages = (f"{Path(ray.__file__).parent}/", *OWN_PROGRAMS)
        for command in (
            "run tiny.yaml",
            "predict results/tiny d/vit/100% new --output out",
            "report results/tiny",
        ):
            done = at.semigrid(*command.split(), timeout=600)
            hosts = {*own_hosts(), *RAYS_HOSTS}
            ports = {(h, p) for h, p in done.asked if h.removeprefix("::ffff:") in hosts or p == 53}
            if done.code or (deeds := at.wrong_deeds(done, packages, ports)):
                return f"{command}: exit code {done.code}, {deeds}: {done.output[-500:]}"
        summary = json.loads((at.work / "out/predictions.json").read_text())
        if (summary["counts"]["images"], summary["counts"]["errors"]) != (
            len(good()) + len(bad()),
            len(bad()),
        ):
            return f"the summary is {summary}"
    return None


def fuzzed(inputs: int, first_seed: int) -> Iterator[Check]:
    """The processes that try the readers, each with a seed of its own."""
    every = readers()
    whole = sum(reader.share for reader in every)
    for reader in every:
        left, seed = int(inputs * reader.share / whole) + 1, first_seed
        while left > 0:
            number = min(left, CHUNK)
            check = functools.partial(of_reader, reader.name, seed, number)
            yield f"{reader.name}, seed {seed}: {number:,} inputs", check
            left, seed = left - number, seed + 1


def of_reader(name: str, seed: int, number: int) -> str | None:
    command = [sys.executable, "-m", "tests.hostile.fuzz", name, str(seed), str(number)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    return None if done.returncode == 0 else (done.stdout + done.stderr)[-2000:]


def checks(inputs: int, seed: int, server: S3Server) -> Iterator[Check]:
    for attack in ATTACKS:
        yield f"attack {attack.name}", functools.partial(of_attack, attack)
    for source in SOURCES:
        ways = ("path", "s3", "http") if "table" in source else ("path", "s3")
        for way in ways if source != "linked_folders" else ("path",):
            yield f"{source} by {way}", functools.partial(of_source, source, way, server)
    yield from fuzzed(inputs, seed)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=500_000, help="damaged files in all")
    parser.add_argument("--seed", type=int, default=0, help="of the first process of each reader")
    parser.add_argument("--only", default="", help="checks whose names hold this")
    options = parser.parse_args()
    failed, started = [], time.monotonic()

    def report(name: str, check: Callable[[], str | None]) -> None:
        begun = time.monotonic()
        try:
            wrong = check()
        except subprocess.TimeoutExpired:
            wrong = f"no end after {SECONDS} s"
        seconds = time.monotonic() - begun
        print(f"{'WRONG' if wrong else 'right'} {name} ({seconds:.1f} s)", flush=True)
        if wrong:
            failed.append(name)
            print(f"  {wrong}", flush=True)

    with s3_server() as server, ThreadPoolExecutor(os.cpu_count()) as pool:
        wanted = checks(options.inputs, options.seed, server)
        list(pool.map(lambda one: report(*one), (one for one in wanted if options.only in one[0])))
    for name, check in {"prediction": of_prediction, "neighbour": wrong_openings}.items():
        if options.only in name:
            report(name, check)
    minutes = (time.monotonic() - started) / 60
    print(f"{len(failed)} wrong after {minutes:.0f} minutes: {', '.join(failed) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
