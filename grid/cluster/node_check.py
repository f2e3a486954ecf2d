"""Checks of the cluster's nodes: all of them before the first trial, others as they join."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from semigrid.data.errors import InputError
from semigrid.data.storage import Storage
from semigrid.grid.cluster.node_requirements import (
    NodeRequirements,
    requirements_of,
    unmet_requirements,
)
from semigrid.grid.cluster.node_watch import ANSWER_SECONDS, NodeWatch
from semigrid.grid.study.plan import Plan
from semigrid.trainers.cluster.ray_nodes import keep_free

POLL_SECONDS = 0.1
# Longest wait for a node that first installs the job's packages, torch among them, in seconds.
INSTALL_SECONDS = 1200.0


class NodeCheck:
    """Keeps work away from nodes that do not meet the requirements, or have not answered yet.

    Call ``before_the_first_trial`` first, then ``look`` again and again.

    Args:
        say: receives messages about nodes that join and are unfit.
        grows: whether the cluster has an autoscaler.
    """

    def __init__(
        self, plan: Plan, storage: Storage, say: Callable[[str], None], grows: bool = False
    ):
        requirements = requirements_of(plan, storage)
        # Ray installs packages on each node before anything of this job runs there
        installs = not {"pip", "uv", "conda"}.isdisjoint(ray.get_runtime_context().runtime_env)
        self.watch = NodeWatch(
            lambda node_id: _ask(node_id, requirements),
            self._say,
            INSTALL_SECONDS if installs else ANSWER_SECONDS,
            grows,
        )
        self._listener, self._started = say, False
        self._kept_free: list[str] = []

    def _say(self, message: str) -> None:
        if self._started:  # before, the error says it all
            self._listener(message)

    def before_the_first_trial(self, continues: bool) -> None:
        """Raises ``InputError`` with every unmet requirement and the node's address and host.

        A run that ``continues`` an earlier one may have gone on without the unfit nodes before:
        it raises the error only where no node is fit.
        """
        self.look(alive_nodes())
        while self.watch.undecided:
            time.sleep(POLL_SECONDS)
            self.look(alive_nodes())
        problems = self.watch.problems
        if problems and not (continues and self.watch.fit):
            raise InputError(*problems)
        self._started = True
        for problem in problems:
            self._say(f"{problem}; that node is given no work")
        self.watch.progressed()

    def look(self, nodes: list[dict[str, Any]]) -> None:
        """Asks the nodes whose turn it is, and tells all processes which ones to keep free.

        Args:
            nodes: those that are alive, as Ray lists them.
        """
        self.watch.look({node["NodeID"]: _label(node) for node in nodes})
        nodes_to_spare = sorted([*self.watch.unfit, *self.watch.undecided])
        if nodes_to_spare != self._kept_free:
            keep_free(nodes_to_spare)
            self._kept_free = nodes_to_spare


def alive_nodes() -> list[dict[str, Any]]:
    """The cluster's nodes that are alive, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def _label(node: dict[str, Any]) -> str:
    return f"node {node['NodeManagerAddress']} ({node['NodeManagerHostname']})"


def _ask(node_id: str, requirements: NodeRequirements) -> "Future[list[str]]":
    on_node = NodeAffinitySchedulingStrategy(node_id, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0)(unmet_requirements)
    remote = task.options(scheduling_strategy=on_node).remote(requirements)
    answer: Future[list[str]] = remote.future()
    return answer
