"""Charts as SVG, drawn by matplotlib. Pure: numbers and names in, text out.

A chart is as wide as a phone, so that its letters can be read there; a page puts several side by
side. Text stays text (it can be searched, and read aloud), and text from data is never taken for
formulas or markup.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# dark enough for white paper (contrast above 4.5), apart for colour-blind eyes, and each its mark
COLORS = ("#0b5394", "#a64b00", "#00664b", "#86207a", "#444444", "#8a6d00", "#b3123a", "#1c7c8c")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH, HEIGHT = 4.6, 3.3  # inches
_BAR, _FAINT = "#7fa8d1", "#d3dfec"  # a dark whisker is seen on them
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


@dataclass(frozen=True)
class Line:
    """Points of one name; ``low`` and ``high`` are ends of intervals, where there are any."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    joined: bool = True
    color: int | None = None


@dataclass(frozen=True)
class Ticks:
    """Places on an axis and what stands there."""

    at: Sequence[float]
    names: Sequence[str] = field(default_factory=list)


def short(name: str, letters: int = SHORT) -> str:
    """A name as an axis has room for it."""
    name = " ".join(name.split())
    return name if len(name) <= letters else name[: letters - 1] + "…"


@contextmanager
def _figure(draw: dict[str, str], width: float, height: float) -> Iterator[Axes]:
    """An empty chart; what is drawn on it is ``draw["svg"]`` afterwards."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure.subplots()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    draw["svg"] = _inline(buffer.getvalue())


def _inline(svg: str) -> str:
    """Only the element, which takes the width of where it stands."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, _, rest = svg.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    plain = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    return f'{plain}{box.group()} aria-hidden="true" focusable="false">{rest}'


def with_own_ids(svg: str, prefix: str) -> str:
    """The same with ids that no other chart of the page has."""
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}\1"', svg)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", svg)


def lines(
    found: Sequence[Line],
    x_label: str,
    y_label: str,
    log_x: bool = False,
    x_ticks: Ticks | None = None,
    whole_x: bool = False,
) -> str:
    """Lines with marks, and intervals as bars.

    Args:
        whole_x: whether there is nothing between one and two, of trials for example.
    """
    drawn: dict[str, str] = {}
    with _figure(drawn, WIDTH, HEIGHT) as axes:
        for number, line in enumerate(found):
            index = (number if line.color is None else line.color) % len(COLORS)
            error = None
            if line.low is not None and line.high is not None:
                y = np.asarray(line.y, float)
                error = [y - np.asarray(line.low), np.asarray(line.high) - y]
            # bars at the same place would hide one another
            aside = 0.012 * (number - (len(found) - 1) / 2) if error is not None and log_x else 0
            axes.errorbar(
                np.asarray(line.x, float) * np.exp(aside),
                line.y,
                _at_least_none(error),
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
            axes.set_xlim(0.5, max(max(line.x) for line in found) + 0.5)
        if x_ticks is not None:
            axes.set_xticks(list(x_ticks.at), [short(name, 10) for name in x_ticks.names])
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if len(found) > 1 or found and found[0].name:
            _legend(axes, len(found))
    return drawn["svg"]


def _at_least_none(error: list[np.ndarray] | None) -> Any:
    """Never below nothing: a mean may lie a rounding outside of its interval."""
    return None if error is None else [np.maximum(0, side) for side in error]


def _legend(axes: Axes, count: int) -> None:
    """Below the chart: on a phone there is no room beside it, and inside it would hide points."""
    axes.figure.legend(
        loc="outside lower center", ncols=2 if count > 1 else 1, handlelength=1.6, columnspacing=1
    )


def bars(
    names: Sequence[str],
    values: Sequence[float],
    x_label: str,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    beside: Sequence[float] | None = None,
    beside_label: str = "",
    faint: Sequence[bool] | None = None,
    limit: float | None = None,
) -> str:
    """Horizontal bars, the first at the top; ``beside`` has a second value of each as a mark."""
    drawn: dict[str, str] = {}
    at = np.arange(len(names))
    with _figure(drawn, WIDTH, 1.1 + 0.21 * len(names)) as axes:
        colors = [_FAINT if faint and faint[i] else _BAR for i in range(len(names))]
        error = None
        if low is not None and high is not None:
            middle = np.asarray(values, float)
            error = [middle - np.asarray(low), np.asarray(high) - middle]
        axes.barh(at, values, color=colors, height=0.66)
        if error is not None:
            axes.errorbar(
                values, at, xerr=_at_least_none(error), fmt="none", ecolor="#222222", elinewidth=1
            )
        if beside is not None:
            axes.plot(beside, at, "D", color=COLORS[1], markersize=4, label=beside_label)
            _legend(axes, 1)
        axes.set_yticks(at, [short(name) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        if limit is not None:
            axes.set_xlim(0, limit)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(x_label)
    return drawn["svg"]


def heat(matrix: np.ndarray, names: Sequence[str]) -> str:
    """A confusion matrix in shares of each row; numbers stand where there is room."""
    drawn: dict[str, str] = {}
    size = len(names)
    images = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.where(images == 0, 1, images)
    side = min(7.5, max(WIDTH, 1.6 + 0.22 * size))
    with _figure(drawn, side, side) as axes:
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        letters = 14 if size <= 15 else 10
        font = 8 if size <= 15 else 6
        shown = [short(name, letters) for name in names]
        axes.set_xticks(range(size), shown, rotation=90, fontsize=font)
        axes.set_yticks(range(size), shown, fontsize=font)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.grid(visible=False)
        if size <= 15:
            for i, j in zip(*np.nonzero(shares >= 0.005), strict=True):
                color = "white" if shares[i, j] > 0.55 else "black"
                text = f"{100 * shares[i, j]:.0f}"
                axes.text(j, i, text, ha="center", va="center", color=color, fontsize=7)
    return drawn["svg"]


def reliability(bins: Mapping[str, np.ndarray]) -> str:
    """Accuracy against confidence, by name; ``(B, 3)`` as ``calibration_bins`` returns."""
    drawn: dict[str, str] = {}
    with _figure(drawn, WIDTH, WIDTH * 0.85) as axes:
        axes.plot([0, 1], [0, 1], color="#777777", linewidth=1, linestyle="--")
        for number, (name, counted) in enumerate(bins.items()):
            images, right, believed = counted[counted[:, 0] > 0].T
            axes.plot(
                believed / images,
                right / images,
                color=COLORS[number % len(COLORS)],
                linewidth=1.2,
                label=short(name),
            )
            # the more images, the larger the mark
            axes.scatter(
                believed / images,
                right / images,
                s=8 + 80 * images / images.sum(),
                color=COLORS[number % len(COLORS)],
            )
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        _legend(axes, len(bins))
    return drawn["svg"]
