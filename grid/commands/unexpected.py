"""Errors that nobody foresaw: one line on the terminal, and the traceback in a file."""

import contextlib
import os
import tempfile
import threading
import time
import traceback

from semigrid.data.redact import without_secrets
from semigrid.data.storage import Storage
from semigrid.grid.commands.console import SOME_FAILED, say_problem
from semigrid.grid.study.layout import RUN_LOG


def in_short(error: BaseException) -> str:
    """An error's kind and the first line of its message."""
    words = str(error).strip().splitlines()
    return f"{type(error).__name__}: {words[0]}" if words else type(error).__name__


def keep_traceback(error: BaseException, folder: Storage | None = None) -> str:
    """Writes an error's traceback, without secrets, to a file; returns where it is.

    Args:
        folder: a run's folder, which gets the file if it can be written; else it is a temporary
            one, which only this user can read.
    """
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    # the folder may be a bucket that others read, and a temporary file is sent to us
    said = without_secrets("".join(traceback.format_exception(error)))
    text = f"{when}\n{said}".encode(errors="replace")
    if folder is not None:
        with contextlib.suppress(OSError):
            folder.write(RUN_LOG, text)
            return folder.location(RUN_LOG)
    try:
        number, path = tempfile.mkstemp(prefix="semigrid-", suffix=".log")
        with os.fdopen(number, "wb") as file:
            file.write(text)
    except OSError as failed:
        return f"could not be written: {failed}"
    return path


def say_unexpected(error: BaseException) -> int:
    """Prints one line about an error that ends a command; returns the command's exit code."""
    say_problem(
        f"{in_short(error)}: an error of semigrid's own, or of a library; please report it with "
        f"its log: {keep_traceback(error)}"
    )
    return SOME_FAILED


def say_thread_ended(ended: threading.ExceptHookArgs) -> None:
    """Prints one line about an error that ends a thread, for ``threading.excepthook``."""
    if ended.exc_value is not None:
        say_unexpected(ended.exc_value)
