"""Work that a training does not wait for: writing its files to storage."""

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Does one piece of work at a time, in a thread of its own.

    ``do`` and ``wait`` wait for the previous piece, and raise what went wrong with it. As a context
    manager it is waited for at the end of the block; an error in the block takes precedence.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="semigrid-storage")
        self._work: Future[None] | None = None

    def do(self, work: Callable[[], None]) -> None:
        self.wait()
        self._work = self._thread.submit(work)

    @property
    def busy(self) -> bool:
        return self._work is not None and not self._work.done()

    def wait(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.result()

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(*([] if kind is None else [OSError])):
            self.wait()
