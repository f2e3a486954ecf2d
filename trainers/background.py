"""Work that a training does not wait for: its files on their way to storage."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Does one piece of work after another, in the order given, in a thread of its own.

    When one fails, those after it are not done: a checkpoint must not name weights that are not
    there. The failure is raised where the work is next waited for.
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
        """Until all is done; raises what the first that failed raised."""
        works, self._works = self._works, []
        for work in works:
            work.result()


@contextlib.contextmanager
def all_done(background: Background) -> Iterator[None]:
    """Ends only when the background's work has, however the block ends.

    An error of the block is not hidden by one of the storage.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            background.wait()
        raise
    background.wait()
