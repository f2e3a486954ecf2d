"""``semigrid predict``: its options, what it checks, and what it prints."""

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from semigrid.data.errors import InputError
from semigrid.grid.commands.console import INTERRUPTED, OK, SOME_FAILED, err, out
from semigrid.grid.predict.abstain import Calibration

ACCURACY = 0.95

CellName = Annotated[
    str, typer.Argument(metavar="CELL", help="A finished cell, such as 'aprons/semi-vit/50%/100%'.")
]
Sources = Annotated[
    list[str],
    typer.Argument(metavar="IMAGES...", help="Folders and files of images, or one dataset."),
]
OutputOption = Annotated[
    str | None,
    typer.Option(help="The folder or URI to write to; by default predictions-CELL, right here."),
]
SplitOption = Annotated[
    list[str] | None,
    typer.Option(help="Of a dataset: train, val, test or pool; repeatable, by default all."),
]
AccuracyOption = Annotated[
    str | None,
    typer.Option(
        metavar="PERCENT",
        help="Abstain where fewer than so many of the answers would be right, by val; 95%.",
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Abstain below this probability, whatever val says."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="Processes with the model, by default as many as there is room for."),
]
GpusOption = Annotated[
    float | None,
    typer.Option(min=0, help="Of each process, by default as the cell was trained."),
]
NoProbabilitiesOption = Annotated[
    bool, typer.Option("--no-probabilities", help="Leave out the probabilities of all classes.")
]


def run(
    study: Any,
    records: Mapping[str, Any],
    *,
    cell_name: str,
    sources: list[str],
    output: str | None,
    splits: list[str] | None,
    accuracy: str | None,
    threshold: float | None,
    workers: int | None,
    gpus: float | None,
    with_probabilities: bool,
    as_json: bool,
) -> int:
    """Predicts, and says what came of it; the exit code."""
    share = _accuracy(accuracy, threshold)
    from semigrid.grid.study.winner import find_winner

    cell, record = find_winner(study, records, cell_name)
    # these take PyTorch, seconds to import: what is wrong so far was said without it
    from semigrid.grid.predict.folder import PredictionFolder, Request, identity
    from semigrid.grid.predict.images import find_images
    from semigrid.grid.predict.inference import winner_model

    plan = study.plan
    train = plan.experiment.train_of(cell.model)
    gpus = train.gpus_per_worker if gpus is None else gpus
    images = find_images(sources, splits or [])
    model = winner_model(plan, cell, record, plan.experiment.folder, gpus)
    request = Request(cell.name, share, threshold, with_probabilities)
    where = output or f"predictions-{cell.name.replace('/', '-')}"
    folder = PredictionFolder(where, identity(request, model, images), images)
    summary: dict[str, Any] | None = folder.summary
    if summary is None:
        try:
            folder.storage.check_writable()
        except OSError as error:
            raise InputError(
                f"--output {where}: cannot be written: {error}; give a folder or URI that can"
            ) from error
        dataset = plan.experiment.datasets[cell.dataset]
        summary = _predict(folder, model, dataset, request, workers, train.cpus_per_worker, gpus)
    elif not as_json:
        err.print("nothing to predict: it is finished")
    if as_json:
        print(json.dumps(summary, indent=1, ensure_ascii=False))
    else:
        _show(summary, folder.storage.uri)
    return OK


def _accuracy(text: str | None, threshold: float | None) -> float | None:
    """The share to promise, None where a threshold is given."""
    if threshold is not None:
        if text is not None:
            raise InputError("--accuracy and --threshold: give one of them")
        return None
    if text is None:
        return ACCURACY
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0
    if not 0 < share < 1:
        raise InputError(f"--accuracy {text}: give a share between 0% and 100%, such as 95%")
    return round(share, 12)  # 97 / 100 as 97% is written


def _predict(
    folder: Any,
    model: Any,
    dataset: Any,
    request: Any,
    workers: int | None,
    cpus: float,
    gpus: float,
) -> dict[str, Any]:
    """The summary. Raises ``typer.Exit`` when it is broken off, having said how to go on."""
    # Ray reads this when it is imported; it would print its machines' messages among the results
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    from semigrid.grid.predict.ray_data import PredictionError, Workers, predict_images

    started = time.monotonic()
    bar = Progress(
        TextColumn("predicting"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )
    marks: list[int] = []  # how far it was
    try:
        with bar:
            task = bar.add_task("", total=None)

            def progress(done: int, total: int) -> None:
                marks.append(done)
                bar.update(task, completed=done, total=total)

            found = predict_images(
                folder, model, dataset, request, Workers(workers, cpus, gpus), progress
            )
    except KeyboardInterrupt:
        err.print(f"interrupted: finished parts are kept. {_to_go_on()}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    except PredictionError as error:
        err.print(f"{error}; finished parts are kept. {_to_go_on()}", style="red", soft_wrap=True)
        raise typer.Exit(SOME_FAILED) from error
    seconds = time.monotonic() - started
    err.print(f"{marks[-1] - marks[0]:,} images in {seconds:.1f} s")
    return found


def _to_go_on() -> str:
    return f"To go on: {shlex.join(['semigrid', *sys.argv[1:]])}"


def _show(summary: dict[str, Any], where: str) -> None:
    counts = summary["counts"]
    lines = [
        f"{counts['images']:,} images: {counts['predicted'] - counts['abstained']:,} answered, "
        f"{counts['abstained']:,} abstained from, {counts['errors']:,} unreadable",
        Calibration(**summary["calibration"]).describe(),
    ]
    if summary["first_error"]:
        first = summary["first_error"]
        lines.append(f"the first unreadable image is {first['image_id']}: {first['error']}")
    lines.append(f"predictions: {where}/parts, summed up in {where}/predictions.json")
    for line in lines:
        out.print(line, soft_wrap=True, markup=False)
