"""``semigrid submit``: a run as a job on a cluster elsewhere."""

import re
import sys
from functools import partial
from typing import Annotated

import typer

from semigrid.data import escape
from semigrid.data.errors import InputError
from semigrid.grid.commands.console import OK, SOME_FAILED, echo, err, out, print_text, say
from semigrid.grid.commands.context import load
from semigrid.grid.commands.options import (
    OnlyOption,
    SeedsOption,
    Source,
    StorageOption,
    option,
)
from semigrid.grid.study.plan import Plan
from semigrid.grid.submit.job_package import JobPackage, job_package
from semigrid.grid.submit.kuberay import RayJobOptions, manifest

_kuberay = partial(option, panel="Options of --kuberay")


def submit(
    source: Source,
    address: Annotated[
        str,
        typer.Option(
            envvar="RAY_API_SERVER_ADDRESS", metavar="URL", help="Address of Ray's dashboard."
        ),
    ] = "http://localhost:8265",
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    only: OnlyOption = None,
    install: Annotated[
        bool, typer.Option("--install", help="Let Ray install this environment's versions.")
    ] = False,
    follow: Annotated[bool, typer.Option(help="Whether to follow the job's log.")] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be sent to the cluster.")
    ] = False,
    retries: Annotated[int, option("N", min=0, help="Times to restart a job that was killed.")] = 3,
    kuberay: Annotated[
        bool, typer.Option("--kuberay", help="Print a RayJob for kubectl apply instead.")
    ] = False,
    image: Annotated[str, _kuberay("IMAGE", help="Container image with semigrid.")] = "",
    namespace: Annotated[str | None, _kuberay("NAME", help="Namespace of the RayJob.")] = None,
    max_pods: Annotated[
        int, _kuberay("N", min=1, help="Most worker pods of each kind.")
    ] = RayJobOptions.max_pods,
    workers_per_pod: Annotated[
        int, _kuberay("N", min=1, help="Most processes in a pod: the GPUs of a node.")
    ] = RayJobOptions.workers_per_pod,
    secret: Annotated[
        str | None, _kuberay("NAME", help="Secret with the bucket's credentials.")
    ] = None,
    service_account: Annotated[
        str | None, _kuberay("NAME", help="Service account of every pod.")
    ] = None,
    claim: Annotated[
        str | None, _kuberay("NAME", help="PersistentVolumeClaim to mount at /mnt/semigrid.")
    ] = None,
) -> None:
    """Run an experiment as a job on a cluster. Run it again to follow the job again."""
    experiment = load(source, storage, seeds)
    if only is not None:
        Plan(experiment).matching(only)
    if kuberay:
        if only is not None:
            raise InputError("--only and --kuberay: give one of them; a RayJob runs a whole grid")
        options = RayJobOptions(
            image=image,
            namespace=namespace,
            max_pods=max_pods,
            workers_per_pod=workers_per_pod,
            secret=secret,
            service_account=service_account,
            claim=claim,
        )
        print_text(manifest(experiment, options))
        return
    package = job_package(experiment, only, install)
    if dry_run:
        _show(package)
        return
    raise typer.Exit(_follow(package, address, follow, retries))


def _show(package: JobPackage) -> None:
    """Prints the files that a job takes along, the packages to install, and its command."""
    files = package.files()
    for name, content in files.items():
        echo(f"{len(content):>10,}  {name}")
    for pin in package.pins:
        echo(f"   install  {pin}")
    size = sum(map(len, files.values()))
    echo(f"{size:>10,}  bytes in {len(files)} files; the job's command: {package.entrypoint}")
    say(f"nothing was sent; the job would write to {package.folder}")


def _follow(package: JobPackage, address: str, follow: bool, retries: int) -> int:
    """Submits and follows a job, again if it is lost; returns the job's exit code."""
    from semigrid.grid.submit.jobs import ClusterAwayError, JobClient, was_lost

    words = ["semigrid", *(word for word in sys.argv[1:] if word != "--no-follow")]
    command = escape.command(words, err.encoding)
    client = JobClient(address, say)
    for left in range(retries, -1, -1):
        job, is_new = client.submit(package)
        say(f"{job}: {'submitted' if is_new else 'already at work: nothing is submitted'}")
        if not follow:
            say(f"results: {package.folder}; to follow it: {command}")
            return OK
        try:
            end = client.follow(job, _print_log)
        except KeyboardInterrupt:
            say(f"{job} continues without this terminal; to follow it again: {command}")
            return OK
        except ClusterAwayError as error:
            say(f"{error}; {job} may still be running; to follow it again: {command}")
            return SOME_FAILED
        if end is not None and not was_lost(end):
            break
        how = "was killed, or its machine was lost"
        if end is None:
            how = "is unknown to the cluster, whose head was replaced"
        then = ", the rest is submitted again" if left else f"; to resume: {command}"
        say(f"{job} {how}; finished trials are kept{then}")
    else:
        return SOME_FAILED
    if end.status == "STOPPED":
        say(f"{job} was stopped; finished trials are kept; to resume: {command}")
    elif end.driver_exit_code is None:
        say(f"{job} did not start: {(end.message or '').strip()}")
    else:
        return int(end.driver_exit_code)
    return SOME_FAILED


def _print_log(text: str) -> None:
    """Prints a piece of a job's log, without its colours."""
    out.print(re.sub(r"\x1b\[[\d;]*m|\r(?=\n)", "", text), end="", soft_wrap=True)
