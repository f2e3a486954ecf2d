"""One run at a time in a folder: a lock file that names its holder, and is kept by heartbeats."""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from semigrid.data.errors import InputError, StorageGoneError
from semigrid.data.plausible import Moment
from semigrid.data.storage import Storage, open_storage
from semigrid.data.this_user import this_user
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


class LostLockError(StorageGoneError):
    """Another run holds the folder: for this one, its storage is gone."""


class Lease:
    """The hold of a process on a run's folder, which lasts as long as its heart beats.

    A run's supervisor and its driver each have one of the same token: the run goes on holding the
    folder while one of them stands still. ``check`` is asked before every change in the folder, so
    that a process that slept while another run took over changes nothing when it wakes up.

    Args:
        me: what the lock file says of this run.
        lost: is called once, in any thread, when this process learns that it lost the folder.
    """

    def __init__(self, storage: Storage, me: Holder, lost: Callable[[], None]):
        self.interval, self._me, self._lost = me.interval, me, lost
        # only heartbeats wait for a folder that vanished
        self._storage = open_storage(storage.uri)
        self._lasting = open_storage(storage.uri, storage.patience or me.interval)
        self._problem = ""
        self._renewing = threading.Lock()
        self._sure_until = 0.0  # by ``_now``
        self._left = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lock heartbeat", daemon=True)

    @staticmethod
    def join(storage: Storage, token: str, lost: Callable[[], None]) -> "Lease":
        """A lease of this process in the run that has the token. Raises ``LostLockError``."""
        holder = _read(open_storage(storage.uri, storage.patience))[1]
        if holder is None or holder.token != token:
            raise LostLockError(_lost_to(storage, holder))
        return Lease(storage, holder, lost)

    @property
    def token(self) -> str:
        return self._me.token

    def __enter__(self) -> "Lease":
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._heart.join(timeout=self.interval)

    def check(self) -> None:
        """Raises ``LostLockError`` if this run does not hold the folder any more.

        Looks into the folder only if so much time has passed since the last heartbeat that another
        run may have taken over. Raises ``OSError`` if it cannot tell.
        """
        if _now() > self._sure_until and not self._problem:
            with self._renewing:
                if _now() > self._sure_until and not self._problem:
                    self._renew()
        if self._problem:
            raise LostLockError(self._problem)

    def was_lost(self) -> str:
        """Why this run does not hold the folder any more; empty if it does, or nobody can tell."""
        with contextlib.suppress(OSError):
            holder = _read(self._storage)[1]
            if holder is not None and not self._is_mine(holder):
                self._problem = self._problem or _lost_to(self._storage, holder)
        return self._problem

    def _is_mine(self, holder: Holder | None) -> bool:
        return holder is not None and holder.token == self._me.token

    def _beat(self) -> None:
        while not self._left.wait(self.interval):
            # the next beat may succeed, whatever went wrong: a heart that stops loses the folder
            with contextlib.suppress(Exception), self._renewing:
                if not self._left.is_set():
                    self._renew()
            if self._problem:
                return

    def _renew(self) -> None:
        """Writes a heartbeat, or learns that the folder is lost."""
        if self._problem:
            return
        began = _now()
        present, holder = _read(self._lasting)
        # A lock that was deleted or damaged is mended, but not by a process that slept: another run
        # may have taken over and ended.
        if not self._is_mine(holder) and (holder is not None or began > self._sure_until):
            self._lose(holder)
        elif self._lasting.swap(LOCK, present, self._beat_now()):
            self._renewed(began)
        else:  # the other process of this run was faster, or nothing can tell
            holder = _read(self._lasting)[1]
            if self._is_mine(holder):
                self._renewed(began)
            elif holder is not None:
                self._lose(holder)

    def _renewed(self, began: float) -> None:
        # one beat less than others wait for, since a change takes time after it was checked
        self._sure_until = began + (MISSED_BEATS - 1) * self.interval

    def _lose(self, holder: Holder | None) -> None:
        self._problem = _lost_to(self._storage, holder)
        self._lost()

    def _beat_now(self) -> bytes:
        self._me.heartbeat = time.time()
        return (self._me.model_dump_json(indent=1) + "\n").encode()


class RunLock(Lease):
    """Takes a run's folder, which must exist, and holds it while a ``with`` block runs.

    The lock of a dead process of this machine is taken over at once. The lock of another machine is
    taken over if its heartbeat does not change while it is watched; clocks are not compared, since
    those of two machines differ. Entering raises ``InputError``, which names the holder.

    Args:
        say: is told why entering takes long, or that a lock is taken over.
        interval: seconds between heartbeats.
    """

    def __init__(
        self,
        storage: Storage,
        say: Callable[[str], None],
        lost: Callable[[], None],
        interval: float = HEARTBEAT_SECONDS,
    ):
        super().__init__(storage, _this_process(interval), lost)
        self.say = say

    def __enter__(self) -> "RunLock":
        try:
            while True:
                began = _now()
                present, holder = _read(self._storage)
                if present is not None:
                    self._await_death(present, holder)
                    began = _now()
                if self._take(present):
                    break
        except OSError as error:
            raise InputError(
                f"{self._storage.uri}: cannot be locked: {error}; {LOCK} and {LOCK_GUARD} in it "
                "must be files that this user may read and write"
            ) from error
        self._renewed(began)
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        with contextlib.suppress(OSError):  # a lock that stays is soon that of a dead process
            lock, holder = _read(self._storage)
            if self._is_mine(holder):
                self._storage.swap(LOCK, lock, None)

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


def _lost_to(storage: Storage, holder: Holder | None) -> str:
    to = f"another run took over: {holder}" if holder else "another run may have taken over"
    return (
        f"{storage.uri}: stopped: this run stood still for too long, and {to}; nothing more is "
        "written, finished trials are kept, and that run continues with them"
    )


def _now() -> float:
    """Seconds by a clock that nobody sets, and that goes on while this machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


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
    now = time.time()
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        user=this_user(),
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
