"""``semigrid answer``: which model to use, and how many labels the unlabelled images replace."""

from typing import Annotated

from semigrid.grid.commands.console import echo_json, say, table_console
from semigrid.grid.commands.context import load, open_results
from semigrid.grid.commands.options import JsonOption, SeedsOption, Source, StorageOption, option


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
    from semigrid.grid.tables.answer import answer_facts, claims_table, savings_table
    from semigrid.grid.tables.render import show

    results = open_results(load(source, storage, seeds))
    answered = find_answer(results, margin / 100)
    if as_json:
        echo_json(answer_facts(answered))
        return
    console = table_console()
    for text in answered.texts:
        console.print(text)
    if not answered.headlines:
        console.print("no cell of this experiment has a pool of unlabelled images")
    for table in (savings_table(answered), claims_table(answered)):
        if table.rows:
            console.print()
            console.print(table.title, style="bold")
            show(table, console)
    for problem in results.problems:
        say(problem)
