"""The subcommands of ``semigrid``, in the order of their help."""

import os
import sys

import typer

from semigrid.data.escape import never_fails
from semigrid.data.storage import cache_folder
from semigrid.grid.commands import data
from semigrid.grid.commands.answer import answer
from semigrid.grid.commands.console import OK
from semigrid.grid.commands.export import export
from semigrid.grid.commands.plan import plan
from semigrid.grid.commands.predict import predict
from semigrid.grid.commands.probe import probe
from semigrid.grid.commands.report import report
from semigrid.grid.commands.run import drive, run
from semigrid.grid.commands.status import status
from semigrid.grid.commands.submit import submit
from semigrid.grid.commands.table import table

# The environment variable that tells PyTorch where.
COMPILED = "TORCHINDUCTOR_CACHE_DIR"

app = typer.Typer(
    help="How many labels does an image classifier need, and what can unlabelled images replace?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
for command in (probe, plan, run, status, table, answer, report, predict, export, submit):
    app.command()(command)
app.command(hidden=True)(drive)


def run_app() -> int:
    """Runs the command line of this process; returns its exit code, or raises its error."""
    for stream in (sys.stdout, sys.stderr):
        never_fails(stream)
    # PyTorch would keep what it compiles below /tmp, in a folder that another user may have made
    if COMPILED not in os.environ and os.access(cache_folder(), os.W_OK | os.X_OK):
        os.environ[COMPILED] = str(cache_folder() / "compiled")
    return app(standalone_mode=False) or OK
