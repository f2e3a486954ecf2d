"""Optuna, one study per cell, suggesting in waves as a pure function of earlier waves."""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import optuna

from semigrid.grid.experiment import Around, Range
from semigrid.grid.study.plan import Plan, Search
from semigrid.trainers.methods import METHODS, MethodName, Space, why_unused
from semigrid.trainers.recipe import Recipe

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Tried:
    """A trial of an earlier wave: its hyper-parameters and what became of it.

    ``score`` is what the study maximises, Acc@1 on val in per cent; None: it has no result.
    ``rungs`` are its scores by step, for one that was ``stopped`` at the last of them.
    """

    params: dict[str, float]
    score: float | None
    stopped: bool = False
    rungs: dict[int, float] = field(default_factory=dict)


def search_space(method: MethodName, recipe: Recipe, ranges: Mapping[str, Range]) -> Space:
    """The method's space with the file's ranges over it; a null takes a parameter out.

    What this recipe does not use is left out too: a range by method may be another model's.
    """
    space = {
        name: (low, high)
        for name, (low, high) in METHODS[method].search_space(recipe).items()
        if low < high
    }
    for name, wanted in ranges.items():
        if wanted is None or why_unused(name, recipe, method) is not None:
            space.pop(name, None)
        elif isinstance(wanted, Around):
            space[name] = wanted.range(getattr(recipe, name))
        else:
            space[name] = wanted
    return space


def space_of(plan: Plan, search: Search) -> Space:
    """What a search's trials are drawn from."""
    model = search.cell.model
    method = plan.experiment.file.models[model].method
    ranges = plan.experiment.file.search.ranges(method, model)
    return search_space(method, plan.recipe(search), ranges)


def suggest_wave(
    name: str,
    recipe: Recipe,
    space: Space,
    sampler: str,
    earlier: Sequence[Tried],
    count: int,
    identity: str,
    starts: Sequence[dict[str, float]] = ({},),
) -> list[dict[str, float]]:
    """The next ``count`` trials of a cell's study.

    The study is rebuilt from the earlier waves alone, with a sampler seeded by the cell's
    identity and the trial's number: the suggestions do not depend on which trial of a wave
    finished first, nor on how often the run was interrupted, and the first ones, drawn before
    there is anything to learn from, not on the waves' size either. The very first trial is the
    recipe as published (no parameter changed), or whatever ``starts`` says.

    Args:
        name: the study's name, the cell's.
        identity: of the search, so that cells do not share their draws.
        starts: the search's first trials, before Optuna has a say.
    """
    distributions = {key: distribution(low, high) for key, (low, high) in space.items()}
    study = optuna.create_study(study_name=name, direction="maximize")
    for tried in earlier:
        params = {key: tried.params.get(key, getattr(recipe, key)) for key in distributions}
        if not all(distributions[key]._contains(params[key]) for key in params):
            continue  # the published value may lie outside a range of the user's
        study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions=dict(distributions),
                value=tried.score,
                state=_state(tried),
                intermediate_values=tried.rungs,
            )
        )
    suggestions = [dict(start) for start in starts[len(earlier) :][:count]]
    while len(suggestions) < count:
        digest = hashlib.sha256(f"{identity}/{len(earlier) + len(suggestions)}".encode()).digest()
        study.sampler = _sampler(sampler, int.from_bytes(digest[:4], "big"))
        params = study.ask(dict(distributions)).params
        suggestions.append({key: _rounded(params[key], *space[key]) for key in sorted(params)})
    return suggestions


def _state(tried: Tried) -> optuna.trial.TrialState:
    if tried.stopped:
        return optuna.trial.TrialState.PRUNED
    no_result = tried.score is None
    return optuna.trial.TrialState.FAIL if no_result else optuna.trial.TrialState.COMPLETE


def distribution(low: float, high: float) -> optuna.distributions.FloatDistribution:
    # rates and weights span factors, probabilities (from 0) span differences
    return optuna.distributions.FloatDistribution(low, high, log=low > 0 and high / low >= 3)


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if name == "gp":
            return optuna.samplers.GPSampler(
                seed=seed, n_startup_trials=4, deterministic_objective=False
            )
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=4, multivariate=True, constant_liar=True
        )


def _rounded(value: float, low: float, high: float) -> float:
    """Four significant digits: what a person would write down, within the range."""
    return min(high, max(low, float(f"{value:.4g}")))
