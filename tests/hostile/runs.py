"""Readers of a run's folder, with the damaged files that they are tried on.

Commands take a fifth of a second for each file. So most files are read by what commands call, in a
folder that is made once; some go through the commands themselves.
"""

import atexit
import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tests.hostile.mutations import as_json, documents, edited, other_footers, parquet_files
from tests.hostile.outcome import UNFORESEEN

from semigrid.data.errors import InputError

# Of these files of a run's folder, the first one is replaced.
RECORDS, TABLES, LIVE = "ledger/*.json", "predictions/*.parquet", "live.json"
STATUS = ("status --json", "status")
COMMANDS = (
    *STATUS,
    *("table --format json", "answer --json", "table --format csv"),
    *("table --view classes --format latex", "report"),
)
SNAPSHOT = {
    "experiment": "small",
    "cells": {},
    "trials": {},
    "cost": {"spent": {"cpu": 1.0}},
    "running": [
        {
            "cell": "digits/vit/50%",
            "kind": "train",
            "trial": "x",
            "seed": 0,
            "started_at": 1.7e9,
            "heard_at": 1.7e9,
            "step": 3,
            "total_steps": 10,
            "loss": 0.3,
        }
    ],
    "written_at": 1.7e9,
    "started_at": 1.7e9,
    "seconds_left": 3.0,
    "share_done": 0.3,
    "activity": "x",
    "host": "elsewhere",
    "pid": 1,
}


@cache
def _run() -> Path:
    """The folder of a finished run of two cells, two seeds each."""
    from tests.helpers.finished import FinishedGrid

    folder = Path(tempfile.mkdtemp(prefix="semigrid-hostile-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    grid = [{"model": "vit", "labels": ["50%", "100%"]}]
    run = FinishedGrid(folder, seeds=2, grid=grid)
    run.finish("digits/vit/50%", 100, 120)
    run.finish("digits/vit/100%", 150, 150)
    made = Path(run.plan.experiment.folder)
    (made / "experiment.yaml").write_text(run.plan.experiment.text)
    (made / "live.json").write_text(json.dumps(SNAPSHOT))
    # a table of another size or hash than its record's would not be read at all
    record = run.ledger.read(_first(made, TABLES).stem)
    assert record is not None
    record.predictions_file = None
    run.ledger.write(record)
    return made


def _first(run: Path, files: str) -> Path:
    return next(iter(sorted(run.glob(files))))


@contextlib.contextmanager
def _with_file(place: Path, files: str, content: bytes) -> Iterator[Path]:
    """The run, copied to ``place`` at the first call, with this file instead of its own."""
    run = place / "small"
    if not run.exists():
        shutil.copytree(_run(), run)
    file = _first(run, files)
    own = file.read_bytes()
    file.write_bytes(content)
    try:
        yield run
    finally:
        file.write_bytes(own)


@cache
def _experiment(run: Path) -> Any:
    from semigrid.grid.commands.context import load

    return load(str(run))


def read_record(folder: Path, content: bytes) -> None:
    """What status, table and answer make of a run with this record."""
    from semigrid.grid.analysis.answer import answer
    from semigrid.grid.commands.console import echo_json
    from semigrid.grid.commands.context import open_results, open_study
    from semigrid.grid.commands.status import show_status
    from semigrid.grid.tables.answer import answer_facts
    from semigrid.grid.tables.formats import Format, View
    from semigrid.grid.tables.render import render
    from semigrid.grid.tables.views import TABLES as MAKERS

    printed, remarks = io.StringIO(), io.StringIO()
    with (
        _with_file(folder.parent, RECORDS, content) as run,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(remarks),
    ):
        experiment = _experiment(run)
        show_status(open_study(experiment), as_json=True)
        results = open_results(experiment)
        _check_json(printed.getvalue())
        _check_json(render(MAKERS[View.cells](results), Format.json).decode())
        printed.truncate(0)
        printed.seek(0)
        echo_json(answer_facts(answer(results, 0.01)))
        _check_json(printed.getvalue())


def read_table(folder: Path, content: bytes) -> None:
    """A table of predictions, by the record of its trial."""
    from semigrid.data.storage import open_storage
    from semigrid.grid.analysis.predictions import read_predictions, reduced
    from semigrid.grid.study.ledger import Ledger

    with _with_file(folder.parent, TABLES, content) as run:
        storage = open_storage(run)
        record = Ledger(storage).read(_first(run, TABLES).stem)
        manifest = next(iter(_experiment(run).datasets.values())).manifest
        assert record is not None
        try:
            reduced(read_predictions(storage, record, manifest), manifest.class_shares)
        except ValueError as error:  # what commands print
            raise InputError(str(error)) from error


def by_commands(files: str, *commands: str) -> Callable[[Path, bytes], None]:
    """What commands, all if none is given, say of a run with this file."""

    def read(folder: Path, content: bytes) -> None:
        from tests.helpers.command import semigrid

        with _with_file(folder.parent, files, content) as run:
            for command in commands or COMMANDS:
                name, *options = command.split()
                done = semigrid(name, str(run), *options)
                if done.returncode not in (0, 1, 2) or UNFORESEEN.search(done.stderr):
                    raise AssertionError(f"{command}: exit code {done.returncode}: {done.stderr}")
                if "json" in command and done.returncode < 2:
                    _check_json(done.stdout)

    return read


def _check_json(text: str) -> None:
    json.loads(text, parse_constant=_no_number)


def _no_number(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def json_in(files: str) -> st.SearchStrategy[bytes]:
    valid = json.loads(_first(_run(), files).read_text())
    return st.one_of(documents([valid]).map(as_json), edited(st.just(as_json(valid))))


def prediction_tables() -> st.SearchStrategy[bytes]:
    import pyarrow.parquet as pq

    valid = _first(_run(), TABLES).read_bytes()
    changed = parquet_files(pq.read_table(io.BytesIO(valid)), documents([{}]))
    # most changed tables are refused for their columns, before their sizes are looked at
    return st.one_of(changed, other_footers(valid), other_footers(valid))
