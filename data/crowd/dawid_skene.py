"""Dawid and Skene's model of a crowd: labels are more probable where better workers give them."""

from typing import Any

import numpy as np
import pandas as pd

from semigrid.data.errors import InputError

ITERATIONS, TOLERANCE = 100, 1e-5  # of the mean evidence lower bound of an answer
TINY = 1e-10  # stands for a probability of zero
MAX_CELLS = 2**24  # answers × different labels, for each of a few arrays of float64


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
    if len(answers) * len(labels) > MAX_CELLS:
        raise InputError(
            f"dawid-skene: {len(answers):,} answers with {len(labels):,} different labels are too "
            "many; unite labels that mean the same, or use the method majority"
        )
    # what a worker never says has no probability in the estimate
    said, pairs = pd.factorize(worker * len(labels) + label)
    worker_of_pair = pairs // len(labels)
    votes = _sums(task, np.eye(len(labels))[label])
    posterior = votes / votes.sum(axis=1, keepdims=True)  # of each label, by task
    errors, before = _errors(posterior[task], said, worker_of_pair), -np.inf
    shares = posterior.mean(axis=0).clip(TINY)
    for _ in range(ITERATIONS):
        evidence = np.log(shares) + _sums(task, np.log(errors)[said])
        posterior = np.exp(evidence - evidence.max(axis=1, keepdims=True))
        posterior /= posterior.sum(axis=1, keepdims=True)
        shares = posterior.mean(axis=0).clip(TINY)
        errors = _errors(posterior[task], said, worker_of_pair)
        expected = (posterior[task] * (np.log(errors)[said] + np.log(shares))).sum()
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


def _errors(posterior: np.ndarray, said: np.ndarray, worker_of_pair: np.ndarray) -> np.ndarray:
    """e[w, k, c] as an array (pairs of w and k, c); ``posterior`` is (answers, c)."""
    errors: np.ndarray = _sums(said, posterior).clip(TINY)
    errors /= _sums(worker_of_pair, errors)[worker_of_pair]
    return errors


def _sums(groups: Any, values: np.ndarray) -> np.ndarray:
    """Sums of the rows of ``values`` by their group, (groups, columns)."""
    return np.stack([np.bincount(groups, column) for column in values.T], axis=1)
