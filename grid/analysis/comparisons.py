"""Which cells of a dataset can be told apart: all pairs, and the few that were planned."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

from semigrid.grid.analysis.statistics import LEVEL, Comparison, Weighted, compare, holm
from semigrid.grid.study.plan import Cell

NOT_SEPARABLE = "not separable"


@dataclass(frozen=True)
class Pair:
    """Two cells on the same test images, the better one first.

    ``p`` is corrected among all pairs of the dataset (Holm), so that a statement about the best
    cell holds although that cell was picked by its score.
    """

    better: Cell
    other: Cell
    comparison: Comparison
    p: float

    @property
    def separable(self) -> bool:
        return self.p < 1 - LEVEL


@dataclass(frozen=True)
class Standings:
    """All pairs of each dataset's cells with predictions, and its best cell by balanced Acc@1."""

    pairs: dict[str, list[Pair]]
    best: dict[str, Cell]

    def rivals(self, dataset: str) -> list[Pair]:
        """The dataset's best cell with each other one."""
        best = self.best.get(dataset)
        return [pair for pair in self.pairs.get(dataset, []) if pair.better == best]

    def to_best(self, cell: Cell) -> Pair | None:
        """The comparison with the dataset's best cell; None for that cell, and without scores."""
        return next((pair for pair in self.rivals(cell.dataset) if pair.other == cell), None)

    def standing(self, cell: Cell) -> str | None:
        """``best``, ``not separable`` from the best, or ``below`` it; None without predictions.

        ``best`` is the best of its dataset only if it is separable from every other.
        """
        if self.best.get(cell.dataset) == cell:
            rivals = self.rivals(cell.dataset)
            is_best = bool(rivals) and all(pair.separable for pair in rivals)
            return "best" if is_best else NOT_SEPARABLE
        pair = self.to_best(cell)
        if pair is None:
            return None
        return "below" if pair.separable else NOT_SEPARABLE

    def notes(self) -> list[str]:
        """For each dataset where no value is marked as the best, the reason."""
        notes = []
        for dataset, pairs in self.pairs.items():
            equals = [
                pair.other.name.removeprefix(f"{dataset}/")
                for pair in self.rivals(dataset)
                if not pair.separable
            ]
            if equals:
                many = f"{len(equals)} others, first {equals[0]}"
                notes.append(
                    f"no value of {dataset} is marked as the best: the highest is {NOT_SEPARABLE} "
                    f"from {', '.join(equals) if len(equals) <= 3 else many} (paired tests on the "
                    f"same test images, at {LEVEL:.0%} for all {len(pairs)} pairs together)"
                )
        return notes


def comparer(rights: Mapping[Cell, Weighted]) -> Callable[[Cell, Cell], Comparison]:
    """A function that compares any two of these cells, the first minus the second.

    At 95 % for all pairs together (Bonferroni), so that what it says holds of a cell that was
    picked by its score, too. How far trainings scatter is told by the seeds of all of them.
    """
    level = 1 - (1 - LEVEL) / max(1, len(rights) * (len(rights) - 1) // 2)

    def compared(first: Cell, second: Cell) -> Comparison:
        others = [right for cell, right in rights.items() if cell not in (first, second)]
        return compare(rights[first], rights[second], level, others)

    return compared


@dataclass(frozen=True)
class Planned:
    """A cell minus its baseline on the same test images: a pair that is known before any score.

    ``p`` is corrected among the planned pairs of the dataset only (Holm): they are few, and no
    score has chosen them.
    """

    cell: Cell
    baseline: Cell
    comparison: Comparison
    p: float


def compare_planned(
    rights: Mapping[Cell, Weighted], baseline_of: Callable[[Cell], Cell | None]
) -> dict[Cell, Planned]:
    """Compares each cell with its baseline, where there are scores of both.

    Args:
        rights: each cell's score.
        baseline_of: as ``Plan.baseline_of``.
    """
    planned: dict[Cell, Planned] = {}
    for dataset in dict.fromkeys(cell.dataset for cell in rights):
        pairs = [
            (cell, baseline)
            for cell in rights
            if cell.dataset == dataset
            if (baseline := baseline_of(cell)) is not None and baseline in rights
        ]
        comparisons = [compare(rights[cell], rights[baseline]) for cell, baseline in pairs]
        corrected = holm([comparison.p for comparison in comparisons])
        for (cell, baseline), comparison, p in zip(pairs, comparisons, corrected, strict=True):
            planned[cell] = Planned(cell, baseline, comparison, p)
    return planned


def compare_all(rights: Mapping[Cell, Weighted]) -> Standings:
    """Compares every pair of cells of each dataset.

    Args:
        rights: each cell's score, in the order in which cells that are equally good are ranked.
    """
    pairs: dict[str, list[Pair]] = {}
    best: dict[str, Cell] = {}
    for dataset in dict.fromkeys(cell.dataset for cell in rights):
        ranked = sorted(
            (cell for cell in rights if cell.dataset == dataset),
            key=lambda cell: -float(rights[cell].mean()),
        )
        best[dataset] = ranked[0]
        both = list(combinations(ranked, 2))
        comparisons = [compare(rights[first], rights[second]) for first, second in both]
        corrected = holm([comparison.p for comparison in comparisons])
        pairs[dataset] = [
            Pair(first, second, comparison, p)
            for (first, second), comparison, p in zip(both, comparisons, corrected, strict=True)
        ]
    return Standings(pairs, best)
