"""Where commands print, how they show progress, and how they end."""

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from semigrid.data.errors import InputError, StorageGoneError
from semigrid.data.storage import open_storage

# Exit codes.
OK, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

# Width of a table that is piped somewhere, in characters.
_PIPE_WIDTH = 140

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def echo(text: str) -> None:
    """Prints a result to stdout, without wrapping it."""
    out.print(text, soft_wrap=True, markup=False)


def say(text: str) -> None:
    """Prints a remark to stderr."""
    err.print(text, soft_wrap=True, markup=False)


def say_problem(text: str) -> None:
    """Prints a problem to stderr, in red."""
    err.print(text, style="red", soft_wrap=True, markup=False)


def table_console() -> Console:
    """The console for tables: a pipe has no width, so tables are not cut to 80 columns there."""
    return out if out.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, on terminals only; yields what to call with (done, total)."""
    columns = TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def this_command() -> str:
    """The command line that started this process, to tell users how to resume."""
    return shlex.join(["semigrid", *sys.argv[1:]])


def write_file(destination: str, content: bytes) -> None:
    """Writes a file by path or URI, creating its folder."""
    folder, _, name = destination.rpartition("/")
    storage = open_storage(folder or ("/" if destination.startswith("/") else "."))
    storage.write(name, content)
    say(f"written: {storage.location(name)}")


def not_writable(setting: str, error: OSError) -> InputError:
    """The error for a setting, such as ``--output URI``, that names no place to write to."""
    return InputError(f"{setting}: cannot be written: {error}; give a folder or URI that can")


def exit_code(work: Callable[[], int]) -> int:
    """Does the work; returns its exit code, or that of the error that it prints."""
    try:
        return work()
    except InputError as error:
        for problem in error.problems:
            say_problem(problem)
        return BAD_INPUT
    except StorageGoneError as error:
        say_problem(str(error))
        return SOME_FAILED
    except OSError as error:  # a file or folder that is missing, or that this user may not read
        where = f"{error.filename}: " if error.filename else ""
        say_problem(f"{where}{error.strerror or error}")
        return SOME_FAILED
    except KeyboardInterrupt:
        say("interrupted before anything was started")
        return INTERRUPTED
