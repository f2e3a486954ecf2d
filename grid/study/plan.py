"""From an experiment to cells, searches and trials; reads no files."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from semigrid.data.errors import InputError
from semigrid.data.splits import pool_subset
from semigrid.grid.experiment import Experiment, labeled_images, nearest, show_percent
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

    @property
    def trainings(self) -> int:
        return len(self.searches) * self.trainings_per_search

    @property
    def trainings_unshared(self) -> int:
        """The trainings if every cell trained its own parent."""
        chains = sum(_chain_length(s) for s in self.searches if s.in_table)
        return chains * self.trainings_per_search

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
        assert backbone.backbone is not None
        return TrialSpec(
            dataset=dataset.manifest.fingerprint,
            labels=str(cell.labels),
            pool_images=pool_images,
            backbone=backbone.backbone,
            backbone_args=backbone.backbone_args,
            weights=self._start(cell.model),
            method=model.method,
            recipe=recipe,
            precision=file.train.precision,
            seed=seed,
            parent=parent_id,
        )

    def _start(self, model: str) -> str:
        """What the backbone starts from, as ``TrialSpec.weights``."""
        pretrained = self.experiment.backbone_of(model).pretrained
        weights = self.experiment.weights_of(model)
        if pretrained is False or weights is None:
            return "random"
        return "timm" if pretrained is True else f"sha256:{weights.sha256}"

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

    def images_per_trial(self, search: Search) -> int:
        """Images that pass through the student or teacher in one training, for estimates."""
        recipe = self.spec(search, {}, 0, None).recipe
        per_step = recipe.batch_size
        if search.cell.unlabeled is not None:
            per_step += 2 * recipe.pool_batch_size  # the teacher's weak and the student's strong
        return per_step * recipe.total_steps

    @property
    def images(self) -> int:
        """Images that pass through a model in all trainings."""
        return sum(self.images_per_trial(s) * self.trainings_per_search for s in self.searches)

    @property
    def streams_pool(self) -> bool:
        """Whether Ray Data streams the pool of any cell."""
        stream = self.experiment.file.train.stream
        names = {s.cell.dataset for s in self.searches if s.cell.unlabeled is not None}
        return any(uses_ray_stream(stream, self.experiment.datasets[name]) for name in names)

    def priorities(self) -> dict[str, int]:
        """Images on the longest chain of trainings that begins with each search."""
        chain = {s.name: self.images_per_trial(s) for s in self.searches}
        for search in reversed(self.searches):  # children before parents
            if search.parent is not None:
                own = self.images_per_trial(search.parent)
                chain[search.parent.name] = max(chain[search.parent.name], own + chain[search.name])
        return chain

    def describe(self) -> dict[str, Any]:
        """Counts for ``semigrid plan``."""
        file = self.experiment.file
        return {
            "experiment": file.name,
            "cells": len(self.cells),
            "searches": len(self.searches),
            "trials_per_search": self.trials,
            "seeds": file.seeds,
            "trainings": self.trainings,
            "trainings_unshared": self.trainings_unshared,
            "weights": {
                name: weights.model_dump() for name, weights in self.experiment.weights.items()
            },
            "images": self.images,
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
    wanted = in_table | {parent for cell in cells if (parent := parent_of(cell)) is not None}
    searches: dict[Cell, Search] = {}

    def add(cell: Cell) -> Search:
        if cell not in searches:
            parent = parent_of(cell)
            above = None if parent is None else add(parent)
            searches[cell] = Search(cell, above, cell in in_table, _neighbor(cell, wanted))
        return searches[cell]

    for cell in cells:
        add(cell)
    return sorted(
        searches.values(),
        key=lambda s: (_chain_length(s), s.cell.labels, s.cell.unlabeled or Fraction(0)),
    )


def _neighbor(cell: Cell, cells: set[Cell]) -> str | None:
    alike = [c for c in cells if (c.dataset, c.model) == (cell.dataset, cell.model)]
    fewer = [c for c in alike if c.unlabeled == cell.unlabeled and c.labels < cell.labels]
    if fewer:
        return max(fewer, key=lambda c: c.labels).name
    pool = cell.unlabeled or Fraction(0)
    less = [c for c in alike if c.labels == cell.labels and (c.unlabeled or 0) < pool]
    return max(less, key=lambda c: c.unlabeled or 0).name if less else None


def _chain_length(search: Search) -> int:
    return 1 if search.parent is None else 1 + _chain_length(search.parent)
