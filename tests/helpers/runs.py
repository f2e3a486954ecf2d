"""``semigrid`` in processes that may start Ray, and what their runs leave behind."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from semigrid.data.storage import open_storage
from semigrid.grid.study.ledger import Ledger, Record


def semigrid(*args: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "semigrid", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=cwd,
    )


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
