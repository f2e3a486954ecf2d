"""The search space, and its problems: hyper-parameters and ranges that cannot be searched."""

from collections.abc import Iterator, Mapping
from itertools import product

from pydantic import ValidationError

from semigrid.grid.experiment.messages import nearest
from semigrid.grid.experiment.schema import OF_ADAPTATION, Around, ExperimentFile, Range
from semigrid.trainers.methods import Space, find_method, method_names, users_of, why_unused
from semigrid.trainers.recipe import Recipe, floats_of

# Searched settings that can leave a training without a step, together.
_LENGTHS = ("epochs", "warmup_epochs")
# Settings that a child and a control have from the file: a winner may not have others.
_SHARED = ("logit_adjustment",)


def search_space(method: str, recipe: Recipe, ranges: Mapping[str, Range]) -> Space:
    """The method's space, overridden by the file's ranges; a null removes a parameter.

    Parameters that the recipe does not use are left out: the file's range may be meant for another
    model with the same method.
    """
    space = {
        name: (low, high)
        for name, (low, high) in find_method(method).search_space(recipe).items()
        if low < high
    }
    for name, wanted in ranges.items():
        if wanted is None or why_unused(name, recipe) is not None:
            space.pop(name, None)
        elif isinstance(wanted, Around):
            space[name] = wanted.range(getattr(recipe, name))
        else:
            space[name] = wanted
    return space


def ranges_of(
    file: ExperimentFile, model: str, method: str, beside: str | None = None
) -> dict[str, Range]:
    """The file's ranges for a model: its own before those of a method.

    Args:
        beside: the model whose adapter, or none, is trained instead of its own; see
            ``Experiment.recipe_of``. Where that is another training, ranges of rates do not hold.
    """
    space = file.search.space
    ranges = {**space.get(method, {}), **space.get(model, {})}
    if beside is None or not file.adapts_otherwise(model, beside):
        return ranges
    return {
        name: wanted
        for name, wanted in ranges.items()
        if name not in OF_ADAPTATION or wanted is None or _is_factor(name, wanted)
    }


def _is_factor(name: str, wanted: Range) -> bool:
    """Whether a range is one around whichever learning rate the recipe has."""
    around = isinstance(wanted, Around) and wanted.around is None and wanted.times is not None
    return around and name == "base_lr"


def lengths_to_try(file: ExperimentFile, model: str, recipe: Recipe) -> list[dict[str, float]]:
    """The longest and shortest ``epochs`` and ``warmup_epochs`` that a search may try, together.

    Of a space without problems; empty where neither is searched.
    """
    method = file.models[model].method
    space = search_space(method, recipe, ranges_of(file, model, method))
    ends = {name: space[name] for name in _LENGTHS if name in space}
    return [dict(zip(ends, values, strict=True)) for values in product(*ends.values()) if values]


def space_problems(file: ExperimentFile, recipes: Mapping[str, Recipe]) -> Iterator[str]:
    """Every problem of ``search.space``; ``recipes`` are by model, where they are valid."""
    for name, ranges in file.search.space.items():
        if name not in file.models and name not in method_names():
            known = nearest(name, (*method_names(), *file.models))
            yield f"search.space.{name}: not a method or model; {known}"
            continue
        models = [m for m, config in file.models.items() if name in (m, config.method)]
        searched = {model: recipes[model] for model in models if model in recipes}
        method = find_method(file.models[name].method if name in file.models else name)
        for parameter, wanted in ranges.items():
            key = f"search.space.{name}.{parameter}"
            if others := users_of(parameter, method):
                yield f"{key}: a search of it would change nothing: {others}"
            elif parameter in _SHARED:
                yield f"{key}: is set, not searched: compare models with and without it"
            elif parameter not in floats_of(method.recipe):
                floats = floats_of(method.recipe)
                there = nearest(parameter, floats) if floats else f"{method.name} has no search"
                yield f"{key}: cannot be searched; {there}"
            elif wanted is not None:
                yield from _parameter_problems(key, parameter, wanted, searched, method.recipe)


def _parameter_problems(
    key: str,
    parameter: str,
    wanted: tuple[float, float] | Around,
    recipes: Mapping[str, Recipe],
    form: type[Recipe],
) -> Iterator[str]:
    unused = [why_unused(parameter, recipe) for recipe in recipes.values()]
    if unused and all(unused):
        yield f"{key}: a search of it would change nothing: {unused[0]}"
    elif not isinstance(wanted, Around):
        yield from _range_problems(form, key, parameter, *wanted)
    elif (wanted.times is None) == (wanted.plus is None):
        yield f"{key}: give either times or plus, such as {{times: 4}} or {{plus: 0.1}}"
    else:
        for model, recipe in recipes.items():
            value = getattr(recipe, parameter)
            low, high = wanted.range(value)
            if low == high:
                yield f"{key}: times of {low:g} is {low:g}; give plus, or [lowest, highest]"
            where = f"{key}, around the {value:g} of {model}"
            yield from _range_problems(form, where, parameter, low, high)


def _range_problems(
    form: type[Recipe], key: str, parameter: str, low: float, high: float
) -> Iterator[str]:
    if low > high:
        yield f"{key}: [{low:g}, {high:g}]: the lower end comes first"
        return
    for value in (low, high):
        try:
            form(**{parameter: value})
        except ValidationError as error:
            yield f"{key}: {value:g}: {error.errors()[0]['msg']}"
