"""Charts of accuracy: over labels, over the pool, by class and slice, calibration, confusions."""

from collections.abc import Sequence

import numpy as np

from semigrid.grid.analysis.answer import Answer
from semigrid.grid.analysis.classes import class_lines, confusion_matrix, confusions
from semigrid.grid.analysis.known import Known
from semigrid.grid.analysis.results import FEW_IMAGES, Row, mean
from semigrid.grid.analysis.slices import BySlice
from semigrid.grid.analysis.statistics import accuracy_interval
from semigrid.grid.report.charts import COLORS, Line, Ticks, bars, heat, lines, reliability, short
from semigrid.grid.report.figure import Figure, Missing
from semigrid.grid.tables.cells import show_interval, show_scores
from semigrid.trainers.scores import calibration_bins, calibration_error

# classes or slices that a chart of bars shows: more are in the table
MOST_BARS = 40
MOST_CLASSES = 60  # of a confusion matrix


def accuracy_by_labels(known: Known, dataset: str) -> Figure | Missing:
    """Accuracy over the number of labels, a line for each model with its smallest pool."""
    title = f"Accuracy by labels, {dataset}"
    models = list(known.plan.experiment.file.models)
    rows = [row for row in known.results.rows if row.cell.dataset == dataset and row.interval]
    if not rows:
        return Missing(title, "no cell is finished yet")
    found: list[Line] = []
    more: list[Line] = []
    for model in models:
        of = sorted(
            (row for row in rows if row.cell.model == model),
            key=lambda row: (row.labeled_images, row.pool_images or 0),
        )
        first = {row.cell.labels: row for row in reversed(of)}
        smallest = [row for row in of if first[row.cell.labels] is row]
        if smallest:
            found.append(_line(model, smallest, len(found)))
        larger = [row for row in of if first[row.cell.labels] is not row]
        if larger:
            found_color = len(found) - 1
            more.append(_line(f"{model}, larger pools", larger, found_color, joined=False))
    numbers = sorted({row.labeled_images for row in rows})
    ends = f"{numbers[0]:,} to {numbers[-1]:,}" if len(numbers) > 1 else f"{numbers[0]:,}"
    best = max(rows, key=lambda row: row.mean("acc1") or 0)
    return Figure(
        title,
        lines(
            [*found, *more],
            "labelled training images",
            "Acc@1 on test, %",
            log_x=True,
            x_ticks=Ticks(numbers, [f"{n:,}" for n in numbers]) if len(numbers) <= 8 else None,
        ),
        f"Acc@1 on the test images of {dataset} over {ends} labelled images, for "
        f"{', '.join(line.name for line in found)}. The highest is {best.cell.name} with "
        f"{show_scores(best.scores('acc1'))} %.",
        ["cell", "labelled images", "Acc@1, %", "95 % interval"],
        [_numbers(row) for row in rows],
        "bars: 95 % intervals over test images and, with several seeds, trainings",
    )


def _line(name: str, rows: Sequence[Row], color: int, joined: bool = True) -> Line:
    intervals = [row.interval for row in rows if row.interval is not None]
    return Line(
        name,
        [row.labeled_images for row in rows],
        [row.mean("acc1") or 0.0 for row in rows],
        [100 * interval.low for interval in intervals],
        [100 * interval.high for interval in intervals],
        joined,
        color,
    )


def _numbers(row: Row) -> list[str]:
    return [
        row.cell.name,
        f"{row.labeled_images:,}",
        show_scores(row.scores("acc1")),
        show_interval(row.interval),
    ]


def accuracy_by_pool(answer: Answer) -> list[Figure]:
    """Accuracy over the size of the pool, one chart for each group of cells."""
    found = []
    for pool in answer.pools:
        sizes = list(pool.curve.pools)
        acc1 = [100 * float(pool.cells[size].mean()) for size in sizes]
        intervals = [accuracy_interval(pool.cells[size]) for size in sizes]
        line = Line(
            "",
            sizes,
            acc1,
            [100 * interval.low for interval in intervals],
            [100 * interval.high for interval in intervals],
        )
        found.append(
            Figure(
                f"More unlabelled images, {pool.dataset}, {pool.name}",
                lines(
                    [line],
                    "unlabelled images",
                    "Acc@1 on test, %",
                    log_x=True,
                    x_ticks=Ticks(sizes, [f"{size:,}" for size in sizes]),
                ),
                pool.text,
                ["unlabelled images", "Acc@1, %", "95 % interval"],
                [
                    [f"{size:,}", f"{value:.2f}", show_interval(interval)]
                    for size, value, interval in zip(sizes, acc1, intervals, strict=True)
                ],
            )
        )
    return found


def by_class(known: Known, row: Row) -> Figure:
    """Accuracy of each class beside its share of the training set, the weakest first."""
    found = class_lines(known, row)
    shown = found[:MOST_BARS]
    acc1 = [mean(line.acc1) or 0.0 for line in shown]
    note = "pale: fewer than 30 test images" if any(_is_few(x.test_images) for x in shown) else ""
    if len(found) > len(shown):
        note = "; ".join(filter(None, [note, f"the {len(shown)} weakest of {len(found)} classes"]))
    return Figure(
        f"By class, {row.cell.name}",
        bars(
            [line.name for line in shown],
            acc1,
            "%",
            [100 * line.interval.low for line in shown],
            [100 * line.interval.high for line in shown],
            [100 * line.train_share for line in shown],
            "share of the training images",
            [_is_few(line.test_images) for line in shown],
            limit=100,
        ),
        f"Acc@1 of {row.cell.name} by class. The weakest is {shown[0].name} with {acc1[0]:.1f} %, "
        f"which has {shown[0].train_share:.1%} of the training images.",
        ["class", "training images", "share", "test images", "Acc@1, %", "95 % interval"],
        [
            [
                line.name,
                f"{line.train_images:,}",
                f"{line.train_share:.1%}",
                f"{line.test_images:,}",
                show_scores(line.acc1),
                show_interval(line.interval),
            ]
            for line in found
        ],
        note,
    )


def _is_few(images: int) -> bool:
    return images < FEW_IMAGES


def by_slice(row: Row, by: BySlice) -> Figure | None:
    """Accuracy of one cell on each value of a slice; None where its dataset has no such slice."""
    images = by.images.get(row.cell.dataset)
    if images is None:
        return None
    values = by.values([row.cell.dataset])
    shown = values[:MOST_BARS]
    intervals = [by.interval(row.cell, value) for value in values]
    acc1 = [mean(by.scores(row.cell, value)) or 0.0 for value in values]
    weakest = min(range(len(values)), key=lambda number: acc1[number])
    return Figure(
        f"By {by.name}, {row.cell.name}",
        bars(
            [f"{short(value, 20)} ({images[value]:,})" for value in shown],
            acc1[: len(shown)],
            "Acc@1 on test, %",
            [100 * i.low if i else 0.0 for i in intervals[: len(shown)]],
            [100 * i.high if i else 0.0 for i in intervals[: len(shown)]],
            faint=[_is_few(images[value]) for value in shown],
            limit=100,
        ),
        f"Acc@1 of {row.cell.name} by {by.name}. The weakest is {values[weakest]} with "
        f"{acc1[weakest]:.1f} % on {images[values[weakest]]:,} test images.",
        [by.name, "test images", "Acc@1, %", "95 % interval"],
        [
            [value, f"{images[value]:,}", f"{score:.2f}", show_interval(interval)]
            for value, score, interval in zip(values, acc1, intervals, strict=True)
        ],
        "in brackets: test images; pale: fewer than 30"
        if any(_is_few(images[value]) for value in shown)
        else "in brackets: test images",
    )


def confusion(known: Known, row: Row) -> Figure | Missing:
    """The confusion matrix, in shares of each true class."""
    title = f"Confusions, {row.cell.name}"
    names = known.measured.test_sets[row.cell.dataset].classes
    worst = confusions(known, row)
    if len(names) > MOST_CLASSES:
        return Missing(title, f"{len(names)} classes do not fit: see the list of confusions")
    most = (
        f"Most often {worst[0].true} is taken for {worst[0].predicted}, {worst[0].share:.1%}."
        if worst
        else "Nothing is confused."
    )
    return Figure(
        title,
        heat(confusion_matrix(known, row), names),
        f"Share of each true class that {row.cell.name} puts into each class. {most}",
        ["true class", "taken for", "images", "share"],
        [[each.true, each.predicted, f"{each.images:g}", f"{each.share:.1%}"] for each in worst],
        "numbers: % of the true class" if len(names) <= 15 else "",
        is_wide=len(names) > 12,
    )


def calibration(known: Known, dataset: str) -> Figure | Missing:
    """Reliability of each model's best cell on a dataset (Guo et al. 2017, arXiv 1706.04599)."""
    title = f"Calibration, {dataset}"
    best: dict[str, Row] = {}
    for row in known.results.rows:
        if row.cell.dataset == dataset and row.judged:
            known_best = best.get(row.cell.model)
            if known_best is None or (row.mean("acc1") or 0) > (known_best.mean("acc1") or 0):
                best[row.cell.model] = row
    if not best:
        return Missing(title, "no cell is finished yet")
    bins, rows = {}, []
    for row in list(best.values())[: len(COLORS)]:
        right = np.concatenate([seed.right for seed in row.judged])
        confidence = np.concatenate([seed.confidence for seed in row.judged])
        bins[row.cell.name.removeprefix(f"{dataset}/")] = calibration_bins(right, confidence)
        rows.append(
            [
                row.cell.name,
                f"{right.mean():.1%}",
                f"{confidence.mean():.1%}",
                f"{calibration_error(right, confidence):.3f}",
            ]
        )
    side = "above" if float(rows[0][1][:-1]) > float(rows[0][2][:-1]) else "below"
    return Figure(
        title,
        reliability(bins),
        f"Accuracy over confidence of each model's best cell on {dataset}. {rows[0][0]} is right "
        f"on {rows[0][1]} of the images and {rows[0][2]} sure on average: its accuracy is {side} "
        "its confidence.",
        ["cell", "accuracy", "mean confidence", "calibration error"],
        rows,
        "on the dashed line, images are right as often as the model is sure; larger marks: more "
        "images",
    )
