"""What a command works on: an experiment, and the study that its run's folder holds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from semigrid.data.errors import InputError
from semigrid.data.storage import Storage, open_storage
from semigrid.data.storage.files import Confirm, UnusableFileError, always
from semigrid.data.yaml_files import LARGEST
from semigrid.grid.commands.console import say
from semigrid.grid.experiment.experiment import Experiment
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.study.layout import EXPERIMENT_COPY
from semigrid.grid.study.ledger import Ledger
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.rules import StudyRules
from semigrid.grid.study.search import Suggestions
from semigrid.grid.study.state import StudyState
from semigrid.trainers.methods import package_gone

if TYPE_CHECKING:
    from semigrid.grid.analysis.result_set import ResultSet


@dataclass(frozen=True)
class OpenStudy:
    """The state of a study, with the ledger and the rules that it was derived from."""

    state: StudyState
    ledger: Ledger
    rules: StudyRules


def load(
    source: str,
    storage: str | None = None,
    seeds: int | None = None,
    workers: int | None = None,
    without_data: bool = False,
) -> Experiment:
    """Reads an experiment file, or the copy of it in a run's folder.

    ``storage``, ``seeds`` and ``workers`` override the file's values. Raises ``InputError``.
    """
    overrides: dict[str, str | int] = {}
    if storage is not None:
        overrides["storage"] = storage
    if seeds is not None:
        overrides["seeds"] = seeds
    folder = open_storage(source)
    if not folder.is_folder():
        return _told(load_experiment(source, overrides, None, workers, without_data))
    text = last_text(folder)
    if text is None:
        raise InputError(
            f"{source}: a folder without {EXPERIMENT_COPY}: no run was started here; give an "
            "experiment file"
        )
    overrides.setdefault("storage", folder.uri.rpartition("/")[0])
    copy = folder.location(EXPERIMENT_COPY)
    experiment = load_experiment(copy, overrides, text, workers, without_data)
    if storage is None and open_storage(experiment.folder).uri != folder.uri:
        raise InputError(
            f"{folder.uri}: this folder was renamed: its experiment is called "
            f"{experiment.file.name!r}; rename the folder to that"
        )
    return _told(experiment)


def _told(experiment: Experiment) -> Experiment:
    """The experiment; says which methods are known from its runs alone."""
    for name in sorted({model.method for model in experiment.file.models.values()}):
        if (why := package_gone(name)) is not None:
            say(f"{why} to train with it; what its runs have left is shown")
    return experiment


def last_text(folder: Storage) -> str | None:
    """The experiment file of the last run in a folder; None if there was none."""
    try:
        return folder.read(EXPERIMENT_COPY, LARGEST).decode()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (UnicodeDecodeError, UnusableFileError) as error:
        raise InputError(f"{folder.location(EXPERIMENT_COPY)}: cannot be read: {error}") from error


def open_study(
    experiment: Experiment,
    only: Sequence[str] | None = None,
    for_run: bool = False,
    patience: float | None = None,
    confirm: Confirm = always,
) -> OpenStudy:
    """Reads the ledger and derives the state of every search.

    Args:
        only: patterns of the cells to finish; None for all.
        for_run: look for the predictions of evaluated cells too. A run makes missing ones again; a
            table does without, since the scores are in the ledger.
        patience: seconds to wait for storage that vanishes.
        confirm: is called before each change in the folder, which it may prevent by an exception.
    """
    plan = Plan(experiment)
    chosen = None if only is None else plan.matching(only)
    ledger = Ledger(replace(open_storage(experiment.folder, patience), confirm=confirm))
    rules = StudyRules(
        ledger.has_weights,
        ledger.has_predictions if for_run else lambda record: True,
        ledger.has_soft_targets,
        Suggestions(ledger.storage, writes=for_run and patience is not None).suggest,
    )
    with ledger.listed():
        state = rules.assess(plan, ledger.read_all(), chosen)
    for problem in ledger.problems:
        say(problem)
    return OpenStudy(state, ledger, rules)


def open_results(
    experiment: Experiment, only: Sequence[str] | None = None, paper: list[str] | None = None
) -> "ResultSet":
    """Reads the ledger and the predictions of finished cells.

    Args:
        only: patterns of the cells to include; None for all.
        paper: tasks of the paper whose values are shown, as ``TASK`` or ``DATASET=TASK``.
    """
    from semigrid.grid.analysis.paper import paper_tasks
    from semigrid.grid.analysis.result_set import read_result_set

    tasks = paper_tasks(paper or [], experiment)
    study = open_study(experiment)
    chosen = None if only is None else study.state.plan.matching(only)
    return read_result_set(study.state, study.ledger.storage, chosen, tasks)
