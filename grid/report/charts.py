"""Charts as SVG, drawn by matplotlib. Pure: numbers and names in, text out.

A chart is as wide as a phone, so that its letters can be read there; a page puts several side by
side. Text stays text (it can be searched, and read aloud), and text from data is never taken for
formulas or markup.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from semigrid.data.escape import one_line, visible
from semigrid.grid.analysis.statistics import Interval

# dark enough for white paper (contrast above 4.5), apart for colour-blind eyes, each with its mark
COLORS = ("#0b5394", "#a64b00", "#00664b", "#86207a", "#444444", "#8a6d00", "#b3123a", "#1c7c8c")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH, HEIGHT = 4.6, 3.3  # inches
_BAR, _FAINT = "#7fa8d1", "#d3dfec"  # light enough for a dark whisker
SHORT = 28  # letters of a name on an axis
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "semigrid",  # the same chart is the same text
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
_styled = matplotlib.rc_context(_STYLE)  # as a decorator


@dataclass(frozen=True)
class Chart:
    """A chart on the page: its picture, what it shows in words, and its numbers as a table.

    ``alt`` says in a sentence what there is to see; ``header`` and ``rows`` are the numbers. One
    that cannot be drawn has no ``svg``, and its ``note`` says why in its place.
    """

    title: str
    note: str = ""
    svg: str = ""
    alt: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    is_wide: bool = False


@dataclass(frozen=True)
class Series:
    """Points of one name; ``y`` is in per cent where there are intervals (of shares)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    intervals: Sequence[Interval | None] = ()
    joined: bool = True
    color: int | None = None


def short(name: str, letters: int = SHORT) -> str:
    """The name on one line, cut to the room on an axis."""
    name = visible(one_line(name))
    return name if len(name) <= letters else name[: letters - 1] + "…"


def _axes(width: float = WIDTH, height: float = HEIGHT) -> Axes:
    """An empty chart."""
    axes: Axes = Figure(figsize=(width, height), layout="constrained").subplots()
    return axes


def _svg(axes: Axes) -> str:
    """The chart as an element that takes the width of its place on the page."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # matplotlib's font lacks most scripts, the reader's browser does not
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(buffer, format="svg", metadata=nothing)
    xml = r'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    return re.sub(
        r'^.*?<svg [^>]*(viewBox="[^"]*")[^>]*>',
        rf'{xml}\1 aria-hidden="true" focusable="false">',
        buffer.getvalue(),
        count=1,
        flags=re.DOTALL,
    )


def _arms(
    middles: Sequence[float], intervals: Sequence[Interval | None]
) -> list[tuple[float, ...]] | None:
    """Lengths of the intervals' arms to each side, in per cent; None without intervals.

    They are never negative: a mean may lie outside its interval by a rounding.
    """
    if not intervals:
        return None
    arms = [
        (max(0.0, middle - 100 * ends.low), max(0.0, 100 * ends.high - middle)) if ends else (0, 0)
        for middle, ends in zip(middles, intervals, strict=True)
    ]
    return list(zip(*arms, strict=True))


def _legend(axes: Axes, count: int) -> None:
    """Below the chart: on a phone there is no room beside it, and inside it would hide points."""
    axes.figure.legend(
        loc="outside lower center", ncols=2 if count > 1 else 1, handlelength=1.6, columnspacing=1
    )


@_styled
def lines(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    log_x: bool = False,
    x_ticks: Sequence[int] = (),
    whole_x: bool = False,
) -> str:
    """Lines with marks, and intervals as bars.

    Args:
        x_ticks: the numbers that stand on the axis, if not matplotlib's choice.
        whole_x: whether only whole numbers make sense, as for trials.
    """
    return _svg(_drawn_lines(_axes(), series, x_label, y_label, log_x, x_ticks, whole_x))


@_styled
def line_picture(
    series: Sequence[Series],
    title: str,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[int],
    form: str,
) -> bytes:
    """Such lines over a logarithmic axis as a file of their own, ``png`` or ``svg``."""
    axes = _drawn_lines(_axes(7, 4.6), series, x_label, y_label, True, x_ticks)
    axes.set_title(short(title, 80), fontsize=10)
    figure = axes.get_figure(root=True)
    assert figure is not None
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(
            buffer, format=form, dpi=150, metadata={"Date": None} if form == "svg" else {}
        )
    return buffer.getvalue()


def _drawn_lines(
    axes: Axes,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    log_x: bool = False,
    x_ticks: Sequence[int] = (),
    whole_x: bool = False,
) -> Axes:
    """The axes with the lines on them; arguments as of ``lines``."""
    for number, line in enumerate(series):
        index = (number if line.color is None else line.color) % len(COLORS)
        arms = _arms(line.y, line.intervals)
        # bars at the same place would hide one another
        aside = 0.012 * (number - (len(series) - 1) / 2) if arms is not None and log_x else 0
        axes.errorbar(
            np.asarray(line.x, float) * np.exp(aside),
            line.y,
            arms,
            label=short(line.name),
            color=COLORS[index],
            marker=MARKS[index] if len(line.x) < 40 else "",
            markersize=4.5,
            linewidth=1.4 if line.joined else 0,
            elinewidth=1,
            capsize=2.5,
            markerfacecolor=COLORS[index] if line.joined else "white",
        )
    if log_x:
        axes.set_xscale("log")
        axes.minorticks_off()
    if whole_x:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0.5, max(max(line.x) for line in series) + 0.5)
    if x_ticks:
        axes.set_xticks(x_ticks, [short(f"{tick:,}", 10) for tick in x_ticks])
    axes.set(xlabel=x_label, ylabel=y_label)
    if any(line.name for line in series):
        _legend(axes, len(series))
    return axes


@_styled
def bars(
    names: Sequence[str],
    values: Sequence[float],
    x_label: str,
    intervals: Sequence[Interval | None] = (),
    train_shares: Sequence[float] = (),
    faint: Sequence[bool] = (),
) -> str:
    """Horizontal bars, the first at the top; marks show shares of the training images, if given.

    Everything is in per cent where there are intervals (of shares).
    """
    axes = _axes(WIDTH, 1.1 + 0.21 * len(names))
    at = np.arange(len(names))
    axes.barh(at, values, color=[_FAINT if pale else _BAR for pale in faint] or _BAR, height=0.66)
    arms = _arms(values, intervals)
    if arms is not None:
        axes.errorbar(values, at, xerr=arms, fmt="none", ecolor="#222222", elinewidth=1)
        axes.set_xlim(0, 100)
    if train_shares:
        label = "share of the training images"
        axes.plot(train_shares, at, "D", color=COLORS[1], markersize=4, label=label)
        _legend(axes, 1)
    axes.set_yticks(at, [short(name) for name in names])
    axes.set(xlabel=x_label, ylim=(len(names) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    return _svg(axes)


@_styled
def heat(matrix: np.ndarray, names: Sequence[str]) -> str:
    """A confusion matrix, (K, K), in shares of each row; numbers stand where there is room."""
    size = len(names)
    has_room = size <= 15
    images = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.where(images == 0, 1, images)
    side = min(7.5, max(WIDTH, 1.6 + 0.22 * size))
    axes = _axes(side, side)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [short(name, 14 if has_room else 10) for name in names]
    axes.set_xticks(range(size), labels, rotation=90, fontsize=8 if has_room else 6)
    axes.set_yticks(range(size), labels, fontsize=8 if has_room else 6)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.grid(visible=False)
    for i, j in zip(*np.nonzero(shares >= 0.005), strict=True) if has_room else ():
        color = "white" if shares[i, j] > 0.55 else "black"
        text = f"{100 * shares[i, j]:.0f}"
        axes.text(j, i, text, ha="center", va="center", color=color, fontsize=7)
    return _svg(axes)


@_styled
def reliability(bins: Mapping[str, np.ndarray]) -> str:
    """Accuracy over confidence, by name; (B, 3) as ``calibration_bins`` returns."""
    axes = _axes(WIDTH, WIDTH * 0.85)
    axes.plot([0, 1], [0, 1], color="#777777", linewidth=1, linestyle="--")
    for number, (name, counted) in enumerate(bins.items()):
        images, right, believed = counted[counted[:, 0] > 0].T
        x, y, color = believed / images, right / images, COLORS[number % len(COLORS)]
        axes.plot(x, y, color=color, linewidth=1.2, label=short(name))
        # the more images, by their weights, the larger the mark
        axes.scatter(x, y, s=8 + 80 * images / images.sum(), color=color)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
    _legend(axes, len(bins))
    return _svg(axes)
