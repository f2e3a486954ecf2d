"""``semigrid submit``: a grid as a job on a cluster that is elsewhere."""

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from semigrid.data.errors import InputError
from semigrid.grid.commands.console import (
    OK,
    SOME_FAILED,
    OnlyOption,
    SeedsOption,
    Source,
    StorageOption,
    out,
    say,
)
from semigrid.grid.commands.opening import load
from semigrid.grid.submit.kuberay import RayJobOptions, manifest

if TYPE_CHECKING:
    from semigrid.grid.submit.job_package import JobPackage
    from semigrid.grid.submit.jobs import JobEnd


def submit(
    source: Source,
    address: Annotated[
        str,
        typer.Option(
            envvar="RAY_API_SERVER_ADDRESS",
            help="Of the cluster's dashboard, such as http://localhost:8265.",
        ),
    ] = "http://localhost:8265",
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    only: OnlyOption = None,
    install: Annotated[
        bool,
        typer.Option(
            "--install", help="Let Ray install the versions that are here, where they are not."
        ),
    ] = False,
    follow: Annotated[bool, typer.Option(help="Follow the job's log until it ends.")] = True,
    retries: Annotated[
        int,
        typer.Option(
            min=0, help="So often is a job that was killed started again, while it is followed."
        ),
    ] = 3,
    kuberay: Annotated[
        bool, typer.Option("--kuberay", help="Print a RayJob for kubectl apply instead.")
    ] = False,
    image: Annotated[str, typer.Option(help="Of --kuberay: has semigrid installed.")] = "",
    namespace: Annotated[str | None, typer.Option(help="Of --kuberay.")] = None,
    max_pods: Annotated[
        int, typer.Option(min=1, help="Of --kuberay: worker pods of each kind at most.")
    ] = RayJobOptions.max_pods,
    workers_per_pod: Annotated[
        int, typer.Option(min=1, help="Of --kuberay: processes in a pod at most, a node's GPUs.")
    ] = RayJobOptions.workers_per_pod,
    secret: Annotated[
        str | None, typer.Option(help="Of --kuberay: a Secret that has the bucket's credentials.")
    ] = None,
    service_account: Annotated[str | None, typer.Option(help="Of --kuberay: of every pod.")] = None,
    claim: Annotated[
        str | None, typer.Option(help="Of --kuberay: a PersistentVolumeClaim at /mnt/semigrid.")
    ] = None,
) -> None:
    """Run an experiment as a job on a cluster; the same command follows it again."""
    from semigrid.grid.study.plan import Plan
    from semigrid.grid.submit.job_package import job_package

    experiment = load(source, storage, seeds)
    if only is not None:
        Plan(experiment).matching(only)
    if kuberay:
        if only is not None:
            raise InputError("--only and --kuberay: give one of them; a RayJob runs all of a grid")
        options = RayJobOptions(
            image=image,
            namespace=namespace,
            max_pods=max_pods,
            workers_per_pod=workers_per_pod,
            secret=secret,
            service_account=service_account,
            claim=claim,
        )
        print(manifest(experiment, options), end="")
        return
    _follow(job_package(experiment, only), address, install, follow, retries)


def _follow(package: "JobPackage", address: str, install: bool, follow: bool, retries: int) -> None:
    """Submits, follows, and does so again where the job is lost. Ends with the job's exit code."""
    from semigrid.grid.submit.jobs import ClusterAwayError, JobClient

    client = JobClient(address, say)
    for left in range(retries, -1, -1):
        job, is_new = client.submit(package, install)
        say(f"{job}: {'submitted' if is_new else 'is at work already: nothing is submitted'}")
        if not follow:
            say(f"results: {package.folder}; to follow it: {_this_command()}")
            return
        try:
            end = client.follow(
                job, lambda text: out.print(text, end="", markup=False, soft_wrap=True)
            )
        except KeyboardInterrupt:
            say(f"{job} goes on without this terminal; to follow it again: {_this_command()}")
            raise typer.Exit(OK) from None
        except ClusterAwayError as error:
            say(f"{error}; {job} may well go on; to follow it again: {_this_command()}")
            raise typer.Exit(SOME_FAILED) from None
        if not end.lost or not left:
            break
        say(f"{job} {_lost(end)}; all that was finished is kept, the rest is submitted again")
    raise typer.Exit(_code(job, end))


def _lost(end: "JobEnd") -> str:
    if end.status == "UNKNOWN":
        return "is unknown to the cluster, whose head is a new one"
    return "was killed, or its machine was lost"


def _code(job: str, end: "JobEnd") -> int:
    """The exit code of the job's command, or what takes its place where there is none."""
    go_on = f"to go on: {_this_command()}"
    if end.lost:
        say(f"{job} {_lost(end)}; all that was finished is kept; {go_on}")
    elif end.status == "STOPPED":
        say(f"{job} was stopped; all that was finished is kept; {go_on}")
    elif end.code is None:
        say(f"{job} did not start: {end.message}")
    else:
        return end.code
    return SOME_FAILED


def _this_command() -> str:
    words = [word for word in sys.argv[1:] if word != "--no-follow"]
    return shlex.join(["semigrid", *words])
