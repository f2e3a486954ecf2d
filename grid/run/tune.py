"""One Tune run over the whole grid; each Tune trial is one job."""

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ray import tune

from semigrid.grid.cluster.machines import demand_of
from semigrid.grid.run.dispatch import RunObserver
from semigrid.grid.run.reports import GroupReports
from semigrid.grid.run.room import Room
from semigrid.grid.run.searcher import GridSearcher, drop_losers
from semigrid.grid.run.start import lost_ray, ray_running
from semigrid.grid.run.supervise import LostRayError, driver_folder
from semigrid.grid.run.work import do_job
from semigrid.grid.study.ledger import Ledger
from semigrid.grid.study.scheduler import Scheduler
from semigrid.grid.trackers.tracker import Trackers
from semigrid.trainers.cluster.ray_nodes import placement
from semigrid.trainers.cluster.ray_tasks import Workers, work_in_order
from semigrid.trainers.features.store import Part
from semigrid.trainers.layout import ATTEMPTS, CHECKPOINTS, checkpoint_folder
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.options import TrainOptions
from semigrid.trainers.ray_worker import run_group
from semigrid.trainers.soft_targets.make import Answers, Teacher, in_this_process
from semigrid.trainers.trial.job import TrialJob

# Images below which soft targets are made without Ray Data.
FEW = 1024


def execute(config: dict[str, Any]) -> None:
    """A Tune trial: does one job in this process, or drives a worker group that does it.

    Its last report has the job's failure, if any; Tune wants a step in every report.
    """
    job = TrialJob.model_validate_json(config["job"])
    failure = do_job(job, tune.report, _on_group, _by_ray_data)
    tune.report({"step": 0, "failure": failure.model_dump_json() if failure else ""})


def _on_group(job: TrialJob) -> Outcome:
    reports = GroupReports()
    with reports.passed_to(tune.report):
        return run_group(job, [reports])


def _by_ray_data(
    teacher: Teacher, parts: Sequence[Part], options: TrainOptions
) -> Iterator[Answers]:
    """A teacher's answers by as many processes as a training of its has, which hold its room.

    For few images this process is faster than others are started; it has no GPU.
    """
    if not options.gpus_per_worker and sum(part.images.count for part in parts) < FEW:
        return in_this_process(teacher, parts)
    workers = Workers(options.workers, options.cpus_per_worker, options.gpus_per_worker)
    ranges = [part.images for part in parts]
    return work_in_order(ranges, teacher.views, teacher.answers, workers, teacher.seed)


def run_plan(
    scheduler: Scheduler,
    ledger: Ledger,
    observer: RunObserver,
    stop: threading.Event,
    trackers: Trackers,
    work: Callable[[dict[str, Any]], None] = execute,
) -> None:
    """Runs all jobs that the scheduler has, on this machine or on the cluster at ``RAY_ADDRESS``.

    Raises ``KeyboardInterrupt`` soon after ``stop`` is set, ``LostRayError`` when Ray is lost. The
    ledger and the checkpoints hold all that is needed to go on.

    Args:
        work: does one job in a process of its own.
    """
    _tidy(scheduler, ledger)
    try:
        with driver_folder() as folder, ray_running(scheduler.study.plan.streams_pool, folder):
            scratch = tempfile.mkdtemp(prefix="tune-", dir=folder)
            room = Room(scheduler, ledger.storage, observer)
            searcher = GridSearcher(scheduler, ledger, observer, room, scratch, stop, trackers)
            _fit(searcher, work, scratch)
    except Exception as error:
        if isinstance(error, LostRayError) or (lost := lost_ray(error)) is None:
            raise
        raise lost from error


def _tidy(scheduler: Scheduler, ledger: Ledger) -> None:
    """Gives up what is left of a killed run: its processes, and what it had of ended trials."""
    ledger.storage.delete(ATTEMPTS)
    for trial_id in ledger.storage.folders(CHECKPOINTS):
        if scheduler.study.has_ended(trial_id):
            ledger.storage.delete(checkpoint_folder(trial_id))
    drop_losers(scheduler, ledger)


def _fit(searcher: GridSearcher, work: Callable[[dict[str, Any]], None], scratch: str) -> None:
    plan = searcher.scheduler.study.plan
    models = {search.cell.model for search in plan.searches}
    demands = {demand_of(plan.experiment.train_of(model), "train") for model in models}
    tuner = tune.Tuner(
        tune.with_resources(work, job_placement),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            # a kept process holds its resources: another kind of job would wait for it
            reuse_actors=len(demands) == 1 and all(each.workers == 1 for each in demands),
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
    try:
        tuner.fit()
    except KeyboardInterrupt:
        if searcher.error is not None:
            raise searcher.error from None
        raise


def job_placement(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """A job's room on any node but those that are kept free when it is handed out.

    A node that joins while the job waits may be used before it is checked; that is rare, since a
    job waits here only if a node vanished under it.
    """
    selector = placement()
    options = {} if selector is None else {"bundle_label_selector": [selector]}
    return tune.PlacementGroupFactory([config["request"]], **options)
