import subprocess
import sys

import pytest
from tests.helpers.small_disk import MOUNT, can_mount

PROGRAM = """
import sys, tempfile
from semigrid.data.mapped import mapped
tempfile.tempdir = sys.argv[1]
mapped((7, 2**20), "u1")[:] = 1  # and gone
kept = mapped((7, 2**20), "u1")
try:
    mapped((3, 2**20), "u1")[:] = 1
except OSError as error:
    print(error)
kept[:] = 1
"""


@pytest.mark.skipif(not can_mount(), reason="no small file system can be mounted here")
def test_a_full_disk_is_an_error_that_can_be_caught() -> None:
    # 8 MB; without the room that is taken at once, the process would die of a bus error
    small = ["unshare", "-rm", "sh", "-c", MOUNT, "sh", "/mnt"]
    found = subprocess.run(
        [*small, sys.executable, "-c", PROGRAM, "/mnt"], capture_output=True, text=True
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert "No space left on device" in found.stdout
