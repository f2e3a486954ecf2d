"""What another user of this machine may read or replace while a run is at work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.hostile.place import place
from tests.hostile.tiny import TINY

NOBODY = 65534
# What access(2) says to whom it runs for: files and folders that can be read or written.
_OPEN = ["!", "-type", "l", "(", "-readable", "-o", "-writable", ")"]


def wrong_openings() -> str | None:
    """Starts a run under an umask that hides nothing, and looks at its files as another user."""
    if os.getuid() != 0:
        return "another user can be tried by root only"
    with place() as at:
        at.folder.chmod(0o755)
        (at.folder / "t").chmod(0o1777)
        (at.work / "tiny.yaml").write_text(TINY.replace("steps: 4", "steps: 20000"))
        before = set(Path("/dev/shm").iterdir())
        run = subprocess.Popen(
            [sys.executable, "-m", "semigrid", "run", "tiny.yaml"],
            cwd=at.work,
            env=at.environment,
            umask=0,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            ledger, deadline = at.work / "results/tiny/ledger", time.monotonic() + 120
            while not (ledger.is_dir() and any(ledger.iterdir())):
                if time.monotonic() > deadline or run.poll() is not None:
                    return "the run does not start"
                time.sleep(0.5)
            shared = [str(path) for path in set(Path("/dev/shm").iterdir()) - before]
            looked = subprocess.run(
                ["find", str(at.home), str(at.folder / "t"), *shared, *_OPEN],
                user=NOBODY,
                group=NOBODY,
                extra_groups=(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # folders that it cannot enter
                text=True,
            )
            # anybody may list a home, and put files of his own into a folder for temporary ones
            open_to_all = {str(at.home), str(at.folder / "t")}
            return "; ".join(sorted(set(looked.stdout.splitlines()) - open_to_all)[:5]) or None
        finally:
            run.send_signal(signal.SIGINT)
            run.wait(60)
