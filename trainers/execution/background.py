"""Work that a training does not wait for: writing its files to storage."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Does pieces of work in the order given, in a thread of its own.

    After a failure the later ones are not done: a checkpoint must not name weights that are not
    there. ``wait`` raises the failure.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._works: list[Future[None]] = []

    def do(self, work: Callable[[], None]) -> None:
        before = self._works[-1] if self._works else None

        def next_in_line() -> None:
            if before is not None:
                before.result()
            work()

        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="semigrid-storage")
        self._works.append(self._thread.submit(next_in_line))

    @property
    def busy(self) -> bool:
        return not all(work.done() for work in self._works)

    def wait(self) -> None:
        """Returns when all work is done; raises the first failure."""
        works, self._works = self._works, []
        for work in works:
            work.result()


@contextlib.contextmanager
def all_done(background: Background) -> Iterator[None]:
    """Waits for the background's work at the end of the block, however it ends.

    An error in the block takes precedence over one of the storage.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            background.wait()
        raise
    background.wait()
