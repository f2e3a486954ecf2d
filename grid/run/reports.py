"""Reports of a worker group, passed on by the process that drives it."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train import UserCallback
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from semigrid.trainers.execution.runtime import ReportMetrics


class GroupReports(UserCallback):  # type: ignore[misc]  # Ray is untyped
    """Carries what rank 0 reports from the group's controller to the process that drives it.

    Tune's own callback for this is read by the process's main thread, which reports what it reads
    and so waits for ever if the job's last report came first: Tune has one place for a report, and
    that thread is the one that empties it.
    """

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Is called in the controller, with the metrics of all ranks."""
        with contextlib.suppress(RayActorError):  # a training is not ended for want of its reports
            self._queue.put(metrics[0])

    @contextlib.contextmanager
    def passed_to(self, report: ReportMetrics) -> Iterator[None]:
        """Calls ``report`` with each report, from a thread; with all of them before it ends."""
        with ThreadPoolExecutor(1) as pool:
            passing = pool.submit(self._pass_on, report)
            try:
                yield
            finally:
                with contextlib.suppress(RayActorError):
                    self._queue.put(None)
                passing.result()
                self._queue.shutdown(force=True)

    def _pass_on(self, report: ReportMetrics) -> None:
        with contextlib.suppress(RayActorError):
            while (metrics := self._queue.get()) is not None:
                report(metrics)
