"""Candidates for the rule of docs/recipes.md at equal cost, on val of real sets.

``python -m tests.accuracy.rule`` trains in this process, one thread, without Ray, and prints the
tables. Run it again to resume, with ``--table`` to see what there is. Test is not looked at.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from scipy.stats import t
from tests.accuracy.candidates import COMPARISONS, Comparison
from tests.accuracy.sets import SETS
from tests.accuracy.trainings import Cell, Trainings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("results/accuracy"))
    parser.add_argument("--only", nargs="+", choices=COMPARISONS, default=list(COMPARISONS))
    parser.add_argument("--sets", nargs="+", choices=SETS, help="only these sets")
    parser.add_argument("--labels", nargs="+", type=int, help="only these numbers of labels")
    parser.add_argument("--candidates", nargs="+", help="only these candidates")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="train nothing, show what there is")
    args = parser.parse_args()
    trainings = Trainings(args.folder)
    for name in [] if args.table else args.only:
        train(COMPARISONS[name], args, trainings)
    for name, score in product(args.only, ("balanced", "plain")):
        print(f"\n{name}, {score} Acc@1 on val\n")
        print("\n".join(table(COMPARISONS[name], trainings, args.seeds, score)))


def train(compared: Comparison, args: argparse.Namespace, trainings: Trainings) -> None:
    """Trains what is missing, seed by seed, so that what there is can be compared at any time."""
    cells = product(range(args.seeds), args.labels or compared.labels, args.sets or compared.sets)
    for (seed, labels, name), candidate in product(cells, args.candidates or compared.candidates):
        values = compared.candidates[candidate]
        line = trainings.result(Cell(name, labels), values, seed, compared.parent)
        print(candidate, line, flush=True)


def table(compared: Comparison, trainings: Trainings, seeds: int, score: str) -> Iterator[str]:
    """In Markdown: a line for each set and number of labels, and the mean over these lines.

    A candidate has its mean and standard deviation over seeds. The mean of its differences from the
    first one, seed by seed, has a 95 % interval by Student's t: over seeds, and in the last line
    over the lines above it.
    """
    first, *others = compared.candidates
    yield _line("set", "labels", first, *(f"{name} | difference" for name in others))
    yield "|---|" + "---:|" * (2 + 2 * len(others))
    means: dict[str, list[float]] = {name: [] for name in others}
    for name, labels in product(compared.sets, compared.labels):
        cell = Cell(name, labels)
        found = {
            candidate: _by_seed(compared, cell, candidate, trainings, seeds, score)
            for candidate in compared.candidates
        }
        if not any(found.values()):
            continue
        columns = [mean_and_deviation([*found[first].values()])]
        for other in others:
            pairs = [
                value - found[first][seed]
                for seed, value in found[other].items()
                if seed in found[first]
            ]
            columns += [mean_and_deviation([*found[other].values()]), with_interval(pairs)]
            means[other] += [statistics.fmean(pairs)] if pairs else []
        yield _line(name, str(trainings.labeled(cell)), *columns)
    yield _line("mean", "", "", *(f"| {with_interval(means[other])}" for other in others))


def _by_seed(
    compared: Comparison, cell: Cell, candidate: str, trainings: Trainings, seeds: int, score: str
) -> dict[int, float]:
    values = compared.candidates[candidate]
    done = {
        seed: trainings.result(cell, values, seed, compared.parent, train=False)
        for seed in range(seeds)
    }
    return {seed: line[score] for seed, line in done.items() if line and line[score] is not None}


def _line(*columns: str) -> str:
    return f"| {' | '.join(columns)} |"


def mean_and_deviation(values: Sequence[float]) -> str:
    """``74.0 ± 1.2``; one value alone, and a dash for none."""
    if len(values) < 2:
        return "".join(f"{value:.1f}" for value in values) or "–"
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"


def with_interval(differences: Sequence[float]) -> str:
    """The mean of paired differences and its 95 % interval by Student's t."""
    if len(differences) < 2:
        return "".join(f"{value:+.1f}" for value in differences).replace("-", "−") or "–"
    mean, count = statistics.fmean(differences), len(differences)
    half = t.ppf(0.975, count - 1) * statistics.stdev(differences) / count**0.5
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]".replace("-", "−")


if __name__ == "__main__":
    main()
