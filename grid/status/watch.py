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


class Follower:
    """Reads snapshots, and measures how long there was no new one.

    The first snapshot's age compares two machines' clocks, later ones use this machine's alone.
    """

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.monotonic):
        self.storage, self.clock = storage, clock
        self.last: Snapshot | None = None
        self.is_over = False
        self._heard = 0.0

    def look(self) -> Snapshot | None:
        """The latest snapshot; sets ``is_over`` once it is gone."""
        try:
            latest = snapshot.read(self.storage)
        except OSError:  # storage out of reach looks like a silent run
            return self.last
        self.is_over = latest is None
        if latest is not None and (self.last is None or latest.written_at != self.last.written_at):
            self._heard = self.clock() - (latest.age if self.last is None else 0)
            self.last = latest
        return self.last

    @property
    def silent(self) -> float:
        """Seconds since the driver's last sign of life."""
        return self.clock() - self._heard


def follow(storage: Storage, console: Console, seconds: float = LOOK_SECONDS) -> bool:
    """Shows a run until it ends, is certainly dead, or the user presses Ctrl-C.

    Looks every ``seconds``. Returns False if the run died. Without a terminal, prints a line
    whenever it says something new.
    """
    follower = Follower(storage)
    latest = _first(follower, console, seconds)
    if latest is None:
        console.print("no run is at work here now")
        return True
    with contextlib.suppress(KeyboardInterrupt), _screen(console) as draw:
        while not follower.is_over and not latest.is_dead:
            draw(latest, follower.silent)
            time.sleep(seconds)
            latest = follower.look() or latest
    if follower.is_over:
        console.print("the run ended")
        return True
    return not latest.is_dead


def _first(follower: Follower, console: Console, seconds: float) -> Snapshot | None:
    """The first snapshot, awaited if a run is starting: it takes the lock before it writes one."""
    announced = False
    with contextlib.suppress(KeyboardInterrupt):
        while (first := follower.look()) is None:
            holder = living_holder(follower.storage)
            if holder is None or time.time() - holder.heartbeat > STALE_SECONDS:
                return None
            if not announced:
                console.print(f"a run is starting: {holder}", soft_wrap=True)
            announced = True
            time.sleep(seconds)
        return first
    return None


@contextlib.contextmanager
def _screen(console: Console) -> Iterator[Callable[[Snapshot, float], None]]:
    """Yields what to call with each snapshot and the seconds of silence since it."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as screen:

            def draw(latest: Snapshot, silent: float) -> None:
                now = latest.written_at + silent
                screen.update(show.watch(latest, now, silent, console.height), refresh=True)

            yield draw
        return
    last = ""

    def say(latest: Snapshot, silent: float) -> None:
        nonlocal last
        line = show.counts(latest.cells)
        if silent >= snapshot.SILENT_SECONDS:
            line = show.heard(latest, silent).plain
        if line != last:
            console.print(line, soft_wrap=True)
        last = line

    yield say
