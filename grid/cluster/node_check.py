"""The nodes of the cluster are asked what they lack: all before the first trial, others as they
join."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from semigrid.data.errors import InputError
from semigrid.data.storage import Storage
from semigrid.grid.cluster.node_watch import ANSWER_SECONDS, NodeWatch
from semigrid.grid.cluster.nodes import Needs, needs_of, problems_here
from semigrid.grid.study.plan import Plan
from semigrid.trainers.ray_nodes import KnownNodes, tell_nodes

POLL_SECONDS = 0.1
# So long (s) may a node take that is to install the job's packages first, torch among them.
INSTALL_SECONDS = 1200.0


class NodeCheck:
    """Keeps nodes free of work that lack what trainings need, or were not asked yet.

    Args:
        say: is told of nodes that join and lack something.
        grows: whether the cluster has an autoscaler.

    ``before_the_first_trial`` is to be called first, then ``look`` again and again.
    """

    def __init__(
        self, plan: Plan, storage: Storage, say: Callable[[str], None], grows: bool = False
    ):
        needs = needs_of(plan, storage)
        self._watch = NodeWatch(
            lambda node_id: _ask(node_id, needs),
            self._say,
            INSTALL_SECONDS if _installs() else ANSWER_SECONDS,
            grows,
        )
        self._listener, self._begun = say, False
        self._told = KnownNodes()

    def _say(self, words: str) -> None:
        if self._begun:  # else the error says all
            self._listener(words)

    def before_the_first_trial(self, continues: bool) -> None:
        """Raises ``InputError`` with all that any node lacks, each named by address and host.

        A run that ``continues`` raises it only where no node is fit: it may have gone on without
        the others before.
        """
        self.look(alive_nodes())
        while self._watch.coming:
            time.sleep(POLL_SECONDS)
            self.look(alive_nodes())
        problems = self._watch.problems
        if problems and not (continues and self._watch.fit):
            raise InputError(*problems)
        self._begun = True
        for problem in problems:
            self._say(f"{problem}; that node is given no work")
        self.worked()

    def worked(self) -> None:
        """Takes note that something runs: what was unfit before is no reason to give up."""
        self._watch.unfit_in_vain = []

    def look(self, nodes: list[dict[str, Any]]) -> None:
        """Asks those of the nodes that are to be asked, and tells all processes who is kept free.

        Args:
            nodes: those that are alive, as Ray lists them.
        """
        self._watch.look({node["NodeID"]: _name(node) for node in nodes})
        known = KnownNodes(sorted([*self.unfit, *self.coming]))
        if known != self._told:
            tell_nodes(known)
            self._told = known

    @property
    def unfit_in_vain(self) -> list[str]:
        """What nodes answered that they lack since something was last begun, none of them fit."""
        return self._watch.unfit_in_vain

    @property
    def coming(self) -> list[str]:
        """IDs of nodes that have not answered yet."""
        return self._watch.coming

    @property
    def unfit(self) -> list[str]:
        """IDs of nodes that lack something."""
        return self._watch.unfit


def _installs() -> bool:
    """Whether Ray is to install packages on each node before anything of this job runs there."""
    return not {"pip", "uv", "conda"}.isdisjoint(ray.get_runtime_context().runtime_env)


def alive_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _name(node: dict[str, Any]) -> str:
    return f"node {node['NodeManagerAddress']} ({node['NodeManagerHostname']})"


def _ask(node_id: str, needs: Needs) -> "Future[list[str]]":
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    look = ray.remote(num_cpus=0, max_retries=0)(problems_here)
    answer: Future[list[str]] = look.options(scheduling_strategy=there).remote(needs).future()
    return answer
