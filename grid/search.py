"""Optuna, one study per cell, suggesting in waves as a pure function of earlier waves."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from trainers.recipe import Method, Recipe

optuna.logging.set_verbosity(optuna.logging.WARNING)

Space = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Tried:
    """A trial of an earlier wave: its hyper-parameters and its score (None: it has no result)."""

    params: dict[str, float]
    score: float | None


def default_space(method: Method, recipe: Recipe) -> Space:
    """Ranges around the recipe's own values: half to twice the learning rate (MAE's search)."""
    space = {
        "base_lr": (recipe.base_lr / 2, recipe.base_lr * 2),
        "weight_decay": (recipe.weight_decay / 2, recipe.weight_decay * 2),
    }
    if method == "semi":
        threshold = recipe.confidence_threshold
        space["confidence_threshold"] = (max(0.0, threshold - 0.2), min(0.95, threshold + 0.2))
        weight = recipe.unlabeled_loss_weight
        space["unlabeled_loss_weight"] = (weight / 2, weight * 2)
    return {name: (low, high) for name, (low, high) in space.items() if low < high}


def suggest_wave(
    name: str,
    recipe: Recipe,
    space: Space,
    sampler: str,
    earlier: Sequence[Tried],
    count: int,
    identity: str,
) -> list[dict[str, float]]:
    """The next ``count`` trials of a cell's study.

    The study is rebuilt from the earlier waves alone, with a sampler seeded by the cell's
    identity and the number of trials so far: the suggestions do not depend on which trial of a
    wave finished first, nor on how often the run was interrupted. The very first trial is the
    recipe as published (no parameter changed).

    Args:
        name: the study's name, the cell's.
        identity: of the search, so that cells do not share their draws.
    """
    distributions = {key: _distribution(low, high) for key, (low, high) in space.items()}
    digest = hashlib.sha256(f"{identity}/{len(earlier)}".encode()).digest()
    study = optuna.create_study(
        study_name=name,
        direction="maximize",
        sampler=_sampler(sampler, int.from_bytes(digest[:4], "big")),
    )
    for tried in earlier:
        params = {key: tried.params.get(key, getattr(recipe, key)) for key in distributions}
        if not all(distributions[key]._contains(params[key]) for key in params):
            continue  # the published value may lie outside a range of the user's
        state = optuna.trial.TrialState
        study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions=dict(distributions),
                value=tried.score,
                state=state.FAIL if tried.score is None else state.COMPLETE,
            )
        )
    suggestions: list[dict[str, float]] = []
    if not earlier:
        suggestions.append({})
    while len(suggestions) < count:
        params = study.ask(dict(distributions)).params
        suggestions.append({key: _rounded(params[key], *space[key]) for key in sorted(params)})
    return suggestions


def _distribution(low: float, high: float) -> optuna.distributions.FloatDistribution:
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


def score(val: dict[str, Any]) -> float:
    """What a study maximises: Acc@1 on val in per cent."""
    return float(val["acc1"])
