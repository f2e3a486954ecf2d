"""What Ray's processes said, kept in a run's folder: Ray's own files go with the run."""

import contextlib
from pathlib import Path

from semigrid.data.redact import without_secrets
from semigrid.data.storage import Storage
from semigrid.grid.study.layout import RAY_LOGS

# Logs that tell why a process, a node or the head died.
NAMES = ("raylet*", "gcs_server*", "worker-*.err", "python-core-worker*")
# Most files to keep, those written last; of each the end, in bytes; the longest line of it.
FILES, TAIL, LINE = 40, 200_000, 4_000


def keep_ray_logs(scratch: str, folder: Storage) -> str | None:
    """Copies the ends of Ray's logs into a run's folder, without secrets; returns where they are.

    None where there are none, as on a cluster, or the folder cannot be written.

    Args:
        scratch: the folder that Ray has from ``ray_inside``; the logs of its last start are kept.
    """
    with contextlib.suppress(OSError):
        session = max(Path(scratch, "ray").glob("session_2*"), default=None)
        if session is None:
            return None
        found = {path for name in NAMES for path in (session / "logs").glob(name)}
        kept = f"{RAY_LOGS}/{session.name}"
        facts = [(path.stat(), path) for path in found]
        last = sorted((fact.st_mtime, path) for fact, path in facts if fact.st_size)[-FILES:]
        for _, path in last:
            folder.write(f"{kept}/{path.name}", _end(path).encode())
        return folder.location(kept) if last else None
    return None


def _end(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL))
        lines = file.read(TAIL).decode(errors="replace").splitlines(keepends=True)
    # a secret in half a line would not be seen as one
    lines = lines[1:] if size > TAIL else lines
    return "".join(
        without_secrets(line) if len(line) <= LINE else f"({len(line):,} characters)\n"
        for line in lines
    )
