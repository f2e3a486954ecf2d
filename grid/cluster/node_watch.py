"""Tells which nodes of a cluster meet the requirements, by asking each one that joins. Pure."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from semigrid.data.errors import InputError

# Longest wait for a node's answer, in seconds, including the first start of Python there.
ANSWER_SECONDS = 60.0
# Pause before an unfit node is asked again, in seconds: a mount or a copy may be on its way.
AGAIN_SECONDS = 60.0
# Factor by which each pause grows where an autoscaler starts and ends nodes. It ends idle nodes
# only, and a node that is asked is not idle: an unfit one would never be replaced.
PAUSE_GROWTH = 4
# Pause before a node whose process broke once is asked again, in seconds: it may have been leaving.
BROKEN_SECONDS = 3.0
POLL_SECONDS = 0.1


@dataclass
class _Node:
    label: str
    problems: list[str] | None = None  # None before it was judged
    answer: "Future[list[str]] | None" = None
    asked_at: float = 0.0
    ask_at: float = 0.0
    broken: int = 0  # times in a row
    silent: bool = False  # unfit because it has not answered yet
    pause: float = AGAIN_SECONDS


class NodeWatch:
    """Asks every node that joins, and keeps work away from those that are unfit or undecided.

    Args:
        ask: asks the node of an ID which requirements it does not meet.
        keep_free: receives the IDs of all nodes to keep free of work, when they change.
        say: receives a message when a node turns out to be unfit, and when it is fit again.
        answer_seconds: longest wait for a node's answer.
        grows: whether an autoscaler starts and ends nodes.
    """

    def __init__(
        self,
        ask: Callable[[str], "Future[list[str]]"],
        keep_free: Callable[[Sequence[str]], None],
        say: Callable[[str], None],
        answer_seconds: float = ANSWER_SECONDS,
        grows: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._ask, self._keep_free, self._say, self._clock = ask, keep_free, say, clock
        self._answer_seconds, self._grows = answer_seconds, grows
        self._nodes: dict[str, _Node] = {}
        self._kept_free: list[str] = []
        # First problem of each unfit answer since a node was fit or a job was started.
        self.rejections: list[str] = []

    def before_the_first_trial(
        self, nodes: Callable[[], Mapping[str, str]], continues: bool
    ) -> None:
        """Waits for all answers. Raises ``InputError`` with every unmet requirement.

        A run that ``continues`` an earlier one may have gone on without the unfit nodes before:
        it raises the error only where no node is fit.

        Args:
            nodes: see ``look``.
        """
        say, self._say = self._say, lambda problem: None  # the error says it all
        self.look(nodes())
        while self.undecided:
            time.sleep(POLL_SECONDS)
            self.look(nodes())
        self._say, self.rejections = say, []
        problems = [problem for node in self._nodes.values() for problem in node.problems or ()]
        if problems and not (continues and len(self.unfit) < len(self._nodes)):
            raise InputError(*problems)
        for problem in problems:
            say(f"{problem}; that node is given no work")

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
            elif node.problems != [] and self._clock() >= node.ask_at:
                node.answer, node.asked_at = self._ask(node_id), self._clock()
        kept_free = sorted([*self.unfit, *self.undecided])
        if kept_free != self._kept_free:
            self._keep_free(kept_free)
            self._kept_free = kept_free

    @property
    def unfit(self) -> list[str]:
        """IDs of nodes with unmet requirements."""
        return [i for i, node in self._nodes.items() if node.problems]

    @property
    def undecided(self) -> list[str]:
        """IDs of nodes that have not answered yet."""
        return [i for i, node in self._nodes.items() if node.problems is None]

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
        node.answer, error = None, answer.exception()
        node.broken = 0 if error is None else node.broken + 1
        if node.broken == 1:
            node.ask_at = self._clock() + BROKEN_SECONDS
            return
        if error is None:
            self._judge(node, *answer.result())
        else:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self._judge(node, f"it cannot run semigrid: {lines[-1]}")
        node.ask_at = self._clock() + node.pause
        if self._grows:
            node.pause *= PAUSE_GROWTH

    def _judge(self, node: _Node, *problems: str) -> None:
        before, node.problems = node.problems, [f"{node.label}: {p}" for p in problems]
        if not problems:
            self.rejections = []
            if before:
                self._say(f"{node.label}: it now meets all requirements and is given work")
            return
        only_slow = node.answer is not None  # it may yet be fit
        if not only_slow:
            self.rejections.append(node.problems[0])
        if not before or node.silent:
            for problem in node.problems:
                self._say(problem)
        if not before:
            self._say(f"{node.label} is given no work; it is checked again from time to time")
        node.silent = only_slow
