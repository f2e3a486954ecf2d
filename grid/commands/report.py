"""``semigrid report``: all results as one HTML file."""

from semigrid.data.storage import open_storage
from semigrid.grid.commands.console import say, write_file
from semigrid.grid.commands.context import load, open_results
from semigrid.grid.commands.options import OutputOption, SeedsOption, Source, StorageOption
from semigrid.grid.study.layout import REPORT


def report(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    output: OutputOption = None,
) -> None:
    """Write the report into the run's folder: answer, tables, charts and provenance."""
    from semigrid.grid.report.page import report as make_report

    experiment = load(source, storage, seeds)
    results = open_results(experiment)
    destination = output or open_storage(experiment.folder).location(REPORT)
    write_file(destination, make_report(results).encode())
    for problem in results.problems:
        say(problem)
