"""Following a run from another terminal or machine, by the snapshots it leaves in its folder."""

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
# A lock whose heartbeat is older is no starting run's.
STALE_SECONDS = 120.0


class Follower:
    """Reads snapshots and knows for how long there was no new one.

    The first one's age is by two machines' clocks, later ones' by this machine's alone.
    """

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.monotonic):
        self.storage, self.clock = storage, clock
        self.last: Snapshot | None = None
        self.is_over = False
        self._heard = 0.0

    def look(self) -> Snapshot | None:
        """The latest snapshot; sets ``is_over`` once there is none any more."""
        try:
            found = snapshot.read(self.storage)
        except OSError:  # the storage is out of reach for now: as silent as a dead run
            return self.last
        if found is None:
            self.is_over = True
        elif self.last is None:
            self._heard = self.clock() - show.age(found)
            self.last = found
        elif found.written_at != self.last.written_at:
            self._heard = self.clock()
            self.last = found
        return self.last

    @property
    def silent(self) -> float:
        """Seconds since the driver's last sign of life."""
        return self.clock() - self._heard


def follow(storage: Storage, console: Console, seconds: float = LOOK_SECONDS) -> bool:
    """Shows a run until it ends, the user has seen enough (Ctrl-C), or it is certainly dead.

    Returns False if it died. On no terminal it prints a line whenever that says something new.
    """
    follower = Follower(storage)
    found = _first(follower, console, seconds)
    if found is None:
        console.print("no run is at work here now")
        return True
    with contextlib.suppress(KeyboardInterrupt), _screen(console) as draw:
        while not follower.is_over and not snapshot.is_dead(found):
            draw(found, follower.silent)
            time.sleep(seconds)
            found = follower.look() or found
    if follower.is_over:
        console.print("the run ended")
        return True
    return not snapshot.is_dead(found)


def _first(follower: Follower, console: Console, seconds: float) -> Snapshot | None:
    """The first snapshot, also of a run that only starts: it has the lock before it has any."""
    said = ""
    with contextlib.suppress(KeyboardInterrupt):
        while (found := follower.look()) is None:
            holder = living_holder(follower.storage)
            if holder is None or time.time() - holder.heartbeat > STALE_SECONDS:
                return None
            if not said:
                said = f"a run is starting: {holder}"
                console.print(said, soft_wrap=True)
            time.sleep(seconds)
        follower.is_over = False
        return found
    return None


@contextlib.contextmanager
def _screen(console: Console) -> Iterator[Callable[[Snapshot, float], None]]:
    """What to call with each snapshot and the seconds of silence since."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:

            def draw(found: Snapshot, silent: float) -> None:
                now = found.written_at + silent
                live.update(show.watch(found, now, silent, console.height), refresh=True)

            yield draw
        return
    said = ""

    def say(found: Snapshot, silent: float) -> None:
        nonlocal said
        line = show.counts(found.cells)
        if silent >= snapshot.SILENT_SECONDS:
            line = show.heard(found, silent).plain
        if line != said:
            console.print(line, soft_wrap=True)
        said = line

    yield say
