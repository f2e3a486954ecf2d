"""The command line as its users call it, where nothing can import Ray.

``semigrid`` calls it in this process, in milliseconds; ``semigrid_process`` starts a process, which
shows that the command needs nothing that a test has imported.
"""

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from semigrid.grid.commands.app import run_app
from semigrid.grid.commands.console import exit_code

# fails the process if anything imports Ray: bad input and planning must not
NO_RAY = (
    "import sys; sys.modules['ray'] = None; from semigrid.grid.commands.main import main; main()"
)


def semigrid_process(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", NO_RAY, *args], capture_output=True, text=True, cwd=cwd, timeout=60
    )


def semigrid(
    *args: str, cwd: Path | None = None, encoding: str = "utf-8"
) -> subprocess.CompletedProcess[str]:
    """``encoding`` is that of both streams; nothing that it lacks may reach them."""
    code: object = 0
    out = io.BytesIO()  # tables are written as bytes, too
    err = io.BytesIO()
    text_out = io.TextIOWrapper(out, encoding, write_through=True)
    text_err = io.TextIOWrapper(err, encoding, write_through=True)
    with (
        contextlib.redirect_stdout(text_out),
        contextlib.redirect_stderr(text_err),
        contextlib.chdir(cwd or Path.cwd()),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["semigrid", *args])
        for name in ["ray", *filter(_needs_ray, list(sys.modules))]:
            patch.setitem(sys.modules, name, None)
        try:
            code = exit_code(run_app)
        except SystemExit as end:
            code = end.code
    assert code is None or isinstance(code, int)
    return subprocess.CompletedProcess(
        args, code or 0, out.getvalue().decode(encoding), err.getvalue().decode(encoding)
    )


def _needs_ray(name: str) -> bool:
    """Whether a module that other tests have imported is Ray's, or one of ours that uses Ray."""
    if name.startswith("ray."):
        return True
    module = sys.modules[name]
    return name.startswith("semigrid.") and any(
        (
            each.__name__ if isinstance(each, ModuleType) else str(getattr(each, "__module__", ""))
        ).split(".")[0]
        == "ray"
        for each in vars(module).values()
    )
