"""Where commands print, how they show progress, and how they end."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import cast

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer import BadParameter

from semigrid.data.errors import InputError, StorageGoneError
from semigrid.data.escape import command
from semigrid.data.json_text import json_text
from semigrid.data.redact import without_secrets
from semigrid.data.storage import open_storage
from semigrid.grid.status.terminal import Terminal

# Exit codes.
OK, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

# The base of all errors in a command line, of which typer exports only this one.
_UsageError = cast(type[BadParameter], BadParameter.__base__)

# Width of a table that is piped somewhere, in characters.
_PIPE_WIDTH = 140

out = Terminal()
err = Terminal(stderr=True)


def echo(text: str) -> None:
    """Prints a result to stdout, without wrapping it."""
    out.print(_one_message(text), soft_wrap=True)


def echo_json(facts: object) -> None:
    """Prints JSON to stdout, all in ASCII, so that every terminal shows it."""
    print(json_text(facts))


def print_text(text: str, exact: bool = False) -> None:
    r"""Prints text with line ends; ``exact`` writes what the encoding lacks as ``\u4e2d``."""
    if exact and sys.stdout.encoding:
        text = text.encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding)
    print(text, end="")


def say(text: str) -> None:
    """Prints a remark to stderr."""
    err.print(_one_message(text), soft_wrap=True)


def say_problem(text: str) -> None:
    """Prints a problem to stderr, in red."""
    err.print(_one_message(text), style="red", soft_wrap=True)


def _one_message(text: str) -> str:
    """The text without secrets, its further lines indented: no name makes a message of its own."""
    return without_secrets(text).replace("\n", "\n  ")


def table_console() -> Terminal:
    """The console for tables: a pipe has no width, so tables are not cut to 80 columns there."""
    return out if out.is_terminal else Terminal(width=_PIPE_WIDTH)


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, on terminals only; yields what to call with (done, total)."""
    columns = TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def prepare_for_ray() -> None:
    """Keeps Ray's messages out of the results; to be called before Ray is imported."""
    # Ray reads this at import; it would print its machines' messages among the results
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")


def this_command() -> str:
    """The command line that started this process, to tell users how to resume."""
    return command(["semigrid", *sys.argv[1:]], err.encoding)


def write_file(destination: str, content: bytes) -> None:
    """Writes a file by path or URI, creating its folder."""
    storage = open_storage(destination)
    storage.write("", content)
    say(f"written: {storage.uri}")


def not_writable(setting: str, error: OSError) -> InputError:
    """The error for a setting, such as ``--output URI``, that names no place to write to."""
    return InputError(f"{setting}: cannot be written: {error}; give a folder or URI that can")


def exit_code(work: Callable[[], int]) -> int:
    """Does the work; returns its exit code, or that of the error that it prints."""
    try:
        return work()
    except _UsageError as error:
        if message := error.format_message():  # help was asked for, and shown, where there is none
            usage = f"{error.ctx.get_usage()} (--help says more)\n" if error.ctx else ""
            say_problem(usage + message)
        return BAD_INPUT
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
