"""Following a run from another terminal or machine, by the snapshots in its folder."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live

from semigrid.data.storage import Storage
from semigrid.grid.status import show, snapshot
from semigrid.grid.status.snapshot import Snapshot
from semigrid.grid.study.lock import living_holder

LOOK_SECONDS = 2.0
# Oldest heartbeat of a lock that a starting run may hold, in seconds.
STALE_SECONDS = 120.0


def follow(storage: Storage, console: Console, seconds: float = LOOK_SECONDS) -> bool:
    """Shows a run until it ends, is certainly dead, or the user presses Ctrl-C.

    Looks every ``seconds``. Returns False if the run died. Without a terminal, prints a line
    whenever it says something new.
    """
    with contextlib.suppress(KeyboardInterrupt):
        latest = _first(storage, console, seconds)
        if latest is None:
            console.print("no run is at work here now")
            return True
        with _screen(console) as draw:
            while latest is not None and not latest.is_dead:
                draw(latest)
                time.sleep(seconds)
                with contextlib.suppress(OSError):  # storage out of reach looks like a silent run
                    latest = _next(storage, latest)
        if latest is not None:
            return False
        console.print("the run ended")
    return True


def _first(storage: Storage, console: Console, seconds: float) -> Snapshot | None:
    """The first snapshot, awaited if a run is starting: it takes the lock before it writes one."""
    announced = False
    while True:
        with contextlib.suppress(OSError):
            if (first := snapshot.read(storage)) is not None:
                return first
        holder = living_holder(storage)
        if holder is None or time.time() - holder.heartbeat > STALE_SECONDS:
            return None
        if not announced:
            console.print(f"a run is starting: {holder}", soft_wrap=True)
        announced = True
        time.sleep(seconds)


def _next(storage: Storage, latest: Snapshot) -> Snapshot | None:
    """The snapshot that is there now, or ``latest`` if that has not changed; None after the end."""
    now = snapshot.read(storage)
    if now is None or now.written_at == latest.written_at:
        return now and latest
    now.arrives_now()
    return now


@contextlib.contextmanager
def _screen(console: Console) -> Iterator[Callable[[Snapshot], None]]:
    """Yields what to call with each snapshot."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as screen:
            yield lambda latest: screen.update(show.watch(latest, console.height), refresh=True)
        return
    last = ""

    def say(latest: Snapshot) -> None:
        nonlocal last
        line = show.counts(latest.cells)
        if latest.age >= snapshot.SILENT_SECONDS:
            line = show.heard(latest).plain
        if line != last:
            console.print(line, soft_wrap=True)
        last = line

    yield say
