"""How long it takes to look at a grid of the paper's size in a bucket that is far away.

A real S3 server, moto's, answers each request after 50 ms more than it needs. Opening the ledger is
compared with reading its objects one by one.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from tests.bench.results import finished_grid
from tests.helpers.buckets import BUCKET, Forwarder, S3Server, credentials, s3_server

from semigrid.data.storage import open_storage
from semigrid.grid.study.layout import LEDGER
from semigrid.grid.study.ledger import Ledger

DELAY_SECONDS = 0.05


def looking_from_afar() -> Iterator[tuple[str, str, str]]:
    """Rows of a table: what, found, goal."""
    with tempfile.TemporaryDirectory(prefix="semigrid-bench-") as temporary, s3_server() as server:
        file = finished_grid(Path(temporary), seeds=3)
        results = Path(temporary) / "results"
        _upload(server, results)
        forwarder = Forwarder(server.port)
        forwarder.delay = DELAY_SECONDS
        with mock.patch.dict("os.environ", credentials(forwarder.port)):
            storage = open_storage(f"s3://{BUCKET}/{results.name}/paper")
            ledger = Ledger(storage)
            ledger.read_all()  # opens connections
            started = time.perf_counter()
            records = len(ledger.read_all())
            side_by_side = time.perf_counter() - started
            started = time.perf_counter()
            for name in storage.names(LEDGER, ".json"):
                storage.read(f"{LEDGER}/{name}")
            one_by_one = time.perf_counter() - started
            yield f"opening the ledger of {records} trials", f"{side_by_side:.1f} s", ""
            yield "reading it object by object", f"{one_by_one:.1f} s", ""
            yield "ratio", f"{side_by_side / one_by_one:.2f}", "below 0.25"
            for command in ("status", "table"):
                words = [command, str(file), "--storage", f"s3://{BUCKET}/{results.name}"]
                forwarder.requests.clear()
                started = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-m", "semigrid", *words], check=True, capture_output=True
                )
                seconds = time.perf_counter() - started
                found = f"{seconds:.1f} s, {len(forwarder.requests)} requests"
                yield f"semigrid {command}, its start included", found, "below 20 s"


def _upload(server: S3Server, folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            name = f"{folder.name}/{path.relative_to(folder)}"
            server.client.put_object(Bucket=BUCKET, Key=name, Body=path.read_bytes())
