"""From an experiment to cells, searches and trials; reads no files."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from semigrid.data.errors import InputError
from semigrid.data.splits import pool_subset
from semigrid.grid.experiment.checks import labeled_images
from semigrid.grid.experiment.experiment import Experiment
from semigrid.grid.experiment.label_count import val_fraction
from semigrid.grid.experiment.messages import nearest
from semigrid.grid.experiment.schema import show_percent
from semigrid.trainers.methods import METHODS, resolve
from semigrid.trainers.options import uses_ray_stream
from semigrid.trainers.recipe import Recipe
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.job import Place


@dataclass(frozen=True)
class Cell:
    """One row of the results table: dataset × model × label fraction × unlabelled multiplier."""

    dataset: str
    model: str
    labels: Fraction
    unlabeled: Fraction | None  # None for finetune

    @property
    def name(self) -> str:
        """``aprons/semi-vit/50%/300%``."""
        parts = [self.dataset, self.model, show_percent(self.labels)]
        if self.unlabeled is not None:
            parts.append(show_percent(self.unlabeled))
        return "/".join(parts)


@dataclass(frozen=True)
class Search:
    """The trainings of one cell.

    Attributes:
        parent: the search whose winner its trials start from.
        in_table: whether the file's grid has this cell; False for one that only others start from.
        neighbor: name of the search with the next smaller label fraction or, at the smallest, with
            the next smaller pool.
    """

    cell: Cell
    parent: "Search | None"
    in_table: bool
    neighbor: str | None = None

    @property
    def name(self) -> str:
        return self.cell.name


class Plan:
    """All searches of an experiment; parents and neighbours come before those that need them."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.cells = _cells(experiment)
        self.searches = _searches(experiment, self.cells)

    @property
    def trials(self) -> int:
        """Trials per search."""
        return self.experiment.file.search.trials

    @property
    def trainings_per_search(self) -> int:
        """A search's trials, and its winner on the other seeds."""
        return self.trials + self.experiment.file.seeds - 1

    def matching(self, patterns: Sequence[str]) -> list[str]:
        """Names of the cells that match any of the patterns, such as ``aprons/semi-vit/*``.

        ``*`` also matches ``/``. Raises ``InputError`` for patterns that match no cell.
        """
        names = [cell.name for cell in self.cells]
        matches = {pattern: fnmatch.filter(names, pattern) for pattern in patterns}
        problems = [
            f"--only {pattern!r}: no cell of {self.experiment.source} is called that; "
            + nearest(pattern, names)
            for pattern, matched in matches.items()
            if not matched
        ]
        if problems:
            raise InputError(*problems)
        return [name for name in names if any(name in matched for matched in matches.values())]

    @cached_property
    def _recipes(self) -> dict[str, Recipe]:
        file = self.experiment.file
        return {name: self.experiment.recipe_of(name) for name in file.models}

    def recipe(self, search: Search) -> Recipe:
        """The model's recipe, which the search varies; not resolved."""
        return self._recipes[search.cell.model]

    def pool_images(self, search: Search) -> int | None:
        if search.cell.unlabeled is None:
            return None
        return pool_subset(self.experiment.pool_unit(search.cell.dataset), search.cell.unlabeled)

    def spec(
        self, search: Search, params: dict[str, float], seed: int, parent_id: str | None
    ) -> TrialSpec:
        """The trial with these hyper-parameters over the search's recipe."""
        file, cell = self.experiment.file, search.cell
        model, backbone = file.models[cell.model], self.experiment.backbone_of(cell.model)
        dataset = self.experiment.datasets[cell.dataset]
        pool_images = self.pool_images(search)
        recipe = resolve(
            self.recipe(search).model_copy(update=params),
            model.method,
            labeled_images(dataset, cell.labels),
            pool_images or 0,
        )
        weights = self.experiment.weights_of(cell.model)
        start = "timm" if backbone.pretrained is True else f"sha256:{weights and weights.sha256}"
        assert backbone.backbone is not None
        return TrialSpec(
            dataset=dataset.manifest.fingerprint,
            labels=str(cell.labels),
            pool_images=pool_images,
            backbone=backbone.backbone,
            backbone_args=backbone.backbone_args,
            weights="random" if weights is None else start,
            method=model.method,
            recipe=recipe,
            precision=file.train.precision,
            seed=seed,
            parent=parent_id,
            metric=file.search.metric,
            validation=str(val_fraction(self.experiment, cell.dataset, cell.labels)),
        )

    def place(self, search: Search, folder: str, patience: float | None = None) -> Place:
        """Where the data of a search's trials are.

        Args:
            patience: seconds to wait for storage that vanishes.
        """
        weights = self.experiment.weights_of(search.cell.model)
        return Place(
            dataset_uri=self.experiment.dataset_uri(search.cell.dataset),
            folder=folder,
            patience=patience,
            weights_uri=None if weights is None else weights.source,
        )

    @cached_property
    def forwards(self) -> dict[str, int]:
        """``TrialSpec.forwards`` of one training of each search, by its name."""
        return {s.name: self.spec(s, {}, 0, None).forwards for s in self.searches}

    @property
    def streams_pool(self) -> bool:
        """Whether Ray Data streams the pool of any cell."""
        stream = self.experiment.file.train.stream
        names = {s.cell.dataset for s in self.searches if s.cell.unlabeled is not None}
        return any(uses_ray_stream(stream, self.experiment.datasets[name]) for name in names)

    def priorities(self) -> dict[str, int]:
        """Forwards on the longest chain of trainings that begins with each search."""
        chain = dict(self.forwards)
        for search in reversed(self.searches):  # children before parents
            if search.parent is not None:
                name = search.parent.name
                chain[name] = max(chain[name], self.forwards[name] + chain[search.name])
        return chain

    def counts(self) -> dict[str, int]:
        """Counts for ``semigrid plan``; ``trainings_unshared`` if every cell trained its parent."""
        each, rows = self.trainings_per_search, [s for s in self.searches if s.in_table]
        return {
            "cells": len(self.cells),
            "searches": len(self.searches),
            "trials_per_search": self.trials,
            "seeds": self.experiment.file.seeds,
            "trainings": len(self.searches) * each,
            "trainings_unshared": sum(1 if s.parent is None else 2 for s in rows) * each,
            "forwards": sum(self.forwards.values()) * each,
        }


def _cells(experiment: Experiment) -> list[Cell]:
    cells = []
    for entry in experiment.file.grid:
        multipliers: list[Fraction | None] = [None]
        if METHODS[experiment.file.models[entry.model].method].needs_pool:
            multipliers = list(entry.unlabeled or [Fraction(1)])
        for dataset in entry.datasets or experiment.file.datasets:
            cells += [
                Cell(dataset, entry.model, fraction, multiplier)
                for fraction in entry.labels
                for multiplier in multipliers
            ]
    return cells


def _searches(experiment: Experiment, cells: list[Cell]) -> list[Search]:
    def parent_of(cell: Cell) -> Cell | None:
        model = experiment.file.models[cell.model].from_
        return None if model is None else Cell(cell.dataset, model, cell.labels, None)

    in_table = set(cells)
    pairs = [each for cell in cells for each in (parent_of(cell), cell)]
    wanted = list(dict.fromkeys(cell for cell in pairs if cell is not None))
    # no parent has a parent of its own
    wanted.sort(key=lambda c: (parent_of(c) is not None, c.labels, c.unlabeled or Fraction(0)))
    searches: dict[Cell | None, Search] = {}
    for cell in wanted:
        parent = searches.get(parent_of(cell))
        searches[cell] = Search(cell, parent, cell in in_table, _neighbor(cell, wanted))
    return list(searches.values())


def _neighbor(cell: Cell, cells: list[Cell]) -> str | None:
    alike = [c for c in cells if (c.dataset, c.model) == (cell.dataset, cell.model)]
    fewer = [c for c in alike if c.unlabeled == cell.unlabeled and c.labels < cell.labels]
    if fewer:
        return max(fewer, key=lambda c: c.labels).name
    pool = cell.unlabeled or Fraction(0)
    less = [c for c in alike if c.labels == cell.labels and (c.unlabeled or 0) < pool]
    return max(less, key=lambda c: c.unlabeled or 0).name if less else None
