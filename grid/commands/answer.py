"""``semigrid answer``: which model to use, and how many labels the unlabelled images replace."""

from typing import TYPE_CHECKING, Annotated, Any

from semigrid.data.escape import command
from semigrid.grid.commands.console import echo_json, say, table_console
from semigrid.grid.commands.context import load, open_results
from semigrid.grid.commands.options import JsonOption, SeedsOption, Source, StorageOption, option

if TYPE_CHECKING:
    from semigrid.grid.tables.table import Table


def answer(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    margin: Annotated[
        float,
        option("POINTS", min=0, max=100, help="How much worse a model may be and still match."),
    ] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Say which model to use and how many labels the unlabelled images replace, and how surely."""
    from semigrid.grid.analysis.answer import answer as find_answer
    from semigrid.grid.tables.answer import answer_facts, worth_table
    from semigrid.grid.tables.models import models_table
    from semigrid.grid.tables.render import show

    results = open_results(load(source, storage, seeds))
    answered = find_answer(results, margin / 100)
    if as_json:
        echo_json(answer_facts(answered))
        return
    console = table_console()

    def show_titled(table: "Table[Any]") -> None:
        if table.rows:
            console.print()
            console.print(table.title, style="bold")
            show(table, console)

    for number, dataset in enumerate(answered.datasets):
        if answered.datasets[1:]:
            console.print("\n" * (number > 0) + dataset, style="bold")
        if to_use := answered.to_use(dataset):
            console.print("\n\n".join(to_use))
            show_titled(models_table(results, answered, dataset))
        if unfinished := answered.unfinished.get(dataset):
            console.print("\n" * bool(to_use) + unfinished)
        show_titled(worth_table(answered, dataset))
        for text in answered.of_pools(dataset):
            console.print()
            console.print(text)
    if not answered.headlines:
        console.print("no cell of this experiment has a pool of unlabelled images")
    else:
        file = command([str(source)], console.encoding)
        console.print()
        console.print(f"each cell's labels saved: semigrid table {file} --view savings")
        console.print(f"the paper's claims, tested here: semigrid table {file} --view claims")
    for problem in results.problems:
        say(problem)
