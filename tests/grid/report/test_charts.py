"""What charts are made of: colours that everybody can tell apart, round numbers, names in place."""

from itertools import combinations

import numpy as np
import pytest

from semigrid.grid.report import charts

# linear RGB as seen with one kind of cones missing (Machado et al. 2009, severity 1)
SEEN = {
    "all cones": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
TO_XYZ = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]


def linear(color: str) -> np.ndarray:
    rgb = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE 1976, of linear RGB under D65."""
    xyz = np.array(TO_XYZ) @ rgb / [0.9505, 1, 1.0888]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", SEEN)
def test_colours_are_apart_for_all_eyes(kind: str) -> None:
    seen = [lab(np.clip(SEEN[kind] @ linear(color), 0, 1)) for color in charts.COLORS]
    # a difference of 2.3 is just noticeable side by side; black and white are 100 apart
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 20


def test_colours_can_be_seen_on_white() -> None:
    for color in charts.COLORS:
        luminance = float(np.array(TO_XYZ[1]) @ linear(color))
        assert 1.05 / (luminance + 0.05) > 3, color  # WCAG 2.1, 1.4.11


def test_no_two_of_many_models_look_alike() -> None:
    assert len({charts._look(number) for number in range(64)}) == 64


def test_the_costs_axis_has_round_numbers() -> None:
    assert list(charts._ticks(8, 4e4, True).values()) == ["10 s", "1 min", "10 min", "1 h", "10 h"]
    assert list(charts._ticks(130, 1500, True).values()) == ["5 min", "10 min", "20 min"]
    assert charts._ticks(0.02, 30, False) == {0.1: "0.1", 1.0: "1", 10.0: "10"}
    assert list(charts._ticks(1.5, 25, False).values()) == ["2", "5", "10", "20"]


def test_names_at_the_ends_of_lines_do_not_overlap() -> None:
    axes = charts._axes()
    axes.set(xlim=(0, 1), ylim=(0, 100))
    charts._name_ends(axes, {"a": (0.5, 50.0), "b": (0.5, 50.5), "c": (0.5, 90.0)}, [])
    points = axes.transData.transform([(0.5, y) for y in (90.0, 50.5, 50.0)])[:, 1] * 72
    at = points / axes.figure.dpi + [text.xyann[1] for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == ["c", "b", "a"]
    assert np.all(-np.diff(at) >= 9)


def test_names_at_the_ends_of_lines_cover_no_mark() -> None:
    axes = charts._axes()
    axes.set(xlim=(0, 1), ylim=(0, 100))
    size = 72 / axes.figure.dpi
    place = axes.transData.inverted().transform(axes.transData.transform((0.5, 50)) + 20 / size)
    beside = float(place[0]), 50.0  # 20 points right of the end, where the name would stand
    charts._name_ends(axes, {"397 labels": (0.5, 50.0)}, [(0.5, 50.0), beside])
    (text,) = axes.texts
    assert text.xyann == (6, -10)  # without that mark 3 points below its own, the letters' middle
