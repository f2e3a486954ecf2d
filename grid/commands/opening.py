"""An experiment as a command finds it: its file or its run's folder, and what its ledger says."""

from typing import Any

from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage
from semigrid.grid.commands.console import err, say
from semigrid.grid.experiment import Experiment, load_experiment
from semigrid.grid.study.layout import EXPERIMENT_COPY


def load(
    source: str,
    storage: str | None,
    seeds: int | None,
    workers: int | None = None,
    without_data: bool = False,
) -> Experiment:
    """Reads an experiment file, or the copy of it in a run's folder."""
    overrides: dict[str, Any] = {}
    if storage is not None:
        overrides["storage"] = storage
    if seeds is not None:
        overrides["seeds"] = seeds
    text = None
    folder = open_storage(source)
    if folder.is_folder():
        if not folder.exists(EXPERIMENT_COPY):
            raise InputError(
                f"{source}: a folder without {EXPERIMENT_COPY}: no run was started here; give "
                "an experiment file"
            )
        try:
            text = folder.read(EXPERIMENT_COPY).decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{source}/{EXPERIMENT_COPY}: cannot be read: {error}") from error
        overrides.setdefault("storage", folder.uri.rpartition("/")[0])
        source = folder.location(EXPERIMENT_COPY)
    experiment = load_experiment(source, overrides, text, workers, without_data)
    if text is not None and storage is None and open_storage(experiment.folder).uri != folder.uri:
        raise InputError(
            f"{folder.uri}: this folder was renamed: its experiment is called "
            f"{experiment.file.name!r}; rename the folder to that"
        )
    return experiment


def open_grid(
    experiment: Experiment,
    for_run: bool = False,
    patience: float = 0,
    only: list[str] | None = None,
) -> Any:
    """The study's state, the records, the ledger, and the rules that make one of the other.

    ``for_run`` looks for the predictions of measured cells too: a run makes those again that are
    missing, while their scores stand in the ledger for a table. ``only`` are patterns of the cells
    to finish, None for all.
    """
    from semigrid.grid.study.ledger import Ledger, summarize
    from semigrid.grid.study.plan import Plan
    from semigrid.grid.study.rules import Rules
    from semigrid.grid.study.suggested import Suggestions

    plan = Plan(experiment)
    chosen = None if only is None else plan.matching(only)
    ledger = Ledger(open_storage(experiment.folder, patience))
    records = ledger.read_all()
    for path in ledger.unreadable:
        err.print(f"{path}: not a readable record; its trial trains again", soft_wrap=True)
    summaries = {trial_id: summarize(record) for trial_id, record in records.items()}
    rules = Rules(
        ledger.has_weights,
        ledger.has_predictions if for_run else lambda trial_id: True,
        Suggestions(ledger.storage, writes=for_run and patience > 0).suggest,
    )
    with ledger.listed():
        study = rules.assess(plan, summaries, chosen)
    for problem in ledger.problems:
        say(problem)
    return study, records, ledger, rules


def open_results(
    experiment: Experiment, only: list[str] | None = None, paper: list[str] | None = None
) -> Any:
    """What tables and reports are made from."""
    from semigrid.grid.analysis.paper import paper_tasks
    from semigrid.grid.analysis.result_set import read_result_set

    tasks = paper_tasks(paper or [], experiment)
    study, records, ledger, _ = open_grid(experiment)
    chosen = None if only is None else study.plan.matching(only)
    return read_result_set(study, records, ledger.storage, chosen, tasks)
