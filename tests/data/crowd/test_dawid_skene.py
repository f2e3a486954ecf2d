"""Dawid and Skene's estimate: its numbers are crowd-kit's."""

import warnings

import numpy as np
import pandas as pd
import pytest

from semigrid.data.crowd.dawid_skene import dawid_skene
from semigrid.data.errors import InputError


def answers(seed: int, tasks: int, workers: int, labels: int) -> pd.DataFrame:
    """Answers of workers good and bad, to each task one to four."""
    rng = np.random.default_rng(seed)
    truth, skill = rng.integers(0, labels, tasks), rng.uniform(0.2, 1, workers)
    rows = []
    for task in range(tasks):
        for worker in rng.permutation(workers)[: rng.integers(1, 5)]:
            right = rng.random() < skill[worker]
            label = truth[task] if right else rng.integers(0, labels)
            rows.append((f"t{task}", f"w{worker}", f"l{label}"))
    return pd.DataFrame(rows, columns=["task", "worker", "label"])


def test_the_numbers_of_crowd_kit() -> None:
    rows = [
        "0 1 0",
        "1 0 0",
        "2 0 1",
        "2 1 1",
        "2 2 1",
        "3 2 1",
        "3 0 0",
        "4 1 1",
        "4 2 0",
        "5 2 0",
    ]
    table = pd.DataFrame([row.split() for row in rows], columns=["task", "worker", "label"])
    found = dawid_skene(table)
    assert [found[str(task)][0] for task in range(6)] == ["0", "0", "1", "0", "0", "0"]
    # of crowd-kit 1.4.2, DawidSkene(n_iter=100)
    expected = [1, 0.86535304, 1, 0.72636924, 0.68673178, 0.8456881]
    assert [found[str(task)][1] for task in range(6)] == pytest.approx(expected, abs=1e-8)


def test_crowd_kit_agrees() -> None:
    crowdkit = pytest.importorskip("crowdkit.aggregation")
    for shape in [(0, 20, 6, 3), (1, 5, 1, 3), (2, 10, 12, 1)]:
        table = answers(*shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # crowd-kit uses deprecated parts of pandas
            expected = crowdkit.DawidSkene(n_iter=100).fit_predict_proba(table)
        found = dawid_skene(table)
        assert found.keys() == {*expected.index}
        for task, row in expected.iterrows():
            assert found[task] == (row.idxmax(), pytest.approx(row.max(), abs=1e-9))


def test_no_answers_and_too_many_labels() -> None:
    assert dawid_skene(answers(0, 0, 1, 1)) == {}
    rows = [(f"t{n}", "w", f"a sentence, number {n}") for n in range(6000)]
    with pytest.raises(InputError, match="6,000 different labels of 6,000 tasks.* are too many"):
        dawid_skene(pd.DataFrame(rows, columns=["task", "worker", "label"]))


def test_many_answers_with_many_classes() -> None:
    tasks, workers, labels = 100_000, 50, 60
    rng = np.random.default_rng(0)
    task = np.arange(3 * tasks) % tasks
    table = pd.DataFrame(
        {"task": task, "worker": rng.integers(0, workers, 3 * tasks), "label": task % labels}
    )
    found = dawid_skene(table.astype(str))
    assert all(found[str(n)][0] == str(n % labels) for n in range(0, tasks, 1000))
