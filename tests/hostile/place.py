"""Real commands where everything that they may write lies in one folder, watched by strace."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Set
from pathlib import Path

from tests.hostile.outcome import SECRET
from tests.hostile.traced import Traced, trace

SECONDS = 60


class Place:
    """A home, a cache, temporary files, a working directory; paths are short, as sockets need."""

    def __init__(self, folder: Path):
        self.folder, self.work, self.home = folder, folder / "w", folder / "h"
        for path in (self.work, self.home, folder / "t"):
            path.mkdir()
        self.environment = {
            **os.environ,
            "HOME": str(self.home),
            "TMPDIR": str(folder / "t"),
            "SEMIGRID_CACHE": str(self.home / "cache"),
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }
        self.environment.pop("RAY_ADDRESS", None)

    def semigrid(self, *args: str, timeout: float = SECONDS) -> Traced:
        """Raises ``subprocess.TimeoutExpired``."""
        command = [sys.executable, "-m", "semigrid", *args]
        return trace(command, self.work, self.environment, timeout, self.folder / "strace")

    def wrong_deeds(
        self,
        done: Traced,
        programs: tuple[str, ...] = (),
        hosts: Set[tuple[str, int]] = frozenset(),
    ) -> str | None:
        """Programs, hosts and files that reading images has no business with; None without any.

        ``programs`` are folders whose programs may start, beside this Python.
        """
        python = Path(sys.executable).resolve()
        # torch's packages for CUDA ask ldconfig for their libraries when they are imported
        fine = {python, Path("/sbin/ldconfig").resolve()}
        others = {path for path in done.programs if Path(path).resolve() not in fine}
        if others := {path for path in others if not path.startswith(programs or ("//",))}:
            return f"started {sorted(others)}"
        if asked := done.asked - hosts:
            return f"asked {sorted(asked)}"
        if outside := done.outside(self.folder):
            return f"wrote {sorted(outside)[:5]}"
        for path in self.work.rglob("*"):
            if (
                path.is_file()
                and path.stat().st_size < 2**30
                and SECRET.encode() in path.read_bytes()
            ):
                return f"wrote a secret of this machine into {path}"
        return None


@contextlib.contextmanager
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="sg", ignore_cleanup_errors=True) as folder:
        yield Place(Path(folder).resolve())
