"""What ``make accuracy`` prints: a line for each set and number of labels, in Markdown."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Cell = dict[str, Any]
Pair = dict[str, Any]


def table(files: Sequence[Path], semigrid: Sequence[str]) -> Iterator[str]:
    """The table of the experiments' results, as ``semigrid table`` has them."""

    def read(file: Path, *view: str) -> list[dict[str, Any]]:
        command = [*semigrid, "table", str(file), *view, "--format", "json"]
        found: list[dict[str, Any]] = json.loads(subprocess.check_output(command))
        return found

    yield "| set | labels to train | pool | fine-tuned | as long as semi | semi | semi − as long |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for file in files:
        yield from rows(file.stem, read(file), read(file, "--view", "comparisons"))


def rows(name: str, cells: Sequence[Cell], pairs: Sequence[Pair]) -> Iterator[str]:
    """A set's lines: balanced Acc@1 on test, and what the pool is worth beyond its steps."""
    for semi in cells:
        if semi["unlabeled"] is None:
            continue
        alike = [cell for cell in cells if cell["labels"] == semi["labels"] and cell is not semi]
        tuned = next(cell for cell in alike if cell["control"] is None)
        control = next(cell for cell in alike if cell["control"] == "compute")
        scores = " | ".join(score(cell) for cell in (tuned, control, semi))
        worth = difference(semi["cell"], control["cell"], pairs)
        yield f"| {name} | {semi['train_images']} | {semi['pool_images']} | {scores} | {worth} |"


def score(cell: Cell) -> str:
    """``81.2 [77.0, 84.9]``; a cell without scores has a dash."""
    if cell["acc1"] is None:
        return "–"
    return f"{cell['acc1']:.1f} [{cell['acc1_low']:.1f}, {cell['acc1_high']:.1f}]"


def difference(one: str, other: str, pairs: Sequence[Pair]) -> str:
    """``+1.3 [−0.4, +3.0]``: one cell's Acc@1 less the other's, and its 95 % interval."""
    for pair in pairs:
        low, mean, high = (pair[f"difference{end}"] for end in ("_low", "", "_high"))
        if (pair["cell"], pair["other"]) == (one, other):
            return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]".replace("-", "−")
        if (pair["cell"], pair["other"]) == (other, one):
            return f"{-mean:+.1f} [{-high:+.1f}, {-low:+.1f}]".replace("-", "−")
    return "–"
