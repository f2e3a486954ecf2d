"""Which cells of a dataset can be told apart: every pair of them, corrected for how many."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from semigrid.grid.analysis.measured import Measured
from semigrid.grid.analysis.statistics import LEVEL, Comparison, compare, holm
from semigrid.grid.study.plan import Cell

NOT_SEPARABLE = "not separable"


@dataclass(frozen=True)
class Pair:
    """Two cells on the same test images, the better one first.

    ``p`` is corrected among all pairs of the dataset (Holm), so that what is said of the best
    cell holds although it was chosen by its score.
    """

    better: Cell
    other: Cell
    found: Comparison
    p: float

    @property
    def separable(self) -> bool:
        return self.p < 1 - LEVEL


@dataclass(frozen=True)
class Standings:
    """All pairs of each dataset's measured cells, and each dataset's best cell by Acc@1."""

    pairs: dict[str, list[Pair]]
    best: dict[str, Cell]

    def is_marked(self, cell: Cell) -> bool:
        """Whether the cell is the best of its dataset, and separable from every other."""
        if self.best.get(cell.dataset) != cell:
            return False
        rivals = [pair for pair in self.pairs[cell.dataset] if cell in (pair.better, pair.other)]
        return bool(rivals) and all(pair.separable for pair in rivals)

    def to_best(self, cell: Cell) -> Pair | None:
        """The comparison with the dataset's best cell; None for that one, and without scores."""
        best = self.best.get(cell.dataset)
        for pair in self.pairs.get(cell.dataset, []):
            if {pair.better, pair.other} == {best, cell}:
                return pair
        return None

    def notes(self) -> list[str]:
        """Where no value is marked as the best, and why."""
        found = []
        for dataset, best in self.best.items():
            pairs = self.pairs[dataset]
            level = [
                pair.other.name.removeprefix(f"{dataset}/")
                for pair in pairs
                if pair.better == best and not pair.separable
            ]
            if level:
                found.append(
                    f"no value of {dataset} is marked as the best: the highest is {NOT_SEPARABLE} "
                    f"from {_few(level)} (paired tests on the same test images, at {LEVEL:.0%} for "
                    f"all {len(pairs)} pairs together)"
                )
        return found


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{len(names)} others, first {names[0]}"


def compare_all(measured: Measured, cells: Sequence[Cell]) -> Standings:
    """Compares every pair of cells that have predictions, dataset by dataset."""
    rights = {cell: right for cell in cells if (right := measured.right(cell)) is not None}
    pairs: dict[str, list[Pair]] = {}
    best: dict[str, Cell] = {}
    for dataset in dict.fromkeys(cell.dataset for cell in rights):
        # of equal ones the first of the file
        ranked = sorted(
            (cell for cell in rights if cell.dataset == dataset),
            key=lambda cell: -float(rights[cell].mean()),
        )
        best[dataset] = ranked[0]
        both = list(combinations(ranked, 2))
        found = [compare(rights[first], rights[second]) for first, second in both]
        corrected = holm([each.p for each in found]) if found else []
        pairs[dataset] = [
            Pair(first, second, each, p)
            for (first, second), each, p in zip(both, found, corrected, strict=True)
        ]
    return Standings(pairs, best)
