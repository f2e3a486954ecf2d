import subprocess
import sys


def test_a_failed_start_of_ray_is_told_as_such() -> None:
    program = """
import ray
from semigrid.grid.run.start import _start
def fail(**options):
    raise TimeoutError("timed out")
ray.init = fail
_start(False)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip().endswith("RuntimeError: Ray did not start: TimeoutError: timed out")
