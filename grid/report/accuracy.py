"""Charts of accuracy: over labels, over the pool, by class and slice, calibration, confusions."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import get_args

import numpy as np

from semigrid.grid.analysis.answer import PoolEffect
from semigrid.grid.analysis.classes import class_results, confusion_matrix, confusions
from semigrid.grid.analysis.families import trained_longer
from semigrid.grid.analysis.numbers import show_interval, show_scores
from semigrid.grid.analysis.result_set import FEW_IMAGES, CellResult, ResultSet
from semigrid.grid.analysis.statistics import mean
from semigrid.grid.experiment.schema import Control
from semigrid.grid.report.charts import (
    COLORS,
    Chart,
    Series,
    bars,
    heat,
    lines,
    reliability,
    short,
)
from semigrid.grid.study.plan import Cell, Plan
from semigrid.grid.tables.slices import SliceResult
from semigrid.trainers.evaluation.scores import calibration_bins, calibration_error

ACC1 = "Acc@1 on test, %"
SCORES = "Acc@1, %", "95 % interval"
MOST_BARS = 40  # classes or slices in a chart; more are in the table
MOST_CLASSES = 60  # classes in a confusion matrix


def _line_name(plan: Plan, cell: Cell) -> str:
    match cell.control:
        case "compute":
            return f"{trained_longer(plan, cell.model)} for as long as {cell.model}"
        case "labeled-pool":
            return f"{cell.model}, labelled images as the pool"
    return cell.model


def accuracy_by_labels(results: ResultSet, dataset: str) -> Chart:
    """Accuracy over labels of train and val, a line for each model with its smallest pool."""
    title = f"Accuracy by labels, {dataset}"
    rows = [row for row in results.rows if row.cell.dataset == dataset and row.has_predictions]
    if not rows:
        return Chart(title, "no cell is finished yet")
    joined: list[Series] = []
    larger: list[Series] = []
    models, kinds = results.plan.experiment.file.models, (None, *get_args(Control))
    for model, control in product(models, kinds):
        of_model = sorted(
            (row for row in rows if (row.cell.model, row.cell.control) == (model, control)),
            key=lambda row: (row.labeled_images, row.pool_images or 0),
        )
        smallest = {row.cell.labels: row for row in reversed(of_model)}
        line = [row for row in of_model if row is smallest[row.cell.labels]]
        rest = [row for row in of_model if row is not smallest[row.cell.labels]]
        color = len(joined)
        if not line:
            continue
        name = _line_name(results.plan, line[0].cell)
        joined.append(_over("labeled_images", name, line, color))
        if rest:
            larger.append(
                _over("labeled_images", f"{name}, larger pools", rest, color, joined=False)
            )
    numbers = sorted({row.labeled_images for row in rows})
    ends = f"{numbers[0]:,} to {numbers[-1]:,}" if len(numbers) > 1 else f"{numbers[0]:,}"
    best = max(rows, key=lambda row: row.mean("acc1") or 0)
    ticks = numbers if len(numbers) <= 8 else ()
    return Chart(
        title,
        "bars: 95 % intervals over test images and, with several seeds, trainings",
        lines([*joined, *larger], "labels, of train and val", ACC1, log_x=True, x_ticks=ticks),
        f"Acc@1 on the test images of {dataset} over {ends} labels, of train and val, for "
        f"{', '.join(each.name for each in joined)}. The highest is {best.cell.name} with "
        f"{show_scores(best.scores('acc1'))} %.",
        ["cell", "labels", "of train", "of val", *SCORES],
        [
            [
                row.cell.name,
                *(f"{n:,}" for n in (row.labeled_images, row.label_count.train)),
                f"{row.label_count.val:,}",
                *_scores(row),
            ]
            for row in rows
        ],
    )


def _over(
    images: str, name: str, rows: Sequence[CellResult], color: int = 0, joined: bool = True
) -> Series:
    """The accuracy of cells with predictions over their ``labeled_images`` or ``pool_images``."""
    x = [getattr(row, images) for row in rows]
    acc1 = [row.mean("acc1") or 0.0 for row in rows]
    return Series(name, x, acc1, [row.interval for row in rows], joined, color)


def _scores(row: CellResult) -> list[str]:
    return [show_scores(row.scores("acc1")), show_interval(row.interval)]


def accuracy_by_pool(pool: PoolEffect) -> Chart:
    """Accuracy of a model over the size of its pool."""
    line, ticks = _over("pool_images", "", pool.rows), pool.curve.pools
    return Chart(
        f"More unlabelled images, {pool.dataset}, {pool.name}",
        svg=lines([line], "unlabelled images", ACC1, log_x=True, x_ticks=ticks),
        alt=pool.text,
        header=["unlabelled images", *SCORES],
        rows=[[f"{row.pool_images:,}", *_scores(row)] for row in pool.rows],
    )


def accuracy_by_class(results: ResultSet, row: CellResult) -> Chart:
    """Accuracy of each class beside its share of the training set, the weakest first."""
    classes = class_results(results, row)
    shown = classes[:MOST_BARS]
    acc1 = [mean(each.acc1) or 0.0 for each in shown]
    faint = [each.test_images < FEW_IMAGES for each in shown]
    notes = ["pale: fewer than 30 test images"] if any(faint) else []
    if len(classes) > len(shown):
        notes.append(f"the {len(shown)} weakest of {len(classes)} classes")
    shares = [100 * each.train_share for each in shown]
    return Chart(
        f"By class, {row.cell.name}",
        "; ".join(notes),
        bars([e.name for e in shown], acc1, "%", [e.interval for e in shown], shares, faint),
        f"Acc@1 of {row.cell.name} by class. The weakest is {shown[0].name} with {acc1[0]:.1f} %, "
        f"which has {shown[0].train_share:.1%} of the training images.",
        ["class", "training images", "share", "test images", *SCORES],
        [
            [
                each.name,
                f"{each.train_images:,}",
                f"{each.train_share:.1%}",
                f"{each.test_images:,}",
                show_scores(each.acc1),
                show_interval(each.interval),
            ]
            for each in classes
        ],
    )


def accuracy_by_slice(row: CellResult, name: str, values: Mapping[str, SliceResult]) -> Chart:
    """Accuracy of one cell with predictions on each value of a slice that its dataset has."""
    acc1 = {value: mean(result.acc1) or 0.0 for value, result in values.items()}
    weakest = min(acc1, key=lambda value: acc1[value])
    shown = list(values.items())[:MOST_BARS]
    faint = [result.images < FEW_IMAGES for _, result in shown]
    return Chart(
        f"By {name}, {row.cell.name}",
        "in brackets: test images" + ("; pale: fewer than 30" if any(faint) else ""),
        bars(
            [f"{short(value, 20)} ({result.images:,})" for value, result in shown],
            [acc1[value] for value, _ in shown],
            ACC1,
            [result.interval for _, result in shown],
            faint=faint,
        ),
        f"Acc@1 of {row.cell.name} by {name}. The weakest is {weakest} with "
        f"{acc1[weakest]:.1f} % on {values[weakest].images:,} test images.",
        [name, "test images", *SCORES],
        [
            [value, f"{result.images:,}", f"{acc1[value]:.2f}", show_interval(result.interval)]
            for value, result in values.items()
        ],
    )


def confusion_chart(results: ResultSet, row: CellResult) -> Chart:
    """The confusion matrix, in shares of each true class."""
    title = f"Confusions, {row.cell.name}"
    names = results.test_sets[row.cell.dataset].classes
    if len(names) > MOST_CLASSES:
        return Chart(title, f"{len(names)} classes do not fit: see the list of confusions")
    worst = confusions(results, row)
    most = (
        f"Most often {worst[0].true} is taken for {worst[0].predicted}, {worst[0].share:.1%}."
        if worst
        else "Nothing is confused."
    )
    return Chart(
        title,
        "numbers: % of the true class" if len(names) <= 15 else "",
        heat(confusion_matrix(results, row), names),
        f"Share of each true class that {row.cell.name} puts into each class. {most}",
        ["true class", "taken for", "images", "share"],
        [[each.true, each.predicted, f"{each.images:g}", f"{each.share:.1%}"] for each in worst],
        is_wide=len(names) > 12,
    )


def calibration(results: ResultSet, dataset: str) -> Chart:
    """Reliability of each model's best cell on a dataset (Guo et al. 2017, arXiv 1706.04599)."""
    title = f"Calibration, {dataset}"
    finished = [
        row for row in results.contenders if row.cell.dataset == dataset and row.has_predictions
    ]
    if not finished:
        return Chart(title, "no cell is finished yet")
    bins, rows = {}, []
    for model in list(dict.fromkeys(row.cell.model for row in finished))[: len(COLORS)]:
        of_model = (row for row in finished if row.cell.model == model)
        row = max(of_model, key=lambda row: row.mean("acc1") or 0)
        right = np.concatenate([seed.right for seed in row.predictions])
        confidence = np.concatenate([seed.confidence for seed in row.predictions])
        seeds = len(row.predictions)
        all_seeds = right, confidence, np.tile(row.balanced.weights, seeds) / seeds
        counted = calibration_bins(*all_seeds)
        bins[row.cell.name.removeprefix(f"{dataset}/")] = counted
        _, hits, believed = counted.sum(axis=0)
        error = calibration_error(*all_seeds)
        rows.append([row.cell.name, f"{hits:.1%}", f"{believed:.1%}", f"{error:.3f}"])
    name, accuracy, sureness, _ = rows[0]
    side = "above" if float(accuracy[:-1]) > float(sureness[:-1]) else "below"
    return Chart(
        title,
        "on the dashed line, images are right as often as the model is sure; larger marks: more "
        "images",
        reliability(bins),
        f"Accuracy over confidence of each model's best cell on {dataset}. {name} is right "
        f"on {accuracy} of the images and {sureness} sure on average, each class counting the "
        f"same: its accuracy is {side} its confidence.",
        ["cell", "accuracy", "mean confidence", "calibration error"],
        rows,
    )
