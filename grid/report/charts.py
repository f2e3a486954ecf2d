"""Charts as SVG, drawn by matplotlib. Pure: numbers and names in, text out.

A chart is as wide as a phone, so that its letters can be read there; a page puts several side by
side. Text stays text (it can be searched, and read aloud), and text from data is never taken for
formulas or markup.
"""

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from semigrid.data.escape import one_line, visible
from semigrid.grid.analysis.statistics import Comparison, Interval

# dark enough for white paper (contrast above 3), apart for colour-blind eyes, each with its mark
COLORS = ("#004890", "#c07800", "#781848", "#0090a8", "#f06060", "#484800", "#6000f0", "#c060f0")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH, HEIGHT = 4.6, 2.9  # inches, without a legend
_LEGEND_LINE = 0.18
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
LineStyle = Literal["-", "--", ":", "none"]
Fill = Literal["full", "left", "none"]
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
    """Points of one name; ``y`` is in per cent where there are intervals (of shares).

    ``line`` is matplotlib's style, ``none`` without one; ``color`` the place among ``COLORS`` and
    ``MARKS``, the series' own by default. ``fill`` is of its marks, as matplotlib calls it. One
    without a name is not in the legend.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    intervals: Sequence[Interval | None] = ()
    line: LineStyle = "-"
    color: int | None = None
    fill: Fill = "full"


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


def _legend(axes: Axes, handles: Sequence[Artist]) -> None:
    """Below the chart: on a phone there is no room beside it, and inside it would hide points."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    columns = 2 if len(handles) > 1 else 1
    figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * -(-len(handles) // columns))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        handlelength=1.6,
        columnspacing=1,
    )


def _handle(name: str, index: int, line: LineStyle) -> Line2D:
    """What stands beside a name in a legend."""
    color, mark = _look(index)
    return Line2D([], [], color=color, marker=mark, markersize=4.5, linestyle=line, label=name)


def _look(index: int) -> tuple[str, str]:
    """Colour and mark; of more series than colours, no two have both in common."""
    return COLORS[index % len(COLORS)], MARKS[(index + index // len(COLORS)) % len(MARKS)]


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
    handles = []
    middle, apart = (len(series) - 1) / 2, _apart(series)
    for number, line in enumerate(series):
        index = number if line.color is None else line.color
        color, mark = _look(index)
        arms = _arms(line.y, line.intervals)
        # bars at the same place would hide one another
        aside = apart * (number - middle) if arms is not None and log_x else 0
        axes.errorbar(
            np.asarray(line.x, float) * np.exp(aside),
            line.y,
            arms,
            color=color,
            marker=mark if len(line.x) < 40 else "",
            markersize=4.5,
            linestyle=line.line,
            linewidth=1.4,
            elinewidth=1,
            capsize=2.5,
            markerfacecolor="white" if line.fill == "none" else color,
        )
        if line.name:
            handles.append(_handle(short(line.name), index, line.line))
    if log_x:
        axes.set_xscale("log")
        axes.minorticks_off()
    if whole_x:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0.5, max(max(line.x) for line in series) + 0.5)
    if x_ticks:
        axes.set_xticks(x_ticks, [short(f"{tick:,}", 10) for tick in x_ticks])
    axes.set(xlabel=x_label, ylabel=y_label)
    if handles:
        _legend(axes, handles)
    return axes


def _apart(series: Sequence[Series]) -> float:
    """How far apart, in logarithms, bars of the same place stand: all within a third of a gap."""
    places = np.log(np.unique([x for line in series for x in line.x if x > 0]))
    if len(series) < 2 or len(places) < 2:
        return 0.012
    return min(0.012, float(np.diff(places).min()) / 3 / (len(series) - 1))


@_styled
def frontier_lines(
    series: Sequence[Series],
    fronts: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    are_seconds: bool,
) -> str:
    """Points over a logarithmic axis of seconds or prices, and grey lines through some of them.

    Args:
        fronts: the points of each grey line, by the name at its end.
    """
    axes = _axes()
    for points in fronts.values():
        axes.plot(*zip(*points, strict=True), color="#999999", linewidth=1, zorder=1)
    named: dict[int, str] = {}
    for number, line in enumerate(series):
        index = number if line.color is None else line.color
        color, mark = _look(index)
        face = "white" if line.fill == "none" else color
        size = (4 if line.fill == "none" else 6) * (1.4 if mark == "*" else 1)
        fill: Fill = "left" if line.fill == "left" else "full"
        look: dict[str, Any] = {"markerfacecolor": face, "markerfacecoloralt": "white"}
        axes.plot(line.x, line.y, mark, color=color, markersize=size, fillstyle=fill, **look)
        named.setdefault(index, short(line.name))
    axes.set_xscale("log")
    axes.margins(x=0.12)
    marks = [point for line in series for point in zip(line.x, line.y, strict=True)]
    _name_ends(axes, {name: points[-1] for name, points in fronts.items()}, marks)
    axes.minorticks_off()
    ticks = _ticks(*axes.get_xlim(), are_seconds)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set(xlabel=x_label, ylabel=y_label)
    _legend(axes, [_handle(name, index, "none") for index, name in sorted(named.items())])
    return _svg(axes)


def _name_ends(
    axes: Axes, ends: Mapping[str, tuple[float, float]], marks: Sequence[tuple[float, float]]
) -> None:
    """Names right of points, as near as they can be to overlap neither one another nor marks."""
    size = 72 / axes.figure.dpi  # in points, of which a letter of the names takes four or so
    spots = [axes.transData.transform(mark) * size for mark in marks]
    placed: list[tuple[float, float, float]] = []
    for name, end in sorted(ends.items(), key=lambda item: -item[1][1]):
        x, y = axes.transData.transform(end) * size
        right = x + 6 + 4 * len(name)

        def is_free(at: float, x: float = x, right: float = right) -> bool:
            over_mark = any(x + 3 < a < right + 3 and abs(at - b) < 7 for a, b in spots)
            return not over_mark and not any(
                x < other_right and other < right and abs(at - height) < 9
                for other, other_right, height in placed
            )

        near = sorted(range(-80, 81), key=lambda points: (abs(points), points))
        at = next((y + points for points in near if is_free(y + points)), y)
        placed.append((x, right, at))
        place = (6, at - y - 3)
        axes.annotate(
            name, end, xytext=place, textcoords="offset points", fontsize=8, color="#444444"
        )


def _ticks(low: float, high: float, are_seconds: bool) -> dict[float, str]:
    """Round numbers between two, and how they are written, three to six of them if that can be."""
    if not are_seconds:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        powers = {10.0**n: f"{10.0**n:,.10g}" for n in decades}
        all_ = {m * value: f"{m * value:,.10g}" for value in powers for m in (1, 2, 5)}
    else:
        units = {"s": 1.0, "min": 60.0, "h": 3600.0}
        all_ = {n * s: f"{n} {u}" for u, s in units.items() for n in (1, 2, 5, 10, 20, 30)}
        all_ |= {n * 3600.0: f"{n:,} h" for n in (50, 100, 200, 500, 1000, 10_000, 100_000)}
        powers = {s * n: f"{n} {u}" for u, s in units.items() for n in (1, 10)}
        powers |= {n * 3600.0: f"{n:,} h" for n in (100, 1000, 10_000, 100_000)}
    coarse = {at: text for at, text in powers.items() if low <= at <= high}
    fine = {at: text for at, text in all_.items() if low <= at <= high}
    chosen = coarse if len(coarse) > 2 else fine
    return dict(list(chosen.items())[:: max(1, -(-len(chosen) // 6))])


@_styled
def differences(rows: Sequence[tuple[str, Comparison, int | None]], x_label: str) -> str:
    """Differences in points with their intervals beside zero, the first at the top.

    Args:
        rows: name, difference, and the place among ``COLORS`` of a main row; None for one below it.
    """
    axes = _axes(WIDTH, 0.9 + 0.21 * len(rows))
    axes.axvline(0, color="#777777", linewidth=1)
    for at, (_, found, index) in enumerate(rows):
        color, mark = ("#777777", "|") if index is None else _look(index)
        ends = [100 * found.interval.low, 100 * found.interval.high]
        axes.plot(ends, [at, at], color=color, linewidth=1 if index is None else 2)
        axes.plot(100 * found.difference, at, mark, color=color, markersize=6)
    axes.set_yticks(range(len(rows)), [short(name) for name, _, _ in rows])
    for label, (_, _, index) in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color("#555555" if index is None else "black")
    axes.set(xlabel=x_label, ylim=(len(rows) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    return _svg(axes)


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
    axes = _axes(WIDTH, 0.9 + 0.21 * len(names))
    at = np.arange(len(names))
    axes.barh(at, values, color=[_FAINT if pale else _BAR for pale in faint] or _BAR, height=0.66)
    arms = _arms(values, intervals)
    if arms is not None:
        axes.errorbar(values, at, xerr=arms, fmt="none", ecolor="#222222", elinewidth=1)
        axes.set_xlim(0, 100)
    if train_shares:
        label = "share of the training images"
        shares = axes.plot(train_shares, at, "D", color=COLORS[1], markersize=4, label=label)
        _legend(axes, shares)
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
    handles: list[Artist] = []
    for number, (name, counted) in enumerate(bins.items()):
        images, right, believed = counted[counted[:, 0] > 0].T
        x, y, color = believed / images, right / images, COLORS[number % len(COLORS)]
        handles += axes.plot(x, y, color=color, linewidth=1.2, label=short(name))
        # the more images, by their weights, the larger the mark
        axes.scatter(x, y, s=8 + 80 * images / images.sum(), color=color)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
    _legend(axes, handles)
    return _svg(axes)
