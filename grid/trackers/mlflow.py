"""MLflow: a run for each trial, at the address that MLflow's own variables name."""

import time
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from semigrid.grid.study.ledger import Record
from semigrid.grid.study.summary import COLLAPSED, ENDED
from semigrid.grid.trackers.tracker import Past, Run, course_of, stamp

STATUS = {"finished": "FINISHED", "stopped": "KILLED"}
# an evaluation's step is looked for in this metric, which each of them has
ALWAYS = "student_acc1"
TRIAL, END = "semigrid.trial", "semigrid.ended"
PAGE = 1000


class MLflow:
    """Finds the run of a trial that was seen before by its tag, and goes on with it."""

    def __init__(self, experiment: str):
        self._client = MlflowClient()
        found = self._client.get_experiment_by_name(experiment)
        self._experiment = (
            found.experiment_id if found else self._client.create_experiment(experiment)
        )
        self._runs: dict[str, str] = {}
        self._ends: dict[str, str] = {}  # what the server has of trials that ended
        self._steps: dict[str, set[int]] = {}
        token = None
        while True:  # all at once: to look for each trial is slow where there are many
            page = self._client.search_runs([self._experiment], max_results=PAGE, page_token=token)
            for run in page:
                tags = run.data.tags
                if TRIAL in tags:
                    self._runs[tags[TRIAL]] = run.info.run_id
                    self._ends[tags[TRIAL]] = tags.get(END, "")
            token = page.token
            if not token:
                break

    def catch_up(self, past: Past) -> None:
        for run, record in past:
            if record.status in ENDED and self._ends.get(run.id) != stamp(record):
                self.ended(run, record)
        self._ends.clear()

    def _run(self, run: Run) -> str:
        if run.id not in self._runs:
            tags = {f"semigrid.{name}": value for name, value in run.tags().items()}
            made = self._client.create_run(self._experiment, tags=tags, run_name=run.name)
            self._runs[run.id] = made.info.run_id
            params = [Param(name, str(value)) for name, value in run.hyper_parameters().items()]
            self._client.log_batch(made.info.run_id, params=params)
        if run.id not in self._steps:
            history = self._client.get_metric_history(self._runs[run.id], ALWAYS)
            self._steps[run.id] = {metric.step for metric in history}
        return self._runs[run.id]

    def evaluated(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        if run.id in self._runs and run.id not in self._steps:
            self._client.update_run(self._runs[run.id], status="RUNNING")  # it is tried again
        self._log(run, {step: metrics})

    def ended(self, run: Run, record: Record) -> None:
        known = self._run(run)
        self._log(run, course_of(record))
        scores = {f"best_{name}": value for name, value in record.val.items()}
        scores |= {f"test_{name}": value for name, value in (record.test or {}).items()}
        tags = [RunTag("semigrid.status", record.status), RunTag(END, stamp(record))]
        if record.error:
            tags.append(RunTag("semigrid.error", record.error))
        self._client.log_batch(known, metrics=_metrics(scores, record.best_step), tags=tags)
        fallback = "FAILED" if record.status in (*COLLAPSED, "failed") else "RUNNING"
        self._client.set_terminated(known, STATUS.get(record.status, fallback))
        self._steps.pop(run.id)

    def _log(self, run: Run, course: dict[int, dict[str, float]]) -> None:
        known = self._run(run)
        for step in sorted(course.keys() - self._steps[run.id]):
            self._client.log_batch(known, metrics=_metrics(course[step], step))
            self._steps[run.id].add(step)

    def close(self) -> None:
        """Nothing: a trial that goes on later goes on in its run."""


def _metrics(values: dict[str, float], step: int) -> list[Any]:
    now = round(time.time() * 1000)
    return [Metric(name, value, now, step) for name, value in values.items()]
