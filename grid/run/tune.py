"""Tune drives the plan: one Tune run over the whole grid, each Tune trial one job."""

import contextlib
import json
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray._private.services import GcsClient
from ray.exceptions import AuthenticationError
from ray.tune.execution import class_cache
from ray.tune.search import Searcher
from ray.util.placement_group import placement_group

from semigrid.data.errors import InputError, StorageGoneError
from semigrid.data.storage.patient import PATIENCE, storage_patience
from semigrid.grid.cluster.admission import Admission
from semigrid.grid.cluster.autoscaler import MachineRequests, cluster_growth
from semigrid.grid.cluster.growth import (
    FIXED,
    Growth,
    largest_clusters,
    requests_for,
    show_requests,
)
from semigrid.grid.cluster.machines import (
    Demand,
    Machine,
    demand_of,
    driver_memory,
    fits,
    for_training,
    spare_one,
)
from semigrid.grid.cluster.node_check import NodeCheck, alive_nodes
from semigrid.grid.run.supervise import is_restarted, scratch_folder
from semigrid.grid.run.work import Death, cutoffs_of, do_job, order_for, settle
from semigrid.grid.status.live import LiveView
from semigrid.grid.study.layout import CHECKPOINTS, checkpoint_folder, latest_checkpoint
from semigrid.grid.study.ledger import Ledger
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.scheduler import Scheduler
from semigrid.grid.study.state import Job, StudyState
from semigrid.grid.study.summary import ENDED
from semigrid.grid.trackers.tracker import Trackers
from semigrid.trainers.fence import begin_attempt, end_attempts
from semigrid.trainers.options import uses_ray_stream
from semigrid.trainers.ray_nodes import free_nodes, placement
from semigrid.trainers.trial import (
    NoRoomError,
    Place,
    TrialSpec,
)

# By so much the clocks of two machines may differ.
CLOCK_SECONDS = 5.0
# So long (s) a cluster may take to answer at all.
ANSWER_SECONDS = 10.0
# How often the machines of the cluster are looked at.
LOOK_SECONDS = 1.0
# Of Ray Train: groups start sooner, and its chatter stays in log files.
TRAIN_SETTINGS = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": os.environ.get(
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300"
    ),
}
# So often may nodes of an autoscaler answer that they lack something, while nothing runs.
UNFIT_ANSWERS = 3
# So long (s) after a job's process died, what its worker group held is looked for.
ORPHAN_SECONDS = 60.0


def run_plan(
    scheduler: Scheduler,
    ledger: Ledger,
    view: LiveView,
    stop: threading.Event | None = None,
    work: Callable[[dict[str, Any]], None] | None = None,
    trackers: Trackers | None = None,
) -> None:
    """Runs all that the scheduler has to give, on this machine or at ``RAY_ADDRESS``.

    Raises ``KeyboardInterrupt`` soon after ``stop`` is set, whoever sets it.
    On an interrupt the ledger and the checkpoints hold all that is needed to go on.

    Args:
        work: does one job in a process of its own, ``execute`` unless said.
    """
    view.attach(scheduler.study, ledger.storage)
    _tidy(scheduler, ledger)
    scratch = tempfile.mkdtemp(prefix="semigrid-tune-", dir=scratch_folder())
    try:
        with view:
            streaming = _streams(scheduler.study.plan)
            start_ray(streaming)
            growth = cluster_growth() if os.environ.get("RAY_ADDRESS") else FIXED
            check_room(scheduler.study, cluster_machines(), streaming, growth)
            check = None
            if os.environ.get("RAY_ADDRESS"):
                view.activity = "asking each node what it lacks"
                check = NodeCheck(scheduler.study.plan, ledger.storage, view.noted, growth != FIXED)
                check.before_the_first_trial(continues=bool(scheduler.study.summaries))
            searcher = GridSearcher(
                scheduler, ledger, view, scratch, stop or threading.Event(), trackers, growth, check
            )
            try:
                _fit(searcher, work or execute, scratch)
            except KeyboardInterrupt:
                if searcher.gone is not None:
                    raise searcher.gone from None
                raise
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _tidy(scheduler: Scheduler, ledger: Ledger) -> None:
    """Removes what a killed run left of trials that are in the ledger for good."""
    for trial_id in ledger.storage.folders(CHECKPOINTS):
        if scheduler.study.has_ended(trial_id):
            ledger.storage.delete(checkpoint_folder(trial_id))
    _drop_losers(scheduler, ledger)


def start_ray(streaming: bool) -> None:
    """Starts Ray on this machine, or joins the cluster at ``RAY_ADDRESS``, its chatter in logs."""
    quiet = {
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_DEDUP_LOGS": "0",
        "PYTHONWARNINGS": "ignore",
        # of datasets and weights in buckets, too, which are read where a training is
        PATIENCE: f"{storage_patience():g}",
        **TRAIN_SETTINGS,
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
    _keep_credentials()
    for name in ("ray", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # a death is no error here but a reason to go on; what it was stands in the trial's log
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    # "local", since no address would join whatever cluster was last started on this machine
    address = os.environ.get("RAY_ADDRESS") or "local"
    if not is_restarted():  # else its head is lost, and Ray waits for it
        check_address(address)
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": quiet},
        # the dashboard stays on: without it Ray Train leaks placement groups of stopped trials
        **({"object_store_memory": _object_store_bytes(streaming)} if address == "local" else {}),
    )


def _keep_credentials() -> None:
    """Tune would copy them into its processes' runtime environments, which Ray writes into logs."""
    class_cache.ENV_VARS_TO_PROPAGATE -= {
        name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")
    }


def check_address(address: str) -> None:
    """Raises ``InputError`` where nothing answers, or not to us: Ray would try on, then exit."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there ({error}); give the address that "
            "`ray start --head` printed, or unset RAY_ADDRESS to run on this machine"
        ) from error
    try:
        GcsClient(address=address)
    except AuthenticationError as error:
        raise InputError(
            f"RAY_ADDRESS={address}: that cluster wants its token; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN), or put the token in ~/.ray/auth_token"
        ) from error


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


def check_room(
    study: StudyState, machines: Sequence[Machine], streaming: bool, growth: Growth = FIXED
) -> None:
    """Raises ``InputError`` for trainings that not even the grown cluster, idle, could hold."""
    if growth.types is None:
        return
    plan = study.plan
    clusters = largest_clusters(machines, growth)
    problems = []
    open_ones = (s for s in plan.searches if study.is_open(s.name))
    for model in {search.cell.model: None for search in open_ones}:
        demand = demand_of(plan.experiment.train_of(model), "train")
        if not any(_holds(cluster, demand, streaming) for cluster in clusters):
            also = ", and a CPU for Ray Data" if streaming else ""
            problems.append(f"train: one training of {model} needs {demand}{also}")
    if problems:
        there = ", ".join(map(str, machines))
        more = f", and may start {growth}, {growth.most} in all" if growth.types else ""
        raise InputError(
            *problems,
            f"Ray has machines with {there}{more}; lower workers, cpus_per_worker or "
            "gpus_per_worker, in train or in the model's own train, or use larger machines",
        )


def _holds(machines: Sequence[Machine], demand: Demand, streaming: bool) -> bool:
    """Whether the machines hold one training, while nothing else runs."""
    if fits(for_training(machines, streaming), [], demand):
        return True
    # one training at a time, with a CPU to spare for Ray Data
    return streaming and fits(spare_one(machines), [], demand)


def cluster_machines() -> list[Machine]:
    """The nodes that are alive now."""
    return [_machine(node["Resources"]) for node in alive_nodes()]


def _machine(resources: dict[str, float]) -> Machine:
    return Machine(resources.get("CPU", 0.0), resources.get("GPU", 0.0))


def _memories() -> list[float]:
    """Of each node the bytes that Ray may give to tasks and processes."""
    return [node["Resources"].get("memory", 0.0) for node in alive_nodes()]


def _free() -> list[Machine]:
    """What the nodes that may be given work have left now."""
    return [_machine(free) for free in free_nodes().values()]


def _fit(searcher: "GridSearcher", work: Callable[[dict[str, Any]], None], scratch: str) -> None:
    plan = searcher.plan
    models = {search.cell.model for search in plan.searches}
    trains = [plan.experiment.train_of(model) for model in models]
    alike = len({(train.cpus_per_worker, train.gpus_per_worker) for train in trains}) == 1
    tuner = tune.Tuner(
        tune.with_resources(work, _placement),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            # a kept process holds its resources: another kind of job would wait for it
            reuse_actors=alike and all(train.workers == 1 for train in trains),
            trial_name_creator=lambda trial: f"job-{trial.trial_id}",
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=scratch,
            verbose=0,
            callbacks=[searcher.trials],
        ),
    )
    tuner.fit()


class Placement(tune.PlacementGroupFactory):  # type: ignore[misc]  # Ray is untyped
    """A job's room on any node but those that are kept free when it is asked for.

    Two of the same resources are equal whatever is kept free: Tune may give a process that has one
    to a job that wants the other. A node that joins while one waits may still be taken, unasked:
    that is rare, since a job waits here only if a node vanished under it.
    """

    def to_placement_group(self) -> Any:
        selector = placement()
        if selector is None:
            return super().to_placement_group()
        return placement_group(self.bundles, bundle_label_selector=[selector] * len(self.bundles))


def _placement(config: dict[str, Any]) -> Placement:
    return Placement([config["request"]])


class TuneTrials(tune.Callback):  # type: ignore[misc]  # Ray is untyped
    """Tune's own view of its running trials: where it wrote why one died.

    ``look`` is called again and again, also while a trial of Tune's waits for its process.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        self._trials: dict[str, Any] = {}
        self._look = look

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        self._look()

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._trials[trial.trial_id] = trial

    def forget(self, trial_id: str) -> str | None:
        """Ray's words on why the trial died, if it did."""
        trial = self._trials.pop(trial_id, None)
        path = None if trial is None else trial.error_file
        if path is None or not os.path.exists(path):
            return None
        return Path(path).read_text(encoding="utf-8", errors="replace")


class GridSearcher(Searcher):  # type: ignore[misc]  # Ray is untyped
    """Tune's searcher over the whole grid: hands out the scheduler's jobs as they become ready."""

    def __init__(
        self,
        scheduler: Scheduler,
        ledger: Ledger,
        view: LiveView,
        scratch: str,
        stop: threading.Event,
        trackers: Trackers | None = None,
        growth: Growth = FIXED,
        check: NodeCheck | None = None,
    ):
        super().__init__(metric="step", mode="max")
        self.plan, self.scheduler = scheduler.study.plan, scheduler
        self.ledger, self.view = ledger, view
        self.scratch, self.stop, self.trackers = scratch, stop, trackers
        self.streaming = _streams(self.plan)
        self.on_cluster = bool(os.environ.get("RAY_ADDRESS"))
        self.jobs: dict[str, Job] = {}
        self.trials = TuneTrials(self._look)
        # how often in a row a job's process died, and which checkpoint was there at that time
        self._deaths: dict[tuple[str, str], tuple[int, str | None]] = {}
        self._began: dict[str, float] = {}
        # why this run ends before its time
        self.gone: StorageGoneError | InputError | None = None
        self._admission = Admission()
        self._check = check
        # groups that went back, their machines lost
        self._lacked_room: set[tuple[str, str]] = set()
        self._look_at_nodes()
        trains = [self.plan.experiment.train_of(s.cell.model) for s in self.plan.searches]
        self.groups = any(train.workers > 1 for train in trains)
        self._looked_at = time.monotonic()
        self._orphans_until = 0.0
        self._growth, self._requests = growth, MachineRequests()

    def suggest(self, trial_id: str) -> Any:
        """The next job; None while all that is left waits for a running one, or for room."""
        self._stop_if_asked()
        job = self._next()
        if job is None:
            return Searcher.FINISHED if self.scheduler.done else None
        self.jobs[trial_id] = self.scheduler.start(job)
        self._began[trial_id] = time.time()
        if self._check is not None:
            self._check.watch.progressed()
        self.view.started(job)
        order = order_for(self.plan, job, self.ledger.storage, len(self.jobs))
        if self.on_cluster:
            order["place"]["attempt"] = job.spec.id, self._begin_attempt(job)
        order |= {"train_storage": self.scratch, "look_first": job.key in self._lacked_room}
        return {"order": json.dumps(order), "request": dict(self.request(job))}

    def _begin_attempt(self, job: Job) -> str:
        try:
            return begin_attempt(self.ledger.storage, job.spec.id)
        except StorageGoneError as error:
            self.gone = error
            self.stop.set()
            raise KeyboardInterrupt from error

    def _next(self) -> Job | None:
        """The next job that the machines have room for."""
        self._look()
        machines = for_training(self._machines, self.streaming)
        if self.streaming and not self.jobs and self._machines:
            machines = spare_one(self._machines)
        ready = ((job, self._demand(job)) for job in self.scheduler.ready())
        running = [self._demand(j) for j in self.jobs.values()]
        # with nothing running, what is not free is about to be, as soon as Tune has a trial again
        free = self._free if self.groups and running else None
        job = self._admission.choose(ready, machines, running, free)
        if job is None and not self.jobs and not self.scheduler.done:
            wanted = next((str(self._demand(job)) for job in self.scheduler.ready()), "")
            self.view.activity = f"waiting for machines with {wanted}"
            self._stop_if_hopeless()
        return job

    def _stop_if_hopeless(self) -> None:
        """Else an autoscaler would start machine after machine, each paid for and none of use, or
        keep those that are of none."""
        if self._check is None or self._growth == FIXED or self._coming:
            return
        rejections = self._check.watch.rejections
        if len(rejections) >= UNFIT_ANSWERS:
            self.gone = InputError(
                *dict.fromkeys(rejections),
                "no node that came has what trainings need, and no other has room; set that right, "
                "then run the same command again",
            )
            self.stop.set()
            raise KeyboardInterrupt

    def _look(self) -> None:
        """Looks at the machines as they are now, every second: nodes come and go."""
        if time.monotonic() - self._looked_at <= LOOK_SECONDS:
            return
        self._look_at_nodes()
        self._looked_at = time.monotonic()
        if self._growth != FIXED:
            self._ask()
        if self._looked_at < self._orphans_until:
            from semigrid.trainers.ray_worker import free_orphans

            free_orphans()

    def _look_at_nodes(self) -> None:
        """Those with work, those that were not asked yet, and those that lack something."""
        nodes = alive_nodes()
        coming, unfit = [], []
        if self._check is not None:
            self._check.look(nodes)
            coming, unfit = self._check.watch.undecided, self._check.watch.unfit
        machines = {node["NodeID"]: _machine(node["Resources"]) for node in nodes}
        self._coming = [machines.pop(node_id) for node_id in coming]
        self._unfit = [machines.pop(node_id) for node_id in unfit]
        self._machines, self._free = list(machines.values()), _free()

    def _ask(self) -> None:
        """Asks the autoscaler for the machines that ready jobs wait for, and for no others."""
        self._requests.release_arrived()
        running = [self._demand(job) for job in self.jobs.values()]
        ready = map(self._demand, self.scheduler.ready())
        machines = [*self._machines, *self._coming]
        requests = requests_for(machines, self._growth, running, ready, self.streaming, self._unfit)
        self._requests.update(requests, placement())
        self.view.asked(show_requests(requests))

    def _demand(self, job: Job) -> Demand:
        return demand_of(self.plan.experiment.train_of(job.search.cell.model), job.kind)

    def request(self, job: Job) -> tuple[tuple[str, float], ...]:
        """What Tune is to reserve for the job's own process."""
        demand = self._demand(job)
        if demand.workers > 1:
            # It only drives the worker group. Any share of a CPU would leave the last group of a
            # machine one short, and Tune refuses an empty request.
            return (("memory", driver_memory(_memories())),)
        return ("CPU", demand.cpus), ("GPU", demand.gpus)

    def _stop_if_asked(self) -> None:
        if self.stop.is_set():
            raise KeyboardInterrupt

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._stop_if_asked()
        job = self.jobs[trial_id]
        self.view.progress(job, result)
        if self.trackers is not None:
            self.trackers.evaluated(job, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        job = self.jobs.pop(trial_id)
        words = self.trials.forget(trial_id)
        if error and self._demand(job).workers > 1:
            self._orphans_until = time.monotonic() + ORPHAN_SECONDS
        began = self._began.pop(trial_id)
        error = error and not self._had_ended(job, began)
        if error and NoRoomError.__name__ in (words or ""):  # no death: it waits for machines
            if job.key not in self._lacked_room:
                self.view.died(job)
            self._lacked_room.add(job.key)
            self.view.waits(job)
            self.scheduler.release(job)
            return
        self._lacked_room.discard(job.key)
        if error and self._goes_on(job):
            self.view.died(job)
            self.scheduler.release(job)
            return
        death = Death(words or "", self.max_failures(job) + 1) if error else None
        try:
            if self.on_cluster:
                end_attempts(self.ledger.storage, job.spec.id)
            record, problem = settle(job, self.scheduler, self.ledger, result, death)
        except StorageGoneError as error_of_storage:
            # raised here, Tune would only say that something broke
            self.gone = error_of_storage
            self.stop.set()
            return
        self.view.completed(self.scheduler.study, job, record, problem)
        if self.trackers is not None:
            self.trackers.ended(job, record)
        _drop_losers(self.scheduler, self.ledger)

    def max_failures(self, job: Job) -> int:
        return self.plan.experiment.train_of(job.search.cell.model).max_failures

    def _had_ended(self, job: Job, began: float) -> bool:
        """Whether all was in the ledger when the process died: its checkpoint is gone by then."""
        try:
            record = self.ledger.read(job.spec.id)
            if record is None or record.status not in ENDED:
                return False
            if job.kind == "measure":
                return record.test is not None and self.ledger.has_predictions(job.spec.id)
            if (record.finished_at or 0) < began - CLOCK_SECONDS:
                return False  # of an earlier training
            return record.status != "finished" or self.ledger.has_weights(job.spec.id)
        except OSError:
            return False

    def _goes_on(self, job: Job) -> bool:
        """Whether a job whose process died is started again, from its last checkpoint.

        Deaths are counted anew whenever a checkpoint was written in between: a long training on
        machines that are taken away at any time may die often and still arrive.
        """
        checkpoint = self.ledger.storage.stamp(latest_checkpoint(job.spec.id))
        deaths, known = self._deaths.get(job.key, (0, None))
        deaths = 1 if checkpoint != known else deaths + 1
        self._deaths[job.key] = deaths, checkpoint
        return deaths <= self.max_failures(job)

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

    from semigrid.trainers.ray_worker import run_group

    return run_group(
        spec,
        place,
        order["workers"],
        order["cpus_per_worker"],
        order["gpus_per_worker"],
        order["train_storage"],
        order["max_failures"],
        callbacks=[TuneReportCallback()],
        cutoffs=cutoffs_of(order),
        look_first=order["look_first"],
    )


def _drop_losers(scheduler: Scheduler, ledger: Ledger) -> None:
    """Deletes weights as soon as their search is settled: a large grid would fill the disk."""
    for trial_id in scheduler.losers():
        with contextlib.suppress(OSError):  # they cost room, no more; the next run drops them
            ledger.delete_weights(trial_id)
