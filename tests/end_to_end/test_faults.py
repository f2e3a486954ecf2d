"""Faults of storage and of people, as the users of the command line meet them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.helpers.experiments import changed, experiment_text
from tests.helpers.runs import finish, records, semigrid, without_cluster
from tests.helpers.small_disk import MOUNT, can_mount

from semigrid.data.storage import open_storage

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings


@pytest.mark.skipif(not can_mount(), reason="no small file system can be mounted here")
def test_a_full_disk_ends_with_its_reason_and_exit_code_1(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    grid = [{"model": "vit", "labels": ["50%"]}]
    file.write_text(experiment_text(search={"trials": 1}, grid=grid))
    disk = tmp_path / "disk"
    disk.mkdir()
    # one namespace for both runs: the file system is gone with it
    program = (
        'dd if=/dev/zero of="$1/filler" bs=1k count=7900 status=none; '
        'run() { "$2" -m semigrid run "$3" --storage "$1"; }; '
        'run "$@"; echo "exit code $?"; rm "$1/filler"; run "$@"'
    )
    command = ["unshare", "-rm", "sh", "-c", MOUNT, "sh", str(disk), "sh", "-c", program, "sh"]
    done = subprocess.run(
        [*command, str(disk), sys.executable, str(file)],
        capture_output=True,
        text=True,
        timeout=300,
        env=without_cluster(),  # whose workers see another disk
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exit code 1" in done.stdout and "No space left" in done.stderr
    assert "process died" not in done.stderr and "Traceback" not in done.stderr
    assert "1 of 1 cells finished" in done.stderr


def test_a_run_whose_lock_was_taken_over_stops_and_says_so(cluster: None, tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(changed("models.vit.recipe.steps", 5000))
    folder = tmp_path / "results" / "small"
    first = semigrid("run", str(file), "--storage", str(tmp_path / "results"))
    try:
        deadline = time.monotonic() + 200
        while not records(folder) and time.monotonic() < deadline:
            time.sleep(0.2)
        # as a run on another machine does while this one sleeps
        taken = json.loads((folder / "lock.json").read_text())
        taken |= {"host": "elsewhere", "machine": "another", "token": "another"}
        open_storage(folder).write("lock.json", json.dumps(taken).encode())
        _, err = finish(first, code=1)
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
            first.communicate()
    assert "another run took over" in err and "elsewhere" in err and "Traceback" not in err
    assert json.loads((folder / "lock.json").read_text()) == taken
    assert all(record.status != "failed" for record in records(folder).values())
