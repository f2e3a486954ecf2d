"""Following a run from another terminal or machine, by the snapshots in its folder."""

import contextlib
import time

from rich.console import Console
from rich.live import Live

from semigrid.data.storage import Storage
from semigrid.grid.status import show, snapshot
from semigrid.grid.status.snapshot import Snapshot
from semigrid.grid.study.lock import holder_of

LOOK_SECONDS = 2.0
# Oldest heartbeat of a lock that a starting run may hold, in seconds.
STALE_SECONDS = 120.0


def follow(storage: Storage, console: Console, seconds: float = LOOK_SECONDS) -> bool:
    """Shows a run until it ends, is certainly dead, or the user presses Ctrl-C.

    Looks every ``seconds``. Returns False if the run died. Without a terminal, prints a line
    whenever it says something new.
    """
    latest: Snapshot | None = None
    said = ""
    screen = Live(console=console, auto_refresh=False, transient=True)
    with contextlib.suppress(KeyboardInterrupt), screen:
        while True:
            found = latest
            with contextlib.suppress(OSError):  # storage out of reach looks like a silent run
                found = snapshot.read(storage)
            if found is None and latest is not None:
                console.print("the run ended")
                break
            if found is None:  # a run that starts takes the lock before it writes a snapshot
                holder = holder_of(storage)
                if (
                    holder is None
                    or holder.is_gone
                    or time.time() - holder.heartbeat > STALE_SECONDS
                ):
                    console.print("no run is at work here now")
                    break
                line = said or f"a run is starting: {holder}"
            else:
                latest = found.after(latest)
                if latest.is_dead:
                    return False
                is_silent = latest.age >= snapshot.SILENT_SECONDS
                line = show.heard(latest).plain if is_silent else show.counts(latest.cells)
            if latest is not None and console.is_terminal:
                screen.update(show.watch(latest, console.height), refresh=True)
            elif line != said:
                console.print(line, soft_wrap=True)
            said = line
            time.sleep(seconds)
    return True
