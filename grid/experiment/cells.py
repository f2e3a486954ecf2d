"""Which cells a file's grid asks for, and which of them make the soft targets of another."""

from collections.abc import Iterator
from fractions import Fraction

from semigrid.grid.experiment.schema import ExperimentFile, GridEntry, show_percent
from semigrid.trainers.methods import find_method

# dataset, model, label fraction, and unlabelled multiplier or None without a pool
Asked = tuple[str, str, Fraction, Fraction | None]


def multipliers(entry: GridEntry, method: str) -> list[Fraction | None]:
    """The pools of a grid entry's cells; None for the one without."""
    pool = find_method(method).pool
    if pool == "none" or not (entry.unlabeled or pool == "required"):
        return [None]
    return [*(entry.unlabeled or [Fraction(1)])]


def asked_cells(file: ExperimentFile) -> Iterator[Asked]:
    """The cells of a file's grid, in its order, without controls."""
    for entry in file.grid:
        pools = multipliers(entry, file.models[entry.model].method)
        for dataset in entry.datasets or file.datasets:
            for fraction in entry.labels:
                for multiplier in pools:
                    yield dataset, entry.model, fraction, multiplier


def teacher_cell(file: ExperimentFile, teacher: str, student: Asked) -> Asked:
    """The teacher's cell whose winner makes the soft targets of a student's cell.

    The one of the grid with the same dataset, fraction and multiplier or, where the teacher has a
    single cell at that fraction, that one: a model without a pool, or one with another pool.
    Raises ``LookupError``, which says what there is instead.
    """
    dataset, _, fraction, multiplier = student
    of_model = [cell for cell in asked_cells(file) if cell[:2] == (dataset, teacher)]
    alike = [cell for cell in of_model if cell[2] == fraction]
    same = [cell for cell in alike if cell[3] == multiplier]
    if len(same or alike) == 1:
        return (same or alike)[0]
    at = f"{dataset}/{teacher}/{show_percent(fraction)}"
    if alike:
        found = ", ".join(show_percent(cell[3]) if cell[3] else "none" for cell in alike)
        raise LookupError(
            f"{at} has several pools, and none is {_pool(multiplier)} (unlabeled: {found})"
        )
    found = ", ".join(dict.fromkeys(show_percent(cell[2]) for cell in of_model))
    raise LookupError(
        f"grid has no cell {at}" + (f", only at {found} of the labels" if found else "")
    )


def _pool(multiplier: Fraction | None) -> str:
    return "none" if multiplier is None else show_percent(multiplier)
