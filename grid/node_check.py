"""Every node of the cluster is asked what it lacks, before the first trial starts."""

from typing import Any

import ray
from ray.exceptions import RayError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data.errors import InputError
from data.storage import Storage
from grid.nodes import Needs, needs_of, problems_here
from grid.plan import Plan

# So long (s) all nodes together may take to answer.
ANSWER_SECONDS = 60.0


def check_nodes(plan: Plan, storage: Storage) -> None:
    """Raises ``InputError`` with all that any node lacks, each named by address and host."""
    needs = needs_of(plan, storage)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = {_ask(node["NodeID"], needs): node for node in nodes}
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    problems = []
    for answer, node in asked.items():
        if node["NodeID"] not in alive:
            continue  # it left meanwhile, as spot machines do
        where = f"node {node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
        if answer in answered:
            problems += [f"{where}: {problem}" for problem in _answer(answer)]
        else:
            ray.cancel(answer, force=True)
            problems.append(
                f"{where}: it did not answer within {ANSWER_SECONDS:g} seconds; look whether it "
                "and its storage can be reached, or take it out of the cluster"
            )
    if problems:
        raise InputError(*problems)


def _ask(node_id: str, needs: Needs) -> Any:
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    look = ray.remote(num_cpus=0, max_retries=0)(problems_here)
    return look.options(scheduling_strategy=there).remote(needs)


def _answer(answer: Any) -> list[str]:
    try:
        found: list[str] = ray.get(answer)
    except TaskUnschedulableError:  # it has left; the head knows, its list of nodes not yet
        return []
    except RayError as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        return [f"it cannot run semigrid: {words[-1]}"]
    return found
