"""Charts of accuracy: over labels, over the pool, by class and slice, calibration, confusions."""

from collections.abc import Collection, Mapping, Sequence
from itertools import product

import numpy as np

from semigrid.grid.analysis.answer import Answer, PoolEffect
from semigrid.grid.analysis.classes import class_results, confusion_matrix, confusions
from semigrid.grid.analysis.frontier import Costs
from semigrid.grid.analysis.numbers import (
    show_difference,
    show_interval,
    show_margin,
    show_scores,
)
from semigrid.grid.analysis.result_set import FEW_IMAGES, CellResult, ResultSet
from semigrid.grid.analysis.statistics import Comparison, mean
from semigrid.grid.experiment.schema import Control, show_percent
from semigrid.grid.report.charts import (
    COLORS,
    Chart,
    Fill,
    LineStyle,
    Series,
    bars,
    differences,
    frontier_lines,
    heat,
    lines,
    reliability,
    short,
)
from semigrid.grid.study.plan import Cell
from semigrid.grid.tables.slices import SliceResult
from semigrid.trainers.evaluation.scores import calibration_bins, calibration_error

ACC1 = "Acc@1 on test, %"
SCORES = "Acc@1, %", "95 % interval"
MOST_BARS = 40  # classes or slices in a chart; more are in the table
MOST_CLASSES = 60  # classes in a confusion matrix


_LINES: dict[Control | None, LineStyle] = {None: "-", "compute": "--", "labeled-pool": ":"}
_FILLS: tuple[Fill, ...] = ("none", "left", "full")  # the last one is drawn on top
_LINE_NOTES: dict[Control, str] = {
    "compute": "dashed: the model's control, trained for as long without the pool",
    "labeled-pool": "dotted: with its labelled images as the pool",
}


def colors(results: ResultSet) -> dict[str, int]:
    """The place of each model among the charts' colours, the same in all charts."""
    models = dict.fromkeys(row.cell.model for row in results.rows)
    return {model: n for n, model in enumerate(models)}


def accuracy_by_labels(results: ResultSet, dataset: str) -> Chart:
    """Accuracy over labels of train and val, a line for each model with its smallest pool."""
    title = "Accuracy by labels"
    rows = [row for row in results.rows if row.cell.dataset == dataset and row.has_predictions]
    if not rows:
        return Chart(title, "no cell is finished yet")
    series: list[Series] = []
    has_larger = False
    for (model, color), control in product(colors(results).items(), _LINES):
        of_model = sorted(
            (row for row in rows if (row.cell.model, row.cell.control) == (model, control)),
            key=lambda row: (row.labeled_images, row.pool_images or 0),
        )
        smallest = {row.cell.labels: row for row in reversed(of_model)}
        line = [row for row in of_model if row is smallest[row.cell.labels]]
        rest = [row for row in of_model if row is not smallest[row.cell.labels]]
        if line:
            name: str = "" if control else model
            fill: Fill = "none" if control else "full"
            series.append(_over("labeled_images", name, line, color, _LINES[control], fill))
        if rest:
            has_larger = True
            series.append(_over("labeled_images", "", rest, color, "none", "none"))
    numbers = sorted({row.labeled_images for row in rows})
    ends = f"{numbers[0]:,} to {numbers[-1]:,}" if len(numbers) > 1 else f"{numbers[0]:,}"
    best = max(rows, key=lambda row: row.mean("acc1") or 0)
    ticks = numbers if len(numbers) <= 8 else ()
    controls = dict.fromkeys(row.cell.control for row in rows)
    notes = [_LINE_NOTES[control] for control in controls if control is not None]
    notes += ["hollow marks without a line: larger pools"] * has_larger
    notes.append("bars: 95 % intervals over test images and, with several seeds, trainings")
    return Chart(
        title,
        "; ".join(notes),
        lines(series, "labels, of train and val", ACC1, log_x=True, x_ticks=ticks),
        f"Acc@1 on the test images of {dataset} over {ends} labels, of train and val, for "
        f"{', '.join(dict.fromkeys(row.cell.model for row in rows))}. The highest is "
        f"{best.cell.name} with {show_scores(best.scores('acc1'))} %.",
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


def accuracy_by_cost(results: ResultSet, answered: Answer, dataset: str) -> Chart:
    """Accuracy over what each cell took, with the frontier of each number of labels."""
    costs = Costs(results)
    title = "Accuracy by price" if costs.are_prices else "Accuracy by device time"
    rows = [
        row
        for row in results.rows
        if row.cell.dataset == dataset and row.has_predictions and costs.of(row) > 0
    ]
    fronts = [each for each in answered.frontiers if each.dataset == dataset]
    if not rows:
        return Chart(title, "no cell is finished yet")
    marked = {row.cell for each in fronts for row in each.rows}
    series = []
    for (model, color), fill in product(colors(results).items(), _FILLS):
        of_kind = [r for r in rows if r.cell.model == model and _fill(r.cell, marked) == fill]
        x, y = [costs.of(row) for row in of_kind], [row.mean("acc1") or 0.0 for row in of_kind]
        if of_kind:
            series.append(Series(model, x, y, line="none", color=color, fill=fill))
    has_half = any(line.fill == "left" for line in series)
    frontiers = {
        f"{each.rows[0].labeled_images:,} labels": [
            (costs.of(row), row.mean("acc1") or 0.0) for row in each.rows
        ]
        for each in fronts
    }
    of_what = "price" if costs.are_prices else "device time"
    return Chart(
        title,
        "filled, on grey lines: no cheaper one with as many labels scores as much, "
        f"{show_margin(answered.margin)} aside"
        + "; half filled: such a one that is the model's control"
        * has_half
        + f"; hollow: all others, with controls and larger pools; {of_what}: all trials and seeds "
        "of a cell and of those that it starts or learns from",
        frontier_lines(
            series, frontiers, f"{of_what}, search and parents included", ACC1, not costs.are_prices
        ),
        f"Acc@1 on the test images of {dataset} over {of_what}. {fronts[-1].text}"
        if fronts
        else f"Acc@1 on the test images of {dataset} over {of_what}; no model has learnt.",
        ["cell", "labels", "took", *SCORES],
        [
            [
                row.cell.name,
                f"{row.labeled_images:,}",
                costs.show(row),
                *_scores(row),
            ]
            for row in sorted(rows, key=costs.of)
        ],
    )


def _fill(cell: Cell, marked: Collection[Cell]) -> Fill:
    """How the mark of a cell is filled: a control has its model's colour and no name."""
    if cell not in marked:
        return "none"
    return "full" if cell.control is None else "left"


def pool_worth_chart(results: ResultSet, answered: Answer, dataset: str) -> Chart:
    """What the pool of each model adds beyond its control: the mean, and by number of labels."""
    title = "Above the control, by labels"
    rows: list[tuple[str, Comparison, int | None]] = []
    table = []
    for each in answered.headlines:
        worth = each.worth
        if each.dataset != dataset or not worth.parts:
            continue
        if worth.mean is not None:
            rows.append((each.model, worth.mean, colors(results)[each.model]))
        for fraction, part in worth.parts.items():
            name = f"{show_percent(fraction)} of train labels"
            rows.append((name if worth.mean else f"{each.model}, {name}", part, None))
        parts = {"mean": worth.mean} | {show_percent(f): part for f, part in worth.parts.items()}
        table += [
            [each.model, each.control, name, show_difference(part)]
            for name, part in parts.items()
            if part is not None
        ]
    if not rows:
        return Chart(title, "no cell with a pool is finished beside its control")
    return Chart(
        title,
        "right of 0 the pool helps; coloured: the mean over label fractions; grey: each of them, "
        "with intervals that hold together; 95 %",
        differences(rows, "points of Acc@1 above the control"),
        " ".join(
            f"{each.model}: {each.worth.verdict}."
            for each in answered.headlines
            if each.dataset == dataset
        ),
        ["model", "control", "labels", "points"],
        table,
    )


def _over(
    images: str,
    name: str,
    rows: Sequence[CellResult],
    color: int = 0,
    line: LineStyle = "-",
    fill: Fill = "full",
) -> Series:
    """The accuracy of cells with predictions over their ``labeled_images`` or ``pool_images``."""
    x = [getattr(row, images) for row in rows]
    acc1 = [row.mean("acc1") or 0.0 for row in rows]
    return Series(name, x, acc1, [row.interval for row in rows], line, color, fill)


def _scores(row: CellResult) -> list[str]:
    return [show_scores(row.scores("acc1")), show_interval(row.interval)]


def accuracy_by_pool(results: ResultSet, pool: PoolEffect) -> Chart:
    """Accuracy of a model over the size of its pool."""
    color = colors(results)[pool.rows[0].cell.model]
    line, ticks = _over("pool_images", "", pool.rows, color), pool.curve.pools
    return Chart(
        f"More unlabelled images: {pool.name}",
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
    title = f"Calibration, {dataset}" if results.datasets[1:] else "Calibration"
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
