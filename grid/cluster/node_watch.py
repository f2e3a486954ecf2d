"""Tells which nodes of a cluster meet the requirements, by asking each one that joins. Pure."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

# Longest wait for a node's answer, in seconds, including the first start of Python there.
ANSWER_SECONDS = 60.0
# Pause before an unfit node is asked again, in seconds: a mount or a copy may be on its way.
AGAIN_SECONDS = 60.0
# Factor by which each pause grows where an autoscaler starts and ends nodes. It ends idle nodes
# only, and a node that is asked is not idle: an unfit one would never be replaced.
PAUSE_GROWTH = 4
# Pause before a node whose process broke is asked again, in seconds: it may have been leaving.
BROKEN_SECONDS = 3.0
# Number of broken processes in a row that make a node unfit.
BROKEN_TIMES = 2


@dataclass
class _Node:
    label: str
    answer: "Future[list[str]] | None" = None
    asked_at: float = 0.0
    ask_at: float = 0.0
    broken: int = 0  # times in a row
    problems: list[str] = field(default_factory=list)
    fit: bool = False
    silent: bool = False  # unfit because it has not answered yet
    pause: float = AGAIN_SECONDS


class NodeWatch:
    """Asks every node that joins, and knows which may be given work.

    Args:
        ask: asks the node of an ID which requirements it does not meet.
        say: receives a message when a node turns out to be unfit, and when it is fit again.
        answer_seconds: longest wait for a node's answer.
        grows: whether an autoscaler starts and ends nodes.
    """

    def __init__(
        self,
        ask: Callable[[str], "Future[list[str]]"],
        say: Callable[[str], None],
        answer_seconds: float = ANSWER_SECONDS,
        grows: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._ask, self._say, self._clock = ask, say, clock
        self._answer_seconds, self._grows = answer_seconds, grows
        self._nodes: dict[str, _Node] = {}
        # First problem of each unfit answer since a node was fit or ``progressed`` was called.
        self.rejections: list[str] = []

    def look(self, nodes: Mapping[str, str]) -> None:
        """Collects answers and asks the nodes whose turn it is, without waiting.

        Args:
            nodes: labels of the nodes that are alive, by ID.
        """
        for gone in self._nodes.keys() - nodes.keys():
            del self._nodes[gone]
        for node_id, label in nodes.items():
            node = self._nodes.setdefault(node_id, _Node(label))
            if node.answer is not None:
                self._collect(node, node.answer)
            elif not node.fit and self._clock() >= node.ask_at:
                node.answer, node.asked_at = self._ask(node_id), self._clock()

    def progressed(self) -> None:
        """Notes that a job was started: earlier rejections are no reason to give up."""
        self.rejections = []

    @property
    def problems(self) -> list[str]:
        """Every unmet requirement, with the node's label."""
        return [problem for node in self._nodes.values() for problem in node.problems]

    @property
    def fit(self) -> list[str]:
        """IDs of nodes that may be given work."""
        return [i for i, node in self._nodes.items() if node.fit]

    @property
    def unfit(self) -> list[str]:
        """IDs of nodes with unmet requirements."""
        return [i for i, node in self._nodes.items() if node.problems]

    @property
    def undecided(self) -> list[str]:
        """IDs of nodes that have not answered yet."""
        return [i for i, node in self._nodes.items() if not node.fit and not node.problems]

    def _collect(self, node: _Node, answer: "Future[list[str]]") -> None:
        if not answer.done():
            longest = self._answer_seconds
            if not node.problems and self._clock() > node.asked_at + longest:
                self._judge(
                    node,
                    f"it did not answer within {longest:g} seconds; check that it and its storage "
                    "can be reached, or take it out of the cluster",
                )
            return
        node.answer = None
        error = answer.exception()
        if error is None:
            node.broken = 0
            self._judge(node, *answer.result())
            self._ask_later(node)
            return
        node.broken += 1
        node.ask_at = self._clock() + BROKEN_SECONDS
        if node.broken >= BROKEN_TIMES:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self._judge(node, f"it cannot run semigrid: {lines[-1]}")
            self._ask_later(node)

    def _ask_later(self, node: _Node) -> None:
        node.ask_at = self._clock() + node.pause
        if self._grows:
            node.pause *= PAUSE_GROWTH

    def _judge(self, node: _Node, *problems: str) -> None:
        before, node.problems = node.problems, [f"{node.label}: {p}" for p in problems]
        node.fit = not problems
        if node.fit:
            self.rejections = []
        # a node that only takes its time may yet be fit
        if problems and node.answer is None:
            self.rejections.append(node.problems[0])
        if problems and (not before or node.silent):
            for problem in node.problems:
                self._say(problem)
        if problems and not before:
            self._say(f"{node.label} is given no work; it is checked again from time to time")
        elif before and node.fit:
            self._say(f"{node.label}: it now meets all requirements and is given work")
        node.silent = node.answer is not None
