"""Dawid and Skene's model of a crowd: labels are more probable where better workers give them."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from semigrid.data.errors import InputError

ITERATIONS, TOLERANCE = 100, 1e-5  # of the mean evidence lower bound of an answer
TINY = 1e-10  # stands for a probability of zero
MAX_CELLS = 2**26  # (tasks + pairs) × different labels, for each of a few arrays of float64


def dawid_skene(answers: pd.DataFrame) -> dict[str, tuple[str, float]]:
    """The most probable label of each task, with its probability.

    Estimates, by expectation maximisation, the shares of the labels and the probability e[w, k, c]
    that the worker w says k where c is true (A. P. Dawid and A. M. Skene: Maximum Likelihood
    Estimation of Observer Error-Rates Using the EM Algorithm, Applied Statistics 28, 1979). It
    starts at the majority's votes. The numbers are those of crowd-kit's ``DawidSkene(100)``.

    Args:
        answers: a row for each answer, with columns ``task``, ``worker``, ``label``.

    Raises:
        InputError: the answers have too many different labels.
    """
    if answers.empty:
        return {}
    task, tasks = pd.factorize(answers["task"])
    worker, _ = pd.factorize(answers["worker"])
    label, labels = pd.factorize(answers["label"], sort=True)
    # what a worker never says has no probability in the estimate
    said, pairs = pd.factorize(worker * len(labels) + label)
    worker_of_pair = pairs // max(1, len(labels))
    if (len(tasks) + len(pairs)) * len(labels) > MAX_CELLS:
        raise InputError(
            f"dawid-skene: {len(labels):,} different labels of {len(tasks):,} tasks, which workers "
            f"use in {len(pairs):,} ways, are too many; use the method majority"
        )
    votes = _sums(task, ((label == place).astype(float) for place in range(len(labels))))
    posterior = votes / votes.sum(axis=1, keepdims=True)  # of each label, by task
    errors, before = _errors(posterior, task, said, worker_of_pair), -np.inf
    shares = posterior.mean(axis=0).clip(TINY)
    for _ in range(ITERATIONS):
        logs = np.log(errors)
        evidence = np.log(shares) + _sums(task, (column[said] for column in logs.T))
        posterior = np.exp(evidence - evidence.max(axis=1, keepdims=True))
        posterior /= posterior.sum(axis=1, keepdims=True)
        shares = posterior.mean(axis=0).clip(TINY)
        errors = _errors(posterior, task, said, worker_of_pair)
        logs = np.log(errors) + np.log(shares)
        columns = zip(posterior.T, logs.T, strict=True)
        expected = sum(column[task] @ log[said] for column, log in columns)
        entropy = -(posterior.clip(TINY) * np.log(posterior.clip(TINY))).sum()
        bound = (expected + entropy) / len(answers)
        if bound - before < TOLERANCE:
            break
        before = bound
    best = posterior.argmax(axis=1)
    return {
        str(name): (str(labels[place]), float(row[place]))
        for name, place, row in zip(tasks, best, posterior, strict=True)
    }


def _errors(posterior: np.ndarray, task: Any, said: Any, worker_of_pair: Any) -> np.ndarray:
    """e[w, k, c] as an array (pairs of w and k, c); ``posterior`` is (tasks, c)."""
    errors: np.ndarray = _sums(said, (column[task] for column in posterior.T)).clip(TINY)
    errors /= _sums(worker_of_pair, errors.T)[worker_of_pair]
    return errors


def _sums(groups: Any, columns: Iterable[np.ndarray]) -> np.ndarray:
    """Sums of the values of each column by their group, (groups, columns).

    One column after another: all of them for every answer would take many times the memory.
    """
    return np.stack([np.bincount(groups, column) for column in columns], axis=1)
