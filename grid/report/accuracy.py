"""Charts of accuracy: over labels, over the pool, by class and slice, calibration, confusions."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from semigrid.grid.analysis.answer import Answer
from semigrid.grid.analysis.classes import class_results, confusion_matrix, confusions
from semigrid.grid.analysis.numbers import show_interval, show_scores
from semigrid.grid.analysis.result_set import FEW_IMAGES, CellResult, ResultSet
from semigrid.grid.analysis.slices import SliceResult
from semigrid.grid.analysis.statistics import mean
from semigrid.grid.report.charts import COLORS, Series, bars, heat, lines, reliability, short
from semigrid.grid.report.figure import Figure, Missing
from semigrid.trainers.evaluation.scores import calibration_bins, calibration_error

MOST_BARS = 40  # classes or slices in a chart; more are in the table
MOST_CLASSES = 60  # classes in a confusion matrix


def accuracy_by_labels(results: ResultSet, dataset: str) -> Figure | Missing:
    """Accuracy over the number of labels, a line for each model with its smallest pool."""
    title = f"Accuracy by labels, {dataset}"
    rows = [row for row in results.rows if row.cell.dataset == dataset and row.has_predictions]
    if not rows:
        return Missing(title, "no cell is finished yet")
    joined: list[Series] = []
    larger: list[Series] = []
    for model in results.plan.experiment.file.models:
        of_model = sorted(
            (row for row in rows if row.cell.model == model),
            key=lambda row: (row.labeled_images, row.pool_images or 0),
        )
        smallest: dict[Fraction, CellResult] = {}
        for row in of_model:
            smallest.setdefault(row.cell.labels, row)
        rest = [row for row in of_model if smallest[row.cell.labels] is not row]
        color = len(joined)
        if smallest:
            joined.append(_over("labeled_images", model, list(smallest.values()), color))
        if rest:
            name = f"{model}, larger pools"
            larger.append(_over("labeled_images", name, rest, color, joined=False))
    numbers = sorted({row.labeled_images for row in rows})
    ends = f"{numbers[0]:,} to {numbers[-1]:,}" if len(numbers) > 1 else f"{numbers[0]:,}"
    best = max(rows, key=lambda row: row.mean("acc1") or 0)
    return Figure(
        title,
        lines(
            [*joined, *larger],
            "labelled training images",
            "Acc@1 on test, %",
            log_x=True,
            x_ticks=numbers if len(numbers) <= 8 else (),
        ),
        f"Acc@1 on the test images of {dataset} over {ends} labelled images, for "
        f"{', '.join(line.name for line in joined)}. The highest is {best.cell.name} with "
        f"{show_scores(best.scores('acc1'))} %.",
        ["cell", "labelled images", "Acc@1, %", "95 % interval"],
        [[row.cell.name, f"{row.labeled_images:,}", *_scores(row)] for row in rows],
        "bars: 95 % intervals over test images and, with several seeds, trainings",
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


def accuracy_by_pool(answer: Answer) -> list[Figure]:
    """Accuracy over the size of the pool, one chart for each group of cells."""
    return [
        Figure(
            f"More unlabelled images, {pool.dataset}, {pool.name}",
            lines(
                [_over("pool_images", "", pool.rows)],
                "unlabelled images",
                "Acc@1 on test, %",
                log_x=True,
                x_ticks=pool.curve.pools,
            ),
            pool.text,
            ["unlabelled images", "Acc@1, %", "95 % interval"],
            [[f"{row.pool_images:,}", *_scores(row)] for row in pool.rows],
        )
        for pool in answer.pools
    ]


def accuracy_by_class(results: ResultSet, row: CellResult) -> Figure:
    """Accuracy of each class beside its share of the training set, the weakest first."""
    classes = class_results(results, row)
    shown = classes[:MOST_BARS]
    acc1 = [mean(each.acc1) or 0.0 for each in shown]
    faint = [each.test_images < FEW_IMAGES for each in shown]
    notes = ["pale: fewer than 30 test images"] if any(faint) else []
    if len(classes) > len(shown):
        notes.append(f"the {len(shown)} weakest of {len(classes)} classes")
    return Figure(
        f"By class, {row.cell.name}",
        bars(
            [each.name for each in shown],
            acc1,
            "%",
            [each.interval for each in shown],
            [100 * each.train_share for each in shown],
            "share of the training images",
            faint,
            limit=100,
        ),
        f"Acc@1 of {row.cell.name} by class. The weakest is {shown[0].name} with {acc1[0]:.1f} %, "
        f"which has {shown[0].train_share:.1%} of the training images.",
        ["class", "training images", "share", "test images", "Acc@1, %", "95 % interval"],
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
        "; ".join(notes),
    )


def accuracy_by_slice(row: CellResult, name: str, values: Mapping[str, SliceResult]) -> Figure:
    """Accuracy of one cell with predictions on each value of a slice that its dataset has."""
    acc1 = {value: mean(result.acc1) or 0.0 for value, result in values.items()}
    weakest = min(acc1, key=lambda value: acc1[value])
    shown = list(values.items())[:MOST_BARS]
    faint = [result.images < FEW_IMAGES for _, result in shown]
    return Figure(
        f"By {name}, {row.cell.name}",
        bars(
            [f"{short(value, 20)} ({result.images:,})" for value, result in shown],
            [acc1[value] for value, _ in shown],
            "Acc@1 on test, %",
            [result.interval for _, result in shown],
            faint=faint,
            limit=100,
        ),
        f"Acc@1 of {row.cell.name} by {name}. The weakest is {weakest} with "
        f"{acc1[weakest]:.1f} % on {values[weakest].images:,} test images.",
        [name, "test images", "Acc@1, %", "95 % interval"],
        [
            [value, f"{result.images:,}", f"{acc1[value]:.2f}", show_interval(result.interval)]
            for value, result in values.items()
        ],
        "in brackets: test images" + ("; pale: fewer than 30" if any(faint) else ""),
    )


def confusion_chart(results: ResultSet, row: CellResult) -> Figure | Missing:
    """The confusion matrix, in shares of each true class."""
    title = f"Confusions, {row.cell.name}"
    names = results.test_sets[row.cell.dataset].classes
    if len(names) > MOST_CLASSES:
        return Missing(title, f"{len(names)} classes do not fit: see the list of confusions")
    worst = confusions(results, row)
    most = (
        f"Most often {worst[0].true} is taken for {worst[0].predicted}, {worst[0].share:.1%}."
        if worst
        else "Nothing is confused."
    )
    return Figure(
        title,
        heat(confusion_matrix(results, row), names),
        f"Share of each true class that {row.cell.name} puts into each class. {most}",
        ["true class", "taken for", "images", "share"],
        [[each.true, each.predicted, f"{each.images:g}", f"{each.share:.1%}"] for each in worst],
        "numbers: % of the true class" if len(names) <= 15 else "",
        is_wide=len(names) > 12,
    )


def calibration(results: ResultSet, dataset: str) -> Figure | Missing:
    """Reliability of each model's best cell on a dataset (Guo et al. 2017, arXiv 1706.04599)."""
    title = f"Calibration, {dataset}"
    finished = [row for row in results.rows if row.cell.dataset == dataset and row.has_predictions]
    if not finished:
        return Missing(title, "no cell is finished yet")
    bins, rows = {}, []
    for model in list(dict.fromkeys(row.cell.model for row in finished))[: len(COLORS)]:
        of_model = (row for row in finished if row.cell.model == model)
        row = max(of_model, key=lambda row: row.mean("acc1") or 0)
        right = np.concatenate([seed.right for seed in row.predictions])
        confidence = np.concatenate([seed.confidence for seed in row.predictions])
        bins[row.cell.name.removeprefix(f"{dataset}/")] = calibration_bins(right, confidence)
        error = calibration_error(right, confidence)
        rows.append(
            [row.cell.name, f"{right.mean():.1%}", f"{confidence.mean():.1%}", f"{error:.3f}"]
        )
    name, accuracy, sureness, _ = rows[0]
    side = "above" if float(accuracy[:-1]) > float(sureness[:-1]) else "below"
    return Figure(
        title,
        reliability(bins),
        f"Accuracy over confidence of each model's best cell on {dataset}. {name} is right "
        f"on {accuracy} of the images and {sureness} sure on average: its accuracy is {side} "
        "its confidence.",
        ["cell", "accuracy", "mean confidence", "calibration error"],
        rows,
        "on the dashed line, images are right as often as the model is sure; larger marks: more "
        "images",
    )
