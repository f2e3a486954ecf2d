"""``semigrid data build | show | check | generate``: datasets on the command line."""

import json
import shlex
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from semigrid.data.catalog import open_dataset
from semigrid.data.schema import Dataset
from semigrid.data.storage import open_storage

INTERRUPTED = 130

app = typer.Typer(help="Build, look at, verify and generate datasets.", no_args_is_help=True)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Where = Annotated[str, typer.Argument(metavar="DATASET", help="A dataset's folder or URI.")]


def _progress(what: str) -> Progress:
    return Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )


@app.command()
def build(
    source: Annotated[
        str,
        typer.Argument(help="Class folders, a table, tars, …, builtin://patterns, or a YAML file."),
    ],
    destination: Annotated[str, typer.Argument(metavar="DEST", help="The dataset's folder.")],
    kind: Annotated[
        str | None,
        typer.Option(help="folder, table, parquet, webdataset, abo, patterns; else guessed."),
    ] = None,
    product_type: Annotated[
        str | None, typer.Option(help="Of Amazon Berkeley Objects: CELLULAR_PHONE_CASE, say.")
    ] = None,
    attribute: Annotated[
        str | None, typer.Option(help="Of Amazon Berkeley Objects: what labels, e.g. pattern.")
    ] = None,
    pool: Annotated[
        list[str] | None, typer.Option(help="A folder of images without labels; may be repeated.")
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="Of a table: paths or URLs.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Of a table: labels.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Of a table: image ids.")] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Of a table: what must stay on one side of a split.")
    ] = None,
    slices: Annotated[
        list[str] | None,
        typer.Option("--slice", help="Of a table: a column to report results by; repeatable."),
    ] = None,
    answers: Annotated[
        str | None, typer.Option(help="Crowd answers: generic, MTurk or Ground Truth.")
    ] = None,
    answers_image: Annotated[
        str | None, typer.Option(help="Of MTurk: the Input column that names the image.")
    ] = None,
    answers_field: Annotated[
        str | None, typer.Option(help="Of MTurk or Ground Truth: which answer.")
    ] = None,
    gold: Annotated[
        str | None, typer.Option(help="A table of task and label that workers are tested on.")
    ] = None,
    agree: Annotated[int | None, typer.Option(help="So many equal answers make a label.")] = None,
    of: Annotated[int | None, typer.Option(help="Of so many answers.")] = None,
    min_gold_score: Annotated[float | None, typer.Option(help="To qualify, from 0 to 1.")] = None,
    method: Annotated[str | None, typer.Option(help="majority or dawid-skene.")] = None,
    name: Annotated[str | None, typer.Option(help="The dataset's, by default DEST's.")] = None,
    license: Annotated[str | None, typer.Option(help="Of the images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the order and the split.")] = None,
    pool_unit: Annotated[
        int | None, typer.Option(help="Pool images that the multiplier 100% means.")
    ] = None,
    shorter_side: Annotated[
        int | None, typer.Option(help="Shrink larger images to this, in pixels.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="To clean images side by side.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Make a checked dataset of images; run it again to go on where it was stopped."""
    from semigrid.data.builder.ingest import Workers, build_dataset, one_by_one
    from semigrid.data.builder.request import gather, load_request

    given = {
        "kind": kind,
        "product_type": product_type,
        "attribute": attribute,
        "pool": pool,
        "image_column": image_column,
        "label_column": label_column,
        "id_column": id_column,
        "group_column": group_column,
        "slices": slices,
        "answers": answers,
        "answers_image": answers_image,
        "answers_field": answers_field,
        "gold": gold,
        "agree": agree,
        "of": of,
        "min_gold_score": min_gold_score,
        "method": method,
        "name": name,
        "license": license,
        "seed": seed,
        "pool_unit": pool_unit,
        "shorter_side": shorter_side,
    }
    request = load_request(source, {key: v for key, v in given.items() if v not in (None, [])})
    gathered = gather(request)
    workers: Workers = one_by_one
    if processes > 1:
        from semigrid.data.builder.ingest_ray import in_processes

        workers = in_processes(processes)
    try:
        with _progress("cleaning") as bar:
            task = bar.add_task("", total=len(gathered.items))
            dataset, report = build_dataset(
                destination,
                gathered.items,
                request.settings(destination),
                votes=gathered.votes,
                audit=gathered.audit,
                workers=workers,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except KeyboardInterrupt:
        command = shlex.join(["semigrid", *sys.argv[1:]])
        err.print(f"interrupted: what was cleaned is kept. To go on: {command}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print(json.dumps(report | {"fingerprint": dataset.manifest.fingerprint}, indent=1))
        return
    _print_report(dataset, report)
    if gathered.unknown_tasks:
        err.print(
            f"{len(gathered.unknown_tasks)} tasks of the answers are no image of the source, the "
            f"first is {gathered.unknown_tasks[0]!r}"
        )


def _print_report(dataset: Dataset, report: dict[str, Any]) -> None:
    splits = ", ".join(f"{count:,} {split}" for split, count in report["splits"].items())
    lines = [f"{report['kept']:,} of {report['images']:,} images kept: {splits}"]
    if report["quarantined"]:
        image_id, reason = next(iter(report["quarantined"].items()))
        lines.append(
            f"{len(report['quarantined']):,} files are no usable images, the first is {image_id}: "
            f"{reason}"
        )
    if report["duplicates"]:
        lines.append(f"{len(report['duplicates']):,} exact duplicates left out")
    if report["conflicts"]:
        pair = ", ".join(f"{name} ({label})" for name, label in report["conflicts"][0].items())
        lines.append(
            f"{len(report['conflicts']):,} images have two labels and keep none, the first: {pair}"
        )
    if report["beside_labeled"]:
        lines.append(
            f"{len(report['beside_labeled']):,} pool images share a group with labelled ones and "
            "are left out"
        )
    if report["changed"]:
        changed = ", ".join(f"{count:,} {why}" for why, count in report["changed"].items())
        lines.append(f"written anew: {changed}")
    if report["answers"]:
        lines += _answer_lines(report["answers"])
    lines.append(f"made of {dataset.manifest.source}")
    lines.append(f"all of it, name by name: {dataset.storage.location('report.json')}")
    lines.append(f"dataset: {dataset.storage.uri}, fingerprint {dataset.manifest.fingerprint[:12]}")
    for line in lines:
        out.print(line, soft_wrap=True, markup=False)


def _answer_lines(audit: dict[str, Any]) -> list[str]:
    dropped = ", ".join(f"{count:,} {why}" for why, count in audit["dropped"].items())
    missing = ", ".join(f"{count:,} {why}" for why, count in audit["unlabeled"].items())
    kappa = "—" if audit["kappa"] is None else f"{audit['kappa']:.3f}"
    return [
        f"{audit['used']:,} of {audit['answers']:,} answers of {len(audit['workers']):,} workers "
        f"count{f' ({dropped})' if dropped else ''}; Fleiss' κ {kappa}",
        f"{audit['labeled']:,} of {audit['tasks']:,} tasks have a label"
        + (f" ({missing})" if missing else ""),
    ]


@app.command()
def show(
    dataset: Where,
    sheets: Annotated[
        str | None, typer.Option(help="Write a contact sheet of each class into this folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a dataset holds: splits, classes and their shares, slices."""
    from semigrid.data.show import contact_sheet, describe

    found = open_dataset(dataset)
    facts = describe(found)
    if sheets is not None:
        folder = open_storage(sheets)
        for index in range(found.num_classes):
            folder.write(f"class-{index:03d}.png", contact_sheet(found, index))
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    splits = ", ".join(f"{count:,} {split}" for split, count in facts["splits"].items())
    out.print(f"{facts['name']}: {splits}; 100% of the pool is {facts['pool_unit']:,}")
    out.print(f"licence {facts['license']}, fingerprint {facts['fingerprint'][:12]}")
    out.print(f"made of {facts['source']}", soft_wrap=True, markup=False)
    table = Table()
    for column in ("class", "train", "share", "val", "test"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for row in facts["classes"]:
        share = f"{row['train_share']:.1%}"
        table.add_row(row["class"], f"{row['train']:,}", share, f"{row['val']:,}", str(row["test"]))
    out.print(table)
    for name, values in facts["slices"].items():
        shown = "; ".join(f"{value}: {sum(of.values()):,}" for value, of in values.items())
        out.print(f"slice {name}: {shown}", soft_wrap=True, markup=False)
    if sheets is not None:
        out.print(f"contact sheets: {open_storage(sheets).uri}", soft_wrap=True, markup=False)


@app.command()
def check(dataset: Where) -> None:
    """Verify every byte of a dataset against its manifest; exit code 1 if something is wrong."""
    from semigrid.data.builder.check import check_dataset

    found = open_dataset(dataset)
    with _progress("shards") as bar:
        task = bar.add_task("", total=len(found.manifest.shards))
        problems = check_dataset(
            found, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    for problem in problems[:20]:
        err.print(problem, style="red", soft_wrap=True, markup=False)
    if problems:
        err.print(f"{len(problems)} problems", style="red")
        raise typer.Exit(1)
    rows = sum(shard.rows for shard in found.manifest.shards)
    out.print(f"{len(found.manifest.shards)} shards, {rows:,} images: all as the manifest says")


@app.command()
def generate(
    destination: Annotated[str, typer.Argument(metavar="DEST", help="A new or empty folder.")],
    images: Annotated[int, typer.Option(help="How many, from 500.")] = 4000,
    answered: Annotated[
        int | None, typer.Option(help="How many have crowd answers; by default two fifths.")
    ] = None,
    size: Annotated[int, typer.Option(help="Pixels a side, from 8 to 1024.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the images and the answers.")] = 0,
) -> None:
    """Write generated images, and generated crowd answers to them, as files to try things on."""
    from semigrid.data.sources.generated import write_raw
    from semigrid.data.sources.patterns import URI, parse_patterns

    given = {"images": images, "answered": answered, "size": size, "seed": seed}
    query = "&".join(f"{name}={value}" for name, value in given.items() if value is not None)
    patterns = parse_patterns(f"{URI}?{query}")
    with _progress("drawing") as bar:
        task = bar.add_task("", total=patterns.images)
        command = write_raw(
            destination,
            patterns,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    out.print(
        f"{patterns.images:,} generated images, generated answers to {patterns.answered:,} of them "
        f"and {patterns.gold} gold tasks: {open_storage(destination).uri}",
        soft_wrap=True,
        markup=False,
    )
    out.print(f"To make a dataset of it: {command}", soft_wrap=True, markup=False)
