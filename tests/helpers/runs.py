"""``semigrid`` in processes that may start Ray, and what their runs leave behind."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from semigrid.data.storage import open_storage
from semigrid.grid.study.ledger import Ledger, Record


def semigrid(*args: str, cwd: Path | None = None, own_ray: bool = False) -> subprocess.Popen[str]:
    """A command on the tests' cluster where there is one, or on a Ray of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "semigrid", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=cwd,
        env=without_cluster() if own_ray else None,
    )


def with_modules_of_the_user(folder: Path) -> Path:
    """The folder, with files that would end any process that took them for modules."""
    (folder / "trainers").mkdir(parents=True)
    names = ("data", "grid", "ssl", "torch", "json", "ray", "numpy", "trainers/__init__")
    for name in names:
        (folder / f"{name}.py").write_text("import os; os._exit(99)")
    return folder


def without_cluster() -> dict[str, str]:
    """The environment of this process, but for the address of the tests' cluster."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=500)
    assert process.returncode == code, out + err
    return out, err


def records(folder: Path) -> dict[str, Record]:
    return Ledger(open_storage(folder)).read_all()


def numbers(folder: Path) -> dict[str, Any]:
    """All that a training may not change when it is interrupted, to the last digit."""
    return {
        i: (r.status, r.cell, r.val, r.test, r.best_step, r.best_weights, r.history)
        for i, r in records(folder).items()
    }
