"""Problems of the search space: hyper-parameters and ranges that cannot be searched."""

from collections.abc import Mapping

from pydantic import ValidationError

from semigrid.grid.experiment.messages import nearest
from semigrid.grid.experiment.schema import Around, ExperimentFile, Range
from semigrid.trainers.methods import METHODS, why_unused
from semigrid.trainers.recipe import Recipe

_SEARCHABLE = [name for name, field in Recipe.model_fields.items() if field.annotation is float]


def space_problems(file: ExperimentFile, recipes: Mapping[str, Recipe]) -> list[str]:
    """Every problem of ``search.space``; ``recipes`` are by model, where they are valid."""
    problems = []
    for name, ranges in file.search.space.items():
        if name not in file.models and name not in METHODS:
            known = nearest(name, (*METHODS, *file.models))
            problems.append(f"search.space.{name}: not a method or model; {known}")
            continue
        models = [m for m, config in file.models.items() if name in (m, config.method)]
        searched = {model: recipes[model] for model in models if model in recipes}
        for parameter, wanted in ranges.items():
            key = f"search.space.{name}.{parameter}"
            if parameter not in _SEARCHABLE:
                problems.append(f"{key}: cannot be searched; {nearest(parameter, _SEARCHABLE)}")
            elif wanted is not None:
                problems += _parameter_problems(file, key, parameter, wanted, searched)
    return problems


def _parameter_problems(
    file: ExperimentFile, key: str, parameter: str, wanted: Range, recipes: Mapping[str, Recipe]
) -> list[str]:
    unused = [
        why_unused(parameter, recipe, file.models[model].method)
        for model, recipe in recipes.items()
    ]
    if unused and all(unused):
        return [f"{key}: a search of it would change nothing: {unused[0]}"]
    if not isinstance(wanted, Around):
        assert wanted is not None
        return _range_problems(key, parameter, *wanted)
    if (wanted.times is None) == (wanted.plus is None):
        return [f"{key}: give either times or plus, such as {{times: 4}} or {{plus: 0.1}}"]
    problems = []
    for model, recipe in recipes.items():
        value = getattr(recipe, parameter)
        low, high = wanted.range(value)
        if low == high:
            problems.append(f"{key}: times of {low:g} is {low:g}; give plus, or [lowest, highest]")
        where = f"{key}, around the {value:g} of {model}"
        problems += _range_problems(where, parameter, low, high)
    return problems


def _range_problems(key: str, parameter: str, low: float, high: float) -> list[str]:
    if low > high:
        return [f"{key}: [{low:g}, {high:g}]: the lower end comes first"]
    problems = []
    for value in (low, high):
        try:
            Recipe(**{parameter: value})
        except ValidationError as error:
            problems.append(f"{key}: {value:g}: {error.errors()[0]['msg']}")
    return problems
