"""MLflow: a run for each trial, at the address that MLflow's own variables name."""

import time

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from semigrid.grid.study.ledger import COLLAPSED, Record
from semigrid.grid.study.state import Job
from semigrid.grid.trackers.tracker import OF_EVALUATIONS, Tracker, course_of, described, stamp
from semigrid.trainers.trial.identity import TrialSpec

STATUS = {"finished": "FINISHED", "stopped": "KILLED"}
TRIAL, END = "semigrid.trial", "semigrid.ended"
# Largest number of runs that a server may be asked for at once.
MOST_RUNS = 50_000


class MLflow(Tracker):
    """Finds a trial's run by its tag, and continues it."""

    def __init__(self, experiment: str):
        self._client = MlflowClient()
        known = self._client.get_experiment_by_name(experiment)
        self._experiment = (
            known.experiment_id if known else self._client.create_experiment(experiment)
        )
        self._runs: dict[str, str] = {}
        self._ends: dict[str, str] = {}  # stamps on the server, by trial
        self._steps: dict[str, set[int]] = {}  # that were written, by trial
        # all at once: one search for each trial is slow where there are many
        for run in self._client.search_runs([self._experiment], max_results=MOST_RUNS):
            tags = run.data.tags
            if TRIAL in tags:
                self._runs[tags[TRIAL]] = run.info.run_id
                self._ends[tags[TRIAL]] = tags.get(END, "")

    def known_end(self, record: Record) -> str:
        return self._ends.get(record.id, "")

    def _run(self, spec: TrialSpec, cell: str) -> str:
        """Identity of the trial's run, created if there is none."""
        if spec.id not in self._runs:
            title, values, tags = described(spec, cell)
            tags = {f"semigrid.{name}": value for name, value in tags.items()}
            run = self._client.create_run(self._experiment, tags=tags, run_name=title)
            self._runs[spec.id] = run.info.run_id
            params = [Param(name, str(value)) for name, value in values.items()]
            self._client.log_batch(run.info.run_id, params=params)
        if spec.id not in self._steps:
            history = self._client.get_metric_history(self._runs[spec.id], OF_EVALUATIONS)
            self._steps[spec.id] = {metric.step for metric in history}
        return self._runs[spec.id]

    def evaluated(self, job: Job, step: int, metrics: dict[str, float]) -> None:
        trial = job.spec.id
        if trial in self._runs and trial not in self._steps:  # it is trained again
            self._client.update_run(self._runs[trial], status="RUNNING")
        self._log(job.spec, job.search.name, {step: metrics})

    def write(self, record: Record) -> None:
        run = self._log(record.spec, record.cell, course_of(record))
        scores = {f"best_{name}": value for name, value in record.val.items()}
        scores |= {f"test_{name}": value for name, value in (record.test or {}).items()}
        tags = [RunTag("semigrid.status", record.status), RunTag(END, stamp(record))]
        if record.error:
            tags.append(RunTag("semigrid.error", record.error))
        self._client.log_batch(run, metrics=_metrics(scores, record.best_step), tags=tags)
        fallback = "FAILED" if record.status in (*COLLAPSED, "failed") else "RUNNING"
        self._client.set_terminated(run, STATUS.get(record.status, fallback))
        self._steps.pop(record.id)

    def _log(self, spec: TrialSpec, cell: str, course: dict[int, dict[str, float]]) -> str:
        """Writes evaluations that the trial's run lacks; returns the run's identity."""
        run = self._run(spec, cell)
        for step in sorted(course.keys() - self._steps[spec.id]):
            self._client.log_batch(run, metrics=_metrics(course[step], step))
            self._steps[spec.id].add(step)
        return run


def _metrics(values: dict[str, float], step: int) -> list[Metric]:
    now = round(time.time() * 1000)
    return [Metric(name, value, now, step) for name, value in values.items()]
