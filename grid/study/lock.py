"""One run at a time in a folder: a lock file that names its holder."""

import contextlib
import getpass
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from semigrid.data.errors import InputError
from semigrid.data.plausible import Moment
from semigrid.data.storage import Storage, open_storage
from semigrid.grid.study.layout import LOCK, LOCK_GUARD

HEARTBEAT_SECONDS = 10.0
# heartbeats that a run on another machine must miss before its lock is taken over
MISSED_BEATS = 3
# and the longest time between them that is believed: a starting run waits for some
LONGEST_INTERVAL = 60.0
MOST_BYTES = 2**16  # of a lock file
PROCESSES = Path("/proc")


class Holder(BaseModel):
    """The content of a lock file: the run that holds it.

    Attributes:
        machine: identifies this boot of a machine and the namespace of its process ids.
        born: when the process started, since its number may be given to another one later.
        started_at, heartbeat: seconds since 1970 by the holder's clock, for people to read.
        interval: seconds between heartbeats.
    """

    host: str
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    user: str
    machine: str
    born: str
    started_at: Moment
    heartbeat: Moment
    interval: Annotated[float, Field(gt=0, le=LONGEST_INTERVAL)]
    token: str

    @property
    def is_near(self) -> bool:
        """Whether its process can be seen from here."""
        return self.machine != "" and self.machine == _machine()

    @property
    def is_gone(self) -> bool:
        """Whether its process is certainly dead."""
        return self.is_near and _born(self.pid) not in (self.born, None)

    def __str__(self) -> str:
        since, last = (
            time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
            for seconds in (self.started_at, self.heartbeat)
        )
        where = f"{self.user} on {self.host}, process {self.pid}"
        return f"{where}, since {since}, last heartbeat {last}"


class RunLock:
    """Holds a run's folder, which must exist, while a ``with`` block runs.

    The lock of a dead process of this machine is taken over at once. The lock of another machine is
    taken over if its heartbeat does not change while it is watched; clocks are not compared, since
    those of two machines differ. Entering raises ``InputError``, which names the holder.

    Args:
        say: is told why entering takes long, or that a lock is taken over.
        lost: is called in another thread when this process is no longer the holder, because it was
            suspended and another run took over.
        interval: seconds between heartbeats.
    """

    def __init__(
        self,
        storage: Storage,
        say: Callable[[str], None],
        lost: Callable[[], None],
        interval: float = HEARTBEAT_SECONDS,
    ):
        self.say, self.lost, self.interval = say, lost, interval
        # only heartbeats wait for a folder that vanished
        self._storage = open_storage(storage.uri)
        self._lasting = open_storage(storage.uri, storage.patience or interval)
        self.lost_to: Holder | None = None
        self._me = _this_process(interval)
        self._left = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lock heartbeat", daemon=True)

    def __enter__(self) -> "RunLock":
        try:
            while True:
                present, holder = _read(self._storage)
                if present is not None:
                    self._await_death(present, holder)
                if self._take(present):
                    break
        except OSError as error:
            raise InputError(
                f"{self._storage.uri}: cannot be locked: {error}; {LOCK} and {LOCK_GUARD} in it "
                "must be files that this user may read and write"
            ) from error
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._heart.join(timeout=self.interval)
        with contextlib.suppress(OSError):  # a lock that stays is soon that of a dead process
            lock, holder = _read(self._storage)
            if self._is_mine(holder):
                self._storage.swap(LOCK, lock, None)

    def _is_mine(self, holder: Holder | None) -> bool:
        return holder is not None and holder.token == self._me.token

    def _await_death(self, lock: bytes, holder: Holder | None) -> None:
        """Returns when the holder is dead or gone; raises ``InputError`` if it is alive."""
        if holder is not None and holder.is_gone:
            self.say(f"the run that held this folder is dead ({holder}); taking its lock over")
            return
        if holder is not None and holder.is_near:
            raise self._refusal(holder)
        seconds = MISSED_BEATS * (holder.interval if holder else self.interval)
        name = str(holder) if holder else f"{self._storage.location(LOCK)} cannot be read"
        self.say(f"watching for {seconds:g} seconds whether the holder is alive: {name}")
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(min(0.5, self.interval / 10))
            now, alive = _read(self._storage)
            if now is None:
                return
            if now != lock and alive is not None:
                raise self._refusal(alive)
        self.say(f"its heartbeat did not change for {seconds:g} seconds; taking its lock over")

    def _refusal(self, holder: Holder) -> InputError:
        return InputError(
            f"{self._storage.uri}: another run is at work here: {holder}; wait until it ends or "
            f"stop it (kill {holder.pid} on {holder.host}), or keep this run's results elsewhere "
            "with --storage; plan, status and table work meanwhile"
        )

    def _take(self, present: bytes | None) -> bool:
        """Replaces the lock that is present, or none; False if another process was faster."""
        if self._storage.swap(LOCK, present, self._beat_now()):
            return True
        # several may have written; after a while the last one's content is there
        time.sleep(min(2.0, self.interval / 5))
        return self._is_mine(_read(self._storage)[1])

    def _beat_now(self) -> bytes:
        self._me.heartbeat = time.time()
        return (self._me.model_dump_json(indent=1) + "\n").encode()

    def _beat(self) -> None:
        while not self._left.wait(self.interval):
            with contextlib.suppress(OSError):  # the next beat may succeed
                present, holder = _read(self._lasting)  # None if somebody deleted it
                if self._left.is_set():
                    return
                if holder is not None and not self._is_mine(holder):
                    self.lost_to = holder
                    self.lost()
                    return
                self._lasting.swap(LOCK, present, self._beat_now())


def holder_of(storage: Storage) -> Holder | None:
    """The run whose lock lies in a folder, dead or alive; None without one that can be read."""
    try:
        return _read(open_storage(storage.uri))[1]
    except OSError:
        return None


def _read(storage: Storage) -> tuple[bytes | None, Holder | None]:
    """The lock file, None if there is none, and its holder, None if it is damaged."""
    try:
        content = storage.read(LOCK, MOST_BYTES)
    except FileNotFoundError:
        return None, None
    try:
        return content, Holder.model_validate_json(content)
    except ValidationError:
        return content, None


def _this_process(interval: float) -> Holder:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # user ids without a name, as in containers
        user = f"user {os.getuid()}"
    now = time.time()
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        user=user,
        machine=_machine(),
        born=_born(os.getpid()) or "",
        started_at=now,
        heartbeat=now,
        interval=interval,
        token=uuid.uuid4().hex,
    )


def _machine() -> str:
    """Equal for two processes that see each other's process ids; empty where this is unknown.

    The host's name would not do: containers may share it without seeing each other's processes.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _born(pid: int) -> str | None:
    """When a process started, in ticks since boot; empty if it is dead, None if it is hidden."""
    try:
        stat = (PROCESSES / f"{pid}/stat").read_text()
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:  # another user's, on a machine that hides them
            pass
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name before it may contain spaces
    return "" if state in "ZX" else fields[18]
