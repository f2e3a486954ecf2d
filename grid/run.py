"""Tune drives the plan: one Tune run over the whole grid, each Tune trial one job."""

import contextlib
import json
import logging
import os
import shutil
import tempfile
import threading
from dataclasses import asdict
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from data.errors import InputError
from grid.ledger import SETTLED, Ledger, record_summary
from grid.live import LiveView
from grid.plan import Plan
from grid.scheduler import Job, Scheduler
from grid.work import do_job
from trainers.ray_worker import quiet_environment, run_group
from trainers.trial import Place, TrialSpec, uses_ray_stream

# How often Tune starts a job again whose process died (killed for memory, a lost node).
PROCESS_RETRIES = 3
# What a job that drives a worker group asks for.
DRIVER_BYTES = 2**20


def run_plan(
    scheduler: Scheduler, ledger: Ledger, view: LiveView, stop: threading.Event | None = None
) -> None:
    """Runs all that the scheduler has to give, on this machine or at ``RAY_ADDRESS``.

    Raises ``KeyboardInterrupt`` soon after ``stop`` is set, whoever sets it.
    On an interrupt the ledger and the checkpoints hold all that is needed to go on.
    """
    plan = scheduler.plan
    view.attach(scheduler)
    _tidy(scheduler, ledger)
    scratch = tempfile.mkdtemp(prefix="semigrid-tune-")
    try:
        with view:
            _start_ray(_streams(scheduler.plan))
            _fit(plan, scheduler, ledger, view, scratch, stop or threading.Event())
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _tidy(scheduler: Scheduler, ledger: Ledger) -> None:
    """Removes what a killed run left of trials that are in the ledger for good."""
    for trial_id, facts in scheduler.facts.items():
        if facts["status"] in SETTLED:
            ledger.storage.delete(f"checkpoints/{trial_id}")
    _drop_losers(scheduler, ledger)


def _start_ray(streaming: bool) -> None:
    quiet = {
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_DEDUP_LOGS": "0",
        "PYTHONWARNINGS": "ignore",
        **quiet_environment(),
    }
    os.environ.update(
        quiet,
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_DISABLE_SIGINT_HANDLER="1",
        TUNE_MAX_PENDING_TRIALS_PG="auto",
        TUNE_WARN_THRESHOLD_S="60",
        TUNE_GLOBAL_CHECKPOINT_S="600",
        RAY_AIR_NEW_OUTPUT="0",
        RAY_TMPDIR=os.environ.get("RAY_TMPDIR", tempfile.gettempdir()),
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
        RAY_USAGE_STATS_ENABLED="0",
    )
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # "local", since no address would join whatever cluster was last started on this machine
    address = os.environ.get("RAY_ADDRESS") or "local"
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": quiet},
        # the dashboard stays on: without it Ray Train leaks placement groups of stopped trials
        **({"object_store_memory": _object_store_bytes(streaming)} if address == "local" else {}),
    )


def _object_store_bytes(streaming: bool) -> int:
    """Half a gibibyte, or two for a streamed pool's views, of which tasks make many ahead."""
    usual = 512 * 2**20
    if streaming:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        shared = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else memory
        usual = max(usual, min(2 * 2**30, memory // 4, shared * 9 // 10))
    return int(os.environ.get("SEMIGRID_OBJECT_STORE_BYTES", usual))


def _streams(plan: Plan) -> bool:
    """Whether any pool is streamed by Ray Data."""
    stream = plan.experiment.file.train.stream
    names = {s.cell.dataset for s in plan.searches if s.cell.unlabeled is not None}
    return any(uses_ray_stream(stream, plan.experiment.datasets[name]) for name in names)


def slots(plan: Plan, cpus: float, gpus: float) -> int:
    """How many jobs fit at once: each group's workers, and CPUs for Ray Data if the pool streams.

    Raises ``InputError`` when not even one fits: it would wait for ever.
    """
    train = plan.experiment.file.train
    streaming = _streams(plan)
    group = train.workers * train.cpus_per_worker
    fit = int((cpus - max(1, cpus / 2)) // group) if streaming and cpus >= 2 else int(cpus // group)
    if streaming:
        fit = max(fit, int(cpus - 1 >= group))
    if train.gpus_per_worker:
        fit = min(fit, int(gpus // (train.workers * train.gpus_per_worker)))
    if fit < 1:
        wanted = f"{train.workers} workers × {train.cpus_per_worker} CPUs"
        wanted += f" and {train.gpus_per_worker:g} GPUs" if train.gpus_per_worker else ""
        wanted += ", and a CPU for Ray Data" if streaming else ""
        raise InputError(
            f"train: one training needs {wanted}; Ray has {cpus:g} CPUs and {gpus:g} GPUs; lower "
            "workers, cpus_per_worker or gpus_per_worker, or use a larger machine"
        )
    return fit


def _fit(
    plan: Plan,
    scheduler: Scheduler,
    ledger: Ledger,
    view: LiveView,
    scratch: str,
    stop: threading.Event,
) -> None:
    train = plan.experiment.file.train
    searcher = GridSearcher(plan, scheduler, ledger, view, scratch, stop)
    resources: dict[str, float]
    if train.workers == 1:
        resources = {"CPU": train.cpus_per_worker, "GPU": train.gpus_per_worker}
    else:
        # It only drives the worker group. Any share of a CPU would leave the last group of a
        # machine one short, and Tune refuses an empty request.
        resources = {"memory": DRIVER_BYTES}
    cluster = ray.cluster_resources()
    count = slots(plan, cluster.get("CPU", 1), cluster.get("GPU", 0))
    tuner = tune.Tuner(
        tune.with_resources(execute, resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            max_concurrent_trials=count,
            reuse_actors=train.workers == 1,
            trial_name_creator=lambda trial: f"job-{trial.trial_id}",
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=scratch,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=PROCESS_RETRIES),
        ),
    )
    tuner.fit()


class GridSearcher(Searcher):  # type: ignore[misc]  # Ray is untyped
    """Tune's searcher over the whole grid: hands out the scheduler's jobs as they become ready."""

    def __init__(
        self,
        plan: Plan,
        scheduler: Scheduler,
        ledger: Ledger,
        view: LiveView,
        scratch: str,
        stop: threading.Event,
    ):
        super().__init__(metric="step", mode="max")
        self.plan, self.scheduler, self.ledger, self.view = plan, scheduler, ledger, view
        self.scratch, self.stop = scratch, stop
        self.jobs: dict[str, Job] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next job; None while all that is left waits for a running one."""
        self._stop_if_asked()
        job = self.scheduler.next()
        if job is None:
            return Searcher.FINISHED if self.scheduler.done else None
        self.jobs[trial_id] = job
        self.view.started(job)
        train = self.plan.experiment.file.train
        weights = self.plan.experiment.weights_of(job.search.cell.model)
        order = {
            "kind": job.kind,
            "spec": job.spec.model_dump(mode="json"),
            "cell": job.search.name,
            "place": asdict(self.plan.place(job.search, self.ledger.storage.uri)),
            "workers": train.workers,
            "cpus_per_worker": train.cpus_per_worker,
            "gpus_per_worker": train.gpus_per_worker,
            "train_storage": self.scratch,
            "weights": None if weights is None else weights.model_dump(),
        }
        return {"order": json.dumps(order)}

    def _stop_if_asked(self) -> None:
        if self.stop.is_set():
            raise KeyboardInterrupt

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._stop_if_asked()
        self.view.progress(self.jobs[trial_id], result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        job = self.jobs.pop(trial_id)
        record = self.ledger.read(job.spec.id)
        problem = None
        if error and record is not None:
            # the process died more often than Tune starts it again, and could not say so itself
            record.status = "failed" if record.status == "started" else record.status
            record.error = record.error or "its process died"
            with contextlib.suppress(OSError):  # the scheduler knows it anyway
                self.ledger.write(record)
        if record is None:
            problem = "its record is gone from the ledger"
        elif record.status == "failed" or error:
            problem = f"{record.error} (log: {record.log})"
        elif job.kind == "measure" and record.test is None:
            problem = f"could not be measured on test: {record.error} (log: {record.log})"
        self.scheduler.complete(job, record_summary(record) if record else None, problem)
        self.view.completed(job, record, problem)
        _drop_losers(self.scheduler, self.ledger)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher for ``Tuner.restore``, which is not used here."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see ``save``."""


def execute(config: dict[str, Any]) -> None:
    """A Tune trial: does one job in this process, or drives a worker group that does it."""
    do_job(json.loads(config["order"]), tune.report, _run_group)


def _run_group(spec: TrialSpec, place: Place, order: dict[str, Any]) -> dict[str, Any]:
    from ray.tune.integration.ray_train import TuneReportCallback

    return run_group(
        spec,
        place,
        order["workers"],
        order["cpus_per_worker"],
        order["gpus_per_worker"],
        order["train_storage"],
        callbacks=[TuneReportCallback()],
    )


def _drop_losers(scheduler: Scheduler, ledger: Ledger) -> None:
    """Deletes weights as soon as their search is settled: a large grid would fill the disk."""
    for trial_id in scheduler.losers():
        ledger.delete_weights(trial_id)
