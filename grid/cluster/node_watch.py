"""Which nodes of a cluster have what trainings need: found by asking each, as they come. Pure."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

# So long (s) a node may take to answer; the first start of Python there is part of it.
ANSWER_SECONDS = 60.0
# So long (s) until a node that lacks something is asked again: a mount, a copy may be on its way.
AGAIN_SECONDS = 60.0
# On a cluster that grows each pause is longer by this: a node that is asked is not idle, and only
# an idle one is ended by its autoscaler, to be replaced.
LONGER = 4
# A node whose process broke is asked again after this (s): it may have been about to leave.
BROKEN_SECONDS = 3.0
BROKEN_TIMES = 2


@dataclass
class _Node:
    where: str
    answer: "Future[list[str]] | None" = None
    asked_at: float = 0.0
    ask_at: float = 0.0
    broken: int = 0  # times in a row
    problems: list[str] = field(default_factory=list)
    fit: bool = False
    silent: bool = False  # its problem is that it has not answered
    pause: float = AGAIN_SECONDS


class NodeWatch:
    """Asks every node that joins, and tells who may be given work.

    Args:
        ask: asks the node of an ID what it lacks; nothing, where it is fit.
        say: is told once of each node that lacks something, and when it no longer does.
        answer_seconds: so long may a node take to answer.
        grows: whether nodes are started and ended by an autoscaler.
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
        # what was found on nodes, again and again, since it was last emptied, none of them fit
        self.unfit_in_vain: list[str] = []

    def look(self, nodes: Mapping[str, str]) -> None:
        """Takes note of answers, and asks who is to be asked; nothing is waited for.

        Args:
            nodes: those that are alive, by ID: what they are called.
        """
        for gone in self._nodes.keys() - nodes.keys():
            del self._nodes[gone]
        for node_id, where in nodes.items():
            node = self._nodes.setdefault(node_id, _Node(where))
            if node.answer is not None:
                self._hear(node, node.answer)
            elif not node.fit and self._clock() >= node.ask_at:
                node.answer, node.asked_at = self._ask(node_id), self._clock()

    def _hear(self, node: _Node, answer: "Future[list[str]]") -> None:
        if not answer.done():
            longest = self._answer_seconds
            if not node.problems and self._clock() > node.asked_at + longest:
                self._found(
                    node,
                    f"it did not answer within {longest:g} seconds; look whether it and its "
                    "storage can be reached, or take it out of the cluster",
                )
            return
        node.answer = None
        error = answer.exception()
        if error is None:
            node.broken = 0
            self._found(node, *answer.result())
            self._ask_later(node)
            return
        node.broken += 1
        node.ask_at = self._clock() + BROKEN_SECONDS
        if node.broken >= BROKEN_TIMES:
            words = str(error).strip().splitlines() or [type(error).__name__]
            self._found(node, f"it cannot run semigrid: {words[-1]}")
            self._ask_later(node)

    def _ask_later(self, node: _Node) -> None:
        node.ask_at = self._clock() + node.pause
        if self._grows:
            node.pause *= LONGER

    def _found(self, node: _Node, *problems: str) -> None:
        before, node.problems = node.problems, [f"{node.where}: {p}" for p in problems]
        node.fit = not problems
        if node.fit:
            self.unfit_in_vain = []
        # one that only takes its time may yet be fit
        if problems and node.answer is None:
            self.unfit_in_vain.append(node.problems[0])
        if problems and (not before or node.silent):
            for problem in node.problems:
                self._say(problem)
        if problems and not before:
            self._say(f"{node.where} is given no work; it is asked again from time to time")
        elif before and node.fit:
            self._say(f"{node.where}: it has now what it lacked, and is given work")
        node.silent = node.answer is not None

    @property
    def problems(self) -> list[str]:
        """All that any node lacks, each named."""
        return [problem for node in self._nodes.values() for problem in node.problems]

    @property
    def fit(self) -> list[str]:
        return [i for i, node in self._nodes.items() if node.fit]

    @property
    def unfit(self) -> list[str]:
        return [i for i, node in self._nodes.items() if node.problems]

    @property
    def coming(self) -> list[str]:
        """Those of which nothing is known yet."""
        return [i for i, node in self._nodes.items() if not node.fit and not node.problems]
