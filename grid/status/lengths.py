"""How long each cell's trainings are, and what was fitted to its number of images."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from semigrid.grid.study.plan import Plan, Search
from semigrid.trainers.methods import epochs_of, resolve
from semigrid.trainers.recipe import PoolRecipe, SteppedRecipe

_FITTED = ("batch_size", "base_lr", "steps", "warmup_steps", "ema_decay")


@dataclass(frozen=True)
class CellLength:
    """The training of a cell by its own recipe, which a search may vary.

    Attributes:
        cell: the cell's name.
        batch_size: labelled images in a step, over all workers.
        pool_batch_size: unlabelled images in a step; None without a pool.
        epochs: passes over the labelled set, or over the cell's own pool.
        base_lr: learning rate per 256 labelled images; a step's is ``base_lr`` · batch / 256.
        published: the published values that were fitted to a small set (docs/recipes.md), of
            ``batch_size``, ``base_lr``, ``steps``, ``warmup_steps`` and ``ema_decay``.
    """

    cell: str
    steps: int
    warmup_steps: int
    batch_size: int
    pool_batch_size: int | None
    epochs: float
    base_lr: float
    ema_decay: float
    published: dict[str, float]


def lengths(plan: Plan) -> list[CellLength]:
    """The lengths of a plan's cells, and last those of searches that cells only start from.

    Those of methods without steps have none.
    """
    order = {cell.name: number for number, cell in enumerate(plan.cells)}
    searches = sorted(plan.searches, key=lambda search: order.get(search.name, len(order)))
    return [length for search in searches if (length := _length(plan, search)) is not None]


def _length(plan: Plan, search: Search) -> CellLength | None:
    spec = plan.spec(search, {}, 0, "a parent" if search.parent else None)
    recipe, with_pool = spec.recipe, spec.pool_images is not None
    if not isinstance(recipe, SteppedRecipe):
        return None
    images, epoch_pool = plan.labeled(search.cell), plan.epoch_pool(search.cell)
    unfitted = resolve(plan.recipe(search), spec.method, images, epoch_pool, fit=False)
    return CellLength(
        cell=search.name,
        steps=recipe.total_steps,
        warmup_steps=recipe.warmup_steps or 0,
        batch_size=recipe.batch_size,
        pool_batch_size=(
            recipe.pool_batch_size if with_pool and isinstance(recipe, PoolRecipe) else None
        ),
        epochs=epochs_of(recipe, spec.method, images, spec.pool_images or 0),
        base_lr=recipe.base_lr,
        ema_decay=recipe.ema_decay or 0.0,
        published={
            name: getattr(unfitted, name)
            for name in _FITTED
            if getattr(unfitted, name) != getattr(recipe, name)
        },
    )


def lengths_parts(found: list[CellLength]) -> Iterator[Table | Text]:
    """Steps, batch and epochs of each cell, published values in brackets where they differ."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("cell", overflow="fold")
    for name in ("steps", "batch", "epochs"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found:
        batch = f"{each.batch_size:,}"
        if each.pool_batch_size is not None:
            batch += f"+{each.pool_batch_size:,}"
        table.add_row(
            each.cell,
            f"{each.steps:,}{_bracket(each, 'steps')}",
            batch + _bracket(each, "batch_size"),
            f"{each.epochs:,.0f}" if each.epochs >= 10 else f"{each.epochs:.2g}",
        )
    yield table
    if any(each.published for each in found):
        yield Text("in brackets: as published, for more images than these (docs/recipes.md)")


def _bracket(each: CellLength, name: str) -> str:
    return f" ({each.published[name]:,})" if name in each.published else ""
