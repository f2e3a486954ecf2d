"""The command line as its users call it, in a process of its own that cannot import Ray."""

import subprocess
import sys
from pathlib import Path

# fails the process if anything imports Ray: bad input and planning must not
NO_RAY = (
    "import sys; sys.modules['ray'] = None; from semigrid.grid.commands.main import main; main()"
)


def semigrid(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", NO_RAY, *args], capture_output=True, text=True, cwd=cwd, timeout=60
    )
