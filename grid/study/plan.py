"""From an experiment to cells, searches and trials; reads no files."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import TypeVar

from semigrid.data.errors import InputError
from semigrid.data.splits import pool_subset
from semigrid.grid.experiment.cells import asked_cells, teacher_cell
from semigrid.grid.experiment.checks import labeled_images
from semigrid.grid.experiment.experiment import Experiment
from semigrid.grid.experiment.label_count import val_fraction
from semigrid.grid.experiment.messages import nearest
from semigrid.grid.experiment.schema import Control, ExperimentFile, show_percent
from semigrid.grid.experiment.space import ranges_of, search_space
from semigrid.trainers.methods import Space, Stepped, find_method, lengthened, package_of, resolve
from semigrid.trainers.methods.recorded import RecordedMethod
from semigrid.trainers.options import uses_ray_stream
from semigrid.trainers.recipe import Recipe, SteppedRecipe
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.job import Place

R = TypeVar("R", bound=Recipe)


@dataclass(frozen=True)
class Cell:
    """One row of the results table: dataset × model × label fraction × unlabelled multiplier.

    A control has the model, fraction and multiplier of the cell that it is a control of.
    """

    dataset: str
    model: str
    labels: Fraction
    unlabeled: Fraction | None  # None without a pool
    control: Control | None = None

    @property
    def name(self) -> str:
        """``aprons/semi-vit/50%/300%``; of a control ``aprons/semi-vit/50%/300%/compute``."""
        parts = [self.dataset, self.model, show_percent(self.labels)]
        if self.unlabeled is not None:
            parts.append(show_percent(self.unlabeled))
        if self.control is not None:
            parts.append(self.control)
        return "/".join(parts)


@dataclass(frozen=True)
class Search:
    """The trainings of one cell.

    Attributes:
        parent: the search whose winner its trials start from.
        teachers: the searches whose winners make the soft targets of its pool.
        in_table: whether the file's grid has this cell; False for one that only others start from.
        neighbor: name of the search with the next smaller label fraction or, at the smallest, with
            the next smaller pool; of a control, among controls of its kind.
    """

    cell: Cell
    parent: "Search | None"
    in_table: bool
    neighbor: str | None = None
    teachers: tuple["Search", ...] = ()

    @property
    def name(self) -> str:
        return self.cell.name

    @property
    def sources(self) -> tuple["Search", ...]:
        """The searches whose winners it cannot do without."""
        return self.teachers if self.parent is None else (self.parent,)


class Plan:
    """All searches of an experiment; parents and neighbours come before those that need them."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        cells = cells_of(experiment.file)
        self._sharing = self._find_sharing(cells)
        self.cells = [each for cell in cells for each in (cell, *self._controls(cell))]
        self.searches = _searches(experiment, self.cells)

    @cached_property
    def trials(self) -> dict[str, int]:
        """Trials of each search, by its name: one where there is nothing to search."""
        asked = self.experiment.file.search.trials
        return {search.name: asked if self.space(search) else 1 for search in self.searches}

    def trainings(self, search: Search) -> int:
        """A search's trials, and its winner on the other seeds."""
        return self.trials[search.name] + self.experiment.file.seeds - 1

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

    @cached_property
    def _longer(self) -> dict[Cell, Recipe]:
        """The recipes of compute controls, as long as those with a pool beside them."""
        return {cell: self._longer_recipe(cell) for cell in self.cells if cell.control == "compute"}

    def _longer_recipe(self, cell: Cell) -> SteppedRecipe:
        config, with_pool = self.experiment.file.models[cell.model], replace(cell, control=None)
        beside = self._resolved(with_pool, config.method, self._recipes[cell.model])
        method = find_method(config.method)
        assert isinstance(method, Stepped)  # it has a pool
        forwards = method.forwards(beside, True)
        forwards += self._answered(with_pool)  # whoever distils pays for the soft targets, too
        # with its adapter, too: a control differs from the cell beside it in the pool alone
        if config.parent is not None:
            recipe = self.experiment.recipe_of(config.parent, beside=cell.model)
        else:
            recipe = self.experiment.control_recipe(cell.model)
        assert isinstance(recipe, SteppedRecipe)
        return lengthened(recipe, self.method(cell), self.labeled(cell), forwards)

    def control_of(self, cell: Cell, control: Control) -> Cell | None:
        """The control of this kind of a cell; None if there is none.

        A cell may share those of another one, see ``_find_sharing``. Soft targets are those of the
        dataset's pool, so a cell that has them has no control with another pool.
        """
        if cell not in self._sharing or control not in self.experiment.file.controls:
            return None
        if control == "labeled-pool" and self.experiment.file.models[cell.model].teachers:
            return None
        return replace(self._sharing[cell], control=control)

    def baseline_of(self, cell: Cell) -> Cell | None:
        """The cell that a cell was planned to be compared with; None where there is none.

        Of a cell with a pool it is its compute control: the difference is what the pool is worth.
        Of a control, and of a cell without one, it is the cell whose winner it starts from.
        """
        control = self.control_of(cell, "compute") if cell.control is None else None
        return control or _parent_of(self.experiment, cell)

    def teachers_of(self, cell: Cell) -> list[Cell]:
        """The cells whose winners make a cell's soft targets; none for most."""
        return _teachers_of(self.experiment, cell)

    def source_model(self, cell: Cell) -> str:
        """The model whose method, recipe and search space a cell has.

        Its own or, for a compute control, the one that its own starts from. A control of a model
        that starts from a backbone has the method that the model's method names, as published.
        """
        start = self.experiment.file.models[cell.model].parent
        return start if cell.control == "compute" and start is not None else cell.model

    def method(self, cell: Cell) -> str:
        """The method of a cell's trainings."""
        config = self.experiment.file.models[self.source_model(cell)]
        if cell.control == "compute" and self.source_model(cell) == cell.model:
            return find_method(config.method).control
        return config.method

    def labeled(self, cell: Cell) -> int:
        """How many labelled images a cell trains on."""
        return labeled_images(self.experiment.datasets[cell.dataset], cell.labels)

    def recipe(self, search: Search) -> Recipe:
        """The recipe which the search varies; not resolved."""
        if search.cell.control == "compute":
            return self._longer[search.cell]
        return self._recipes[search.cell.model]

    def varied(self, search: Search) -> Recipe:
        """``recipe`` with the learning rate that fits the cell's images: what its search varies."""
        own, cell = self.recipe(search), search.cell
        if not isinstance(own, SteppedRecipe):
            return own
        fitted = self._resolved(cell, self.method(cell), own)
        return own.model_copy(update={"base_lr": fitted.base_lr})

    def space(self, search: Search) -> Space:
        """The space that a search's trials are drawn from."""
        cell, method = search.cell, self.method(search.cell)
        beside = cell.model if cell.control == "compute" else None
        ranges = ranges_of(self.experiment.file, self.source_model(cell), method, beside)
        return search_space(method, self.varied(search), ranges)

    def pool_images(self, search: Search) -> int | None:
        """How many unlabelled images the search's trainings see; None where they see none."""
        cell = search.cell
        if cell.unlabeled is None or cell.control == "compute":
            return None
        if cell.control == "labeled-pool":
            return self.labeled(cell)
        return pool_subset(self.experiment.pool_unit(cell.dataset), cell.unlabeled)

    def epoch_pool(self, cell: Cell) -> int:
        """Pool images by which an epoch is counted; 0 without a pool."""
        if cell.unlabeled is None or cell.control == "compute":
            return 0
        return self.experiment.epoch_pool(cell.dataset, cell.unlabeled)

    def _controls(self, cell: Cell) -> list[Cell]:
        """The controls that stand beside a cell, without those that it shares."""
        if self._sharing.get(cell) != cell:
            return []
        controls = dict.fromkeys(self.experiment.file.controls)
        return [c for name in controls if (c := self.control_of(cell, name)) is not None]

    def _answered(self, cell: Cell) -> int:
        """Forwards of teachers that the soft targets of a cell's pool cost, once for its search."""
        assert cell.unlabeled is not None
        unit = self.experiment.pool_unit(cell.dataset)
        return len(_teachers_of(self.experiment, cell)) * pool_subset(unit, cell.unlabeled)

    def _find_sharing(self, cells: list[Cell]) -> dict[Cell, Cell]:
        """Of each cell with a pool, the one whose controls are its own.

        Controls do not see the pool. So cells share them that take the same steps on the same
        labels: those of the cell with the smallest pool.
        """
        with_pool = [cell for cell in cells if cell.unlabeled is not None]
        sharing: dict[Cell, Cell] = {}
        first: dict[tuple[Cell, str], Cell] = {}
        for cell in sorted(with_pool, key=lambda cell: cell.unlabeled or 0):
            beside = self._resolved(cell, self.method(cell), self._recipes[cell.model])
            # as text: a recipe may hold lists, which have no hash
            alike = replace(cell, unlabeled=None), beside.model_dump_json()
            sharing[cell] = first.setdefault(alike, cell)
        return sharing

    def _resolved(
        self,
        cell: Cell,
        method: str,
        recipe: R,
        params: Mapping[str, float] | None = None,
    ) -> R:
        pool = self.epoch_pool(cell)
        return resolve(recipe, method, self.labeled(cell), pool, tried=params)

    def spec(
        self,
        search: Search,
        params: dict[str, float],
        seed: int,
        parent_id: str | None,
        teachers: Sequence[str] = (),
    ) -> TrialSpec:
        """The trial with these hyper-parameters over the search's recipe.

        ``parent_id`` and ``teachers`` are the trials that its search's sources chose; they change
        nothing of what it costs.
        """
        file, cell = self.experiment.file, search.cell
        method, backbone = self.method(cell), self.experiment.backbone_of(cell.model)
        dataset = self.experiment.datasets[cell.dataset]
        recipe = self._resolved(cell, method, self.recipe(search), params)
        weights = self.experiment.weights_of(cell.model)
        start = "timm" if backbone.pretrained is True else f"sha256:{weights and weights.sha256}"
        assert backbone.backbone is not None
        return TrialSpec(
            dataset=dataset.manifest.fingerprint,
            labels=str(cell.labels),
            pool="labeled" if cell.control == "labeled-pool" else "unlabeled",
            pool_images=self.pool_images(search),
            backbone=backbone.backbone,
            backbone_args=backbone.backbone_args,
            weights="random" if weights is None else start,
            method=method,
            method_version=find_method(method).version,
            recipe=recipe,
            precision=file.train.precision,
            seed=seed,
            parent=parent_id,
            teachers=tuple(sorted(teachers)),
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
    def forwards(self) -> dict[str, float]:
        """Forwards of one image in one training of each search, by its name.

        A method without steps makes one of each labelled image, for all its cells and seeds: what
        a cell has more than the next smaller one, shared among its trainings.
        """
        return {search.name: self._forwards(search) for search in self.searches}

    def _forwards(self, search: Search) -> float:
        spec = self.spec(search, {}, 0, None)
        if isinstance(spec.recipe, SteppedRecipe):
            return spec.forwards
        smaller = next((s.cell for s in self.searches if s.name == search.neighbor), None)
        images = self.labeled(search.cell) - (self.labeled(smaller) if smaller else 0)
        return images / self.trainings(search)

    def recorded_methods(self) -> list[RecordedMethod]:
        """What a run writes down of its methods from packages, for when these are gone."""
        found = []
        for name in sorted({self.method(search.cell) for search in self.searches}):
            package, method = package_of(name), find_method(name)
            if package is None or not isinstance(method, Stepped):
                continue
            own = [search for search in self.searches if self.method(search.cell) == name]
            models = {self.source_model(search.cell) for search in own}
            varied = [*map(self.varied, own), *(self._recipes[model] for model in models)]
            specs = [self.spec(search, {}, 0, None) for search in own]
            resolved = [s.recipe for s in specs if isinstance(s.recipe, SteppedRecipe)]
            found.append(RecordedMethod.of(method, package, varied, resolved))
        return found

    @property
    def streams_pool(self) -> bool:
        """Whether Ray Data streams the pool of any cell."""
        stream = self.experiment.file.train.stream
        cells = [s.cell for s in self.searches if s.cell.control is None]
        names = {cell.dataset for cell in cells if cell.unlabeled is not None}
        return any(uses_ray_stream(stream, self.experiment.datasets[name]) for name in names)

    @cached_property
    def answers(self) -> dict[str, int]:
        """Pool images of which each teacher's winner makes soft targets, by its search's name."""
        most: dict[str, int] = {}
        for search in self.searches:
            for teacher in search.teachers:
                images = self.pool_images(search) or 0
                most[teacher.name] = max(most.get(teacher.name, 0), images)
        return most

    def priorities(self) -> dict[str, float]:
        """Forwards on the longest chain of trainings that begins with each search."""
        chain = dict(self.forwards)
        for search in reversed(self.searches):  # children before parents
            for source in search.sources:
                name = source.name
                chain[name] = max(chain[name], self.forwards[name] + chain[search.name])
        return chain

    def counts(self) -> dict[str, int]:
        """Counts for ``semigrid plan``; ``trainings_unshared`` if every cell trained its parent."""
        trainings = {search.name: self.trainings(search) for search in self.searches}
        alone = sum(
            trainings[search.name] + sum(trainings[source.name] for source in search.sources)
            for search in self.searches
            if search.in_table
        )
        seeds = self.experiment.file.seeds
        forwards = sum(self.forwards[name] * each for name, each in trainings.items())
        forwards += sum(self.answers.values()) * seeds
        controls = sum(cell.control is not None for cell in self.cells)
        return {
            "cells": len(self.cells) - controls,
            "controls": controls,
            "searches": len(self.searches),
            "trials_per_search": max(self.trials.values()),
            "seeds": seeds,
            "trainings": sum(trainings.values()),
            "trainings_unshared": alone,
            "forwards": round(forwards),
        }


def cells_of(file: ExperimentFile) -> list[Cell]:
    """The cells of a file's grid, without controls."""
    return [Cell(*asked) for asked in asked_cells(file)]


def _parent_of(experiment: Experiment, cell: Cell) -> Cell | None:
    """The cell whose winner a cell starts from."""
    model = experiment.file.models[cell.model].parent
    return None if model is None else Cell(cell.dataset, model, cell.labels, None)


def _teachers_of(experiment: Experiment, cell: Cell) -> list[Cell]:
    """The cells whose winners make a cell's soft targets."""
    if cell.control is not None:
        return []
    asked = cell.dataset, cell.model, cell.labels, cell.unlabeled
    teachers = experiment.file.models[cell.model].teachers
    return [Cell(*teacher_cell(experiment.file, teacher, asked)) for teacher in teachers]


def _searches(experiment: Experiment, cells: list[Cell]) -> list[Search]:
    def parent_of(cell: Cell) -> Cell | None:
        return _parent_of(experiment, cell)

    in_table = set(cells)
    pairs = [each for cell in cells for each in (parent_of(cell), cell)]
    wanted = list(dict.fromkeys(cell for cell in pairs if cell is not None))
    teachers = {cell: _teachers_of(experiment, cell) for cell in wanted}

    def generation(cell: Cell) -> int:
        # no parent has a parent of its own, and no teacher has teachers (experiment.checks)
        return 2 if teachers[cell] else int(parent_of(cell) is not None)

    wanted.sort(key=lambda c: (generation(c), c.labels, c.unlabeled or Fraction(0)))
    searches: dict[Cell | None, Search] = {}
    for cell in wanted:
        searches[cell] = Search(
            cell,
            searches.get(parent_of(cell)),
            cell in in_table,
            _neighbor(cell, wanted),
            tuple(searches[teacher] for teacher in teachers[cell]),
        )
    return list(searches.values())


def _neighbor(cell: Cell, cells: list[Cell]) -> str | None:
    def series(each: Cell) -> tuple[str, str, Control | None]:
        return each.dataset, each.model, each.control

    alike = [c for c in cells if series(c) == series(cell)]
    fewer = [c for c in alike if c.unlabeled == cell.unlabeled and c.labels < cell.labels]
    if fewer:
        return max(fewer, key=lambda c: c.labels).name
    pool = cell.unlabeled or Fraction(0)
    less = [c for c in alike if c.labels == cell.labels and (c.unlabeled or 0) < pool]
    return max(less, key=lambda c: c.unlabeled or 0).name if less else None
