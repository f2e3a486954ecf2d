"""Nodes that join are asked what they lack; only those that lack nothing may be given work."""

from concurrent.futures import Future
from typing import Any

import pytest

from semigrid.data.errors import InputError
from semigrid.grid.cluster.node_watch import (
    AGAIN_SECONDS,
    ANSWER_SECONDS,
    BROKEN_SECONDS,
    NodeWatch,
)

NODES = {"a": "node 10.0.0.1 (one)", "b": "node 10.0.0.2 (two)"}


class Cluster:
    """Nodes that answer when they are told to, and a clock that is set by hand."""

    def __init__(self, grows: bool = False) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.asked: list[str] = []
        self.answers: dict[str, Future[list[str]]] = {}
        self.kept_free: list[list[str]] = [[]]
        keep_free: Any = self.kept_free.append
        self.watch = NodeWatch(
            self.ask, keep_free, self.said.append, grows=grows, clock=lambda: self.now
        )

    def ask(self, node_id: str) -> "Future[list[str]]":
        self.asked.append(node_id)
        self.answers[node_id] = Future()
        return self.answers[node_id]

    def look(self, after: float = 1, *names: str) -> None:
        self.now += after
        self.present = {*(names or NODES)}
        self.watch.look({name: NODES[name] for name in names or NODES})

    @property
    def fit(self) -> set[str]:
        return self.present - {*self.kept_free[-1]}

    def answer(self, node_id: str, *problems: str) -> None:
        self.answers[node_id].set_result(list(problems))
        self.look()

    def breaks(self, node_id: str) -> None:
        self.answers[node_id].set_exception(RuntimeError("no module\nthe worker died"))
        self.look()


def test_a_node_is_fit_once_it_has_answered() -> None:
    cluster = Cluster()
    cluster.look(1, "a")
    assert cluster.watch.undecided == ["a"] and not cluster.fit
    cluster.answer("a")
    assert cluster.fit == {"a"} and cluster.watch.undecided == ["b"]
    cluster.look(10 * AGAIN_SECONDS)
    assert cluster.asked == ["a", "b"], "asked once more"
    assert [name for name in cluster.said if "10.0.0.1" in name] == []


def test_a_node_that_lacks_something_is_named_once_and_asked_again() -> None:
    cluster = Cluster()
    cluster.look()
    cluster.answer("a")
    cluster.answer("b", "storage: away", "weights: another")
    assert cluster.watch.unfit == ["b"] and cluster.fit == {"a"}
    assert cluster.said == [
        "node 10.0.0.2 (two): storage: away",
        "node 10.0.0.2 (two): weights: another",
        "node 10.0.0.2 (two) is given no work; it is checked again from time to time",
    ]
    cluster.look(AGAIN_SECONDS - 2)
    assert cluster.asked == ["a", "b"]
    cluster.look(2)
    cluster.answer("b", "storage: away")
    assert cluster.asked == ["a", "b", "b"] and len(cluster.said) == 3
    assert cluster.watch.unfit == ["b"] and not cluster.watch.undecided, "it is known meanwhile"
    cluster.look(AGAIN_SECONDS)
    cluster.answer("b")
    assert cluster.fit == {"a", "b"} and not cluster.watch.unfit
    assert cluster.said[3:] == [
        "node 10.0.0.2 (two): it now meets all requirements and is given work"
    ]


def test_where_nodes_come_and_go_one_that_is_unfit_is_left_idle_for_longer_and_longer() -> None:
    cluster = Cluster(grows=True)
    cluster.look(1, "a")
    for pause in (1, 4, 16):
        cluster.answers["a"].set_result(["storage: away"])
        cluster.look(1, "a")
        asked = len(cluster.asked)
        cluster.look(pause * AGAIN_SECONDS - 2, "a")
        assert len(cluster.asked) == asked
        cluster.look(2, "a")
        assert len(cluster.asked) == asked + 1


def test_nodes_that_were_unfit_one_after_the_other_are_counted_though_they_left() -> None:
    cluster = Cluster()
    cluster.look(1, "a")
    cluster.answer("a", "storage: away", "weights: another")
    assert cluster.watch.rejections == ["node 10.0.0.1 (one): storage: away"]
    cluster.look(1, "b")
    cluster.look(1, "b")
    cluster.answers["b"].set_result(["storage: gone"])
    cluster.look(1, "b")
    assert len(cluster.watch.rejections) == 2
    for lacks in (["storage: gone"], []):
        cluster.look(AGAIN_SECONDS, "b")
        cluster.answers["b"].set_result(lacks)
        cluster.look(1, "b")
        assert len(cluster.watch.rejections) == (3 if lacks else 0)
    assert cluster.fit == {"b"}


def test_a_node_that_does_not_answer_is_unfit_until_it_does() -> None:
    cluster = Cluster()
    cluster.look()
    cluster.look(ANSWER_SECONDS + 1)
    assert not cluster.watch.rejections, "it may be starting"
    assert (
        cluster.watch.unfit == ["a", "b"] and "did not answer within 60 seconds" in cluster.said[0]
    )
    cluster.look(10 * AGAIN_SECONDS)
    assert cluster.asked == ["a", "b"], "asked while it owes an answer"
    cluster.answer("b")
    assert cluster.fit == {"b"}
    cluster.answer("a", "storage: away")
    assert cluster.said[-1] == "node 10.0.0.1 (one): storage: away", "only its silence was said"


def test_a_node_that_left_is_forgotten_and_one_that_broke_is_asked_twice() -> None:
    cluster = Cluster()
    cluster.look()
    cluster.breaks("b")
    assert not cluster.said and cluster.watch.undecided == ["a", "b"]
    cluster.look(1, "a")
    assert cluster.watch.undecided == ["a"]
    cluster.look()
    cluster.breaks("b")
    cluster.look(BROKEN_SECONDS)
    cluster.breaks("b")
    assert cluster.watch.unfit == ["b"]
    assert cluster.said[0] == "node 10.0.0.2 (two): it cannot run semigrid: the worker died"


def first_trial(continues: bool, **lacking: list[str]) -> Cluster:
    """A cluster whose nodes all answered before the first trial."""
    cluster = Cluster()

    def nodes() -> dict[str, str]:
        for name, answer in cluster.answers.items():
            if not answer.done():
                answer.set_result(lacking.get(name, []))
        return NODES

    cluster.watch.before_the_first_trial(nodes, continues)
    return cluster


def test_before_the_first_trial_all_that_is_missing_is_one_error() -> None:
    assert first_trial(continues=False).said == []
    with pytest.raises(InputError) as raised:
        first_trial(continues=False, a=["storage: away"], b=["torch: 0.1 here", "weights: none"])
    assert [problem.partition(": ")[2] for problem in raised.value.problems] == [
        "storage: away",
        "torch: 0.1 here",
        "weights: none",
    ]


def test_a_run_that_goes_on_needs_one_fit_node_and_names_the_others() -> None:
    cluster = first_trial(continues=True, b=["storage: away"])
    assert cluster.said == ["node 10.0.0.2 (two): storage: away; that node is given no work"]
    assert cluster.kept_free[-1] == ["b"] and not cluster.watch.rejections
    with pytest.raises(InputError):
        first_trial(continues=True, a=["storage: away"], b=["storage: away"])
