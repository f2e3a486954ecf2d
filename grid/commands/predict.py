"""``semigrid predict``: a cell's model at work on images."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from semigrid.data.errors import InputError
from semigrid.data.escape import file_name
from semigrid.data.schema import Dataset
from semigrid.data.sources.left_out import LeftOut
from semigrid.data.storage.in_use import in_use
from semigrid.grid.cluster.machines import Demand
from semigrid.grid.commands.console import (
    INTERRUPTED,
    SOME_FAILED,
    echo,
    echo_json,
    not_writable,
    prepare_for_ray,
    progress_bar,
    say,
    say_problem,
    this_command,
)
from semigrid.grid.commands.context import load, open_study
from semigrid.grid.commands.options import (
    REPEAT,
    CellName,
    JsonOption,
    SeedsOption,
    Source,
    StorageOption,
    option,
)
from semigrid.grid.run.surroundings import check_surroundings
from semigrid.grid.study.winner import adjustment_note, find_winner

if TYPE_CHECKING:
    from semigrid.grid.predict.folder import PredictionFolder, Summary

# Share of answers to be right where neither --accuracy nor --threshold is given.
_ACCURACY = 0.95


def predict(
    source: Source,
    cell: CellName,
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGES", help="Folders and files of images, or one dataset."),
    ],
    output: Annotated[
        str | None, option("URI", help="Folder or URI to write to; default: predictions-CELL.")
    ] = None,
    split: Annotated[
        list[str] | None,
        option("SPLIT", help=f"Of a dataset: train, val, test or pool; default: all. {REPEAT}"),
    ] = None,
    accuracy: Annotated[
        str | None,
        option("PERCENT", help="Share of answers to be right, calibrated on val; default: 95%."),
    ] = None,
    threshold: Annotated[
        float | None,
        option("P", min=0, max=1, help="Abstain below this probability, whatever val says."),
    ] = None,
    workers: Annotated[
        int | None, option("N", min=1, help="Processes with the model; default: all that fit.")
    ] = None,
    gpus_per_worker: Annotated[
        float | None, option("N", min=0, help="GPUs per process; default: as in training.")
    ] = None,
    no_probabilities: Annotated[
        bool, typer.Option("--no-probabilities", help="Omit the probabilities of all classes.")
    ] = False,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Classify images with a finished cell's model. Run it again to resume."""
    share = _share(accuracy, threshold)
    study = open_study(load(source, storage, seeds))
    winner, record = find_winner(study.state, cell)
    # these import PyTorch, which takes seconds: errors so far came without it
    from semigrid.grid.predict.folder import PredictionFolder, summary_lines
    from semigrid.grid.predict.images import find_images
    from semigrid.grid.predict.inference import winner_model

    plan = study.state.plan
    train = plan.experiment.train_of(winner.model)
    gpus = train.gpus_per_worker if gpus_per_worker is None else gpus_per_worker
    left_out = LeftOut()
    sources = find_images(images, split or [], left_out)
    for line in left_out.lines():
        say(line)
    if (note := adjustment_note(record)) is not None:
        say(f"{winner.name}: {note}")
    model = winner_model(plan, winner, record, plan.experiment.folder, gpus)
    destination = output or file_name(f"predictions-{winner.name.replace('/', '-')}")
    open_folder = partial(
        PredictionFolder,
        *(destination, winner.name, model, sources, share, threshold, not no_probabilities),
    )
    folder = open_folder()
    summary = folder.summary
    if summary is not None and not as_json:
        say("nothing to predict: it is finished")
    if summary is None:
        check_surroundings(say)
        try:
            folder.storage.check_writable()
        except OSError as error:
            raise not_writable(f"--output {destination}", error) from error
        with in_use(folder.storage, "--output") as alone:
            folder = open_folder()  # as it was left by a process that worked here until now
            if alone:
                folder.remove_unfinished()
            dataset = plan.experiment.datasets[winner.dataset]
            summary = folder.summary or _predict(
                folder, dataset, workers, Demand(train.cpus_per_worker, gpus)
            )
    if as_json:
        echo_json(summary)
        return
    for line in summary_lines(summary, folder.storage.uri):
        echo(line)


def _predict(
    folder: "PredictionFolder", dataset: Dataset, workers: int | None, each: Demand
) -> "Summary":
    prepare_for_ray()
    from semigrid.grid.predict.ray_data import predict_images
    from semigrid.trainers.cluster.ray_tasks import TaskError

    try:
        with progress_bar("predicting") as progress:
            return predict_images(folder, dataset, workers, each, progress)
    except KeyboardInterrupt:
        say(f"interrupted: finished parts are kept. To resume: {this_command()}")
        raise typer.Exit(INTERRUPTED) from None
    except TaskError as error:
        say_problem(f"{error}; finished parts are kept. To resume: {this_command()}")
        raise typer.Exit(SOME_FAILED) from error


def _share(accuracy: str | None, threshold: float | None) -> float | None:
    """The share of answers to be right; None where a threshold is given instead."""
    if threshold is not None:
        if accuracy is not None:
            raise InputError("--accuracy and --threshold: give one of them")
        return None
    if accuracy is None:
        return _ACCURACY
    try:
        share = float(accuracy.removesuffix("%")) / (100 if accuracy.endswith("%") else 1)
    except ValueError:
        share = 0
    if not 0 < share < 1:
        raise InputError(f"--accuracy {accuracy}: give a share between 0% and 100%, such as 95%")
    return round(share, 12)  # 0.97 for 97%
