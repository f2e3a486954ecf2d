"""The trials that a search tries next: suggested by Optuna, a pure function of earlier waves."""

import contextlib
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import optuna
from optuna.trial import TrialState, create_trial
from pydantic import BaseModel

from semigrid.data.plausible import Number
from semigrid.data.storage import Storage
from semigrid.data.storage.files import UnusableFileError
from semigrid.grid.study.layout import SUGGESTED, suggested_file
from semigrid.trainers.methods import Space
from semigrid.trainers.recipe import Recipe

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Tried:
    """A trial of an earlier wave: its hyper-parameters and how it ended.

    ``score`` is Acc@1 on val in per cent, which the search maximises; None if the trial has no
    result. ``rungs`` are the scores by step of a trial that was ``stopped`` at the last of them.
    """

    params: dict[str, float]
    score: float | None
    stopped: bool = False
    rungs: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Wave:
    """All that the next ``count`` trials of a search depend on.

    ``earlier`` are the trials of the search's earlier waves; ``starts`` are its first trials, which
    Optuna does not choose. ``identity`` names the search, so that no two share their draws.
    """

    identity: str
    recipe: Recipe
    space: Space
    sampler: str
    earlier: Sequence[Tried]
    count: int
    starts: Sequence[dict[str, float]] = ({},)


def suggest_wave(wave: Wave) -> list[dict[str, float]]:
    """The parameters of a search's next trials, as far as they differ from its recipe.

    The Optuna study is rebuilt from the earlier waves alone, and the sampler is seeded by the
    search's identity and the trial's number. The suggestions therefore do not depend on which trial
    of a wave ended first or on interruptions; the first ones, drawn before there is anything to
    learn from, do not depend on the size of the waves either.
    """
    space = wave.space
    distributions = {name: distribution(low, high) for name, (low, high) in space.items()}
    study = optuna.create_study(direction="maximize")
    for tried in wave.earlier:
        params = {name: tried.params.get(name, getattr(wave.recipe, name)) for name in space}
        if any(not low <= params[name] <= high for name, (low, high) in space.items()):
            continue  # the published value may lie outside the file's range
        state = TrialState.FAIL if tried.score is None else TrialState.COMPLETE
        study.add_trial(
            create_trial(
                params=params,
                distributions=dict(distributions),
                value=tried.score,
                state=TrialState.PRUNED if tried.stopped else state,
                intermediate_values=tried.rungs,
            )
        )
    suggestions = [dict(start) for start in wave.starts[len(wave.earlier) :][: wave.count]]
    while len(suggestions) < wave.count:
        number = len(wave.earlier) + len(suggestions)
        digest = hashlib.sha256(f"{wave.identity}/{number}".encode()).digest()
        study.sampler = _sampler(wave.sampler, int.from_bytes(digest[:4], "big"))
        params = study.ask(dict(distributions)).params
        suggestions.append({name: _rounded(params[name], *space[name]) for name in sorted(params)})
    return suggestions


def distribution(low: float, high: float) -> optuna.distributions.FloatDistribution:
    """Logarithmic for a range of rates or weights (a factor), linear for one of probabilities."""
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
    """The value with four significant digits, as a person would write it, within its range."""
    return min(high, max(low, float(f"{value:.4g}")))


# the suggestions of one search's waves, by the hash of what they depend on
Remembered = dict[str, list[dict[str, int | Number]]]  # a range of whole numbers has whole ends

MOST_BYTES = 64 * 2**20  # of a search's file


class _Suggested(BaseModel):
    """The file of one search."""

    sha256: str
    suggested: Remembered


class Suggestions:
    """``suggest_wave`` with a memory in the run's folder, one file per search.

    Without it only time is lost: every look at a grid of thousands of trials would suggest all of
    them again.

    Args:
        writes: keep new suggestions, as does the run that holds the folder's lock.
    """

    def __init__(self, storage: Storage, writes: bool = False):
        self.storage, self.writes = storage, writes
        self._by_search: dict[str, Remembered] = {}
        self._contents: dict[str, bytes | UnusableFileError] | None = None

    def suggest(self, wave: Wave) -> list[dict[str, float]]:
        """The same as ``suggest_wave``."""
        name = suggested_file(wave.identity)
        if name not in self._by_search:
            self._by_search[name] = self._read(name)
        remembered, recipe = self._by_search[name], wave.recipe.model_dump(mode="json")
        key = _hash(asdict(wave) | {"recipe": recipe, "optuna": optuna.__version__})
        if not _fits(wave, remembered.get(key, [])):
            remembered[key] = suggest_wave(wave)
            if self.writes:
                # with a hash: a changed digit would be another trial
                content = {"sha256": _hash(remembered), "suggested": remembered}
                with contextlib.suppress(OSError):  # a full disk costs only time here
                    self.storage.write(name, json.dumps(content).encode())
        return [dict(params) for params in remembered[key]]

    def _read(self, name: str) -> Remembered:
        """A search's suggestions; none if the file is missing, damaged or from somebody else."""
        with contextlib.suppress(OSError, ValueError):
            if self._contents is None:  # all files at once: a bucket answers side by side
                names = [f"{SUGGESTED}/{name}" for name in self.storage.names(SUGGESTED, ".json")]
                self._contents = self.storage.read_all(names, MOST_BYTES)
            content = self._contents.pop(name, b"")
            if isinstance(content, bytes):
                file = _Suggested.model_validate_json(content)
                if file.sha256 == _hash(file.suggested):
                    return file.suggested
        return {}


def _fits(wave: Wave, params: Sequence[Mapping[str, float]]) -> bool:
    """Whether a wave may have these trials; not if somebody else made them up."""
    starts = wave.starts[len(wave.earlier) :][: wave.count]
    drawn = params[len(starts) :]
    return (
        len(params) == wave.count
        and [dict(each) for each in params[: len(starts)]] == [dict(each) for each in starts]
        and all(each.keys() == wave.space.keys() for each in drawn)
        and all(low <= each[n] <= high for each in drawn for n, (low, high) in wave.space.items())
    )


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
