"""``semigrid data build | show | check | generate``: datasets."""

from functools import partial
from typing import Annotated

import typer
from rich.table import Table

from semigrid.data.catalog import open_dataset
from semigrid.data.escape import visible
from semigrid.data.precision import precision_line, val_lines
from semigrid.data.storage import open_storage
from semigrid.grid.commands.console import (
    INTERRUPTED,
    SOME_FAILED,
    echo,
    echo_json,
    out,
    progress_bar,
    say,
    say_problem,
    this_command,
)
from semigrid.grid.commands.options import REPEAT, JsonOption, option

# Most problems of a dataset that are printed one by one.
_SHOWN_PROBLEMS = 20

_table = partial(typer.Option, metavar="COLUMN", rich_help_panel="Columns of a table")
_split = partial(option, panel="Train, val and test")
_crowd = partial(option, panel="Crowd answers")
_abo = partial(option, panel="Amazon Berkeley Objects")

app = typer.Typer(help="Build, inspect, verify and generate datasets.", no_args_is_help=True)

DatasetUri = Annotated[
    str, typer.Argument(metavar="DATASET", help="Folder or URI of a built dataset.")
]


@app.command()
def build(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Class folders, a table, tars, Parquet files, builtin://patterns, or a YAML file "
            "with these options.",
        ),
    ],
    destination: Annotated[str, typer.Argument(metavar="DEST", help="Folder of the dataset.")],
    kind: Annotated[
        str | None,
        option("KIND", help="folder, table, parquet, webdataset, abo, patterns; default: guess."),
    ] = None,
    pool: Annotated[list[str] | None, option("FOLDER", help=f"Unlabelled images. {REPEAT}")] = None,
    name: Annotated[str | None, option("NAME", help="Name; default: DEST's.")] = None,
    license: Annotated[str | None, option("TEXT", help="Licence of the images.")] = None,
    seed: Annotated[int | None, option("N", help="Seed of the order and the split.")] = None,
    pool_unit: Annotated[
        int | None, option("N", help="Pool images that 'unlabeled: 100%' means.")
    ] = None,
    shorter_side: Annotated[
        int | None, option("PIXELS", help="Shrink images whose shorter side is larger.")
    ] = None,
    processes: Annotated[int, option("N", min=1, help="Processes that clean images.")] = 1,
    as_json: JsonOption = False,
    splits: Annotated[
        str | None,
        _split("WHICH", help="given: keep those the source has (default); new: draw all."),
    ] = None,
    test_share: Annotated[
        float | None,
        _split("SHARE", help="Labelled images to draw for test, 0 to 1; default: 0.1."),
    ] = None,
    val_share: Annotated[
        float | None,
        _split("SHARE", help="Labelled images to draw for val, 0 to 1; default: 0.15."),
    ] = None,
    min_per_class: Annotated[
        int | None, _split("N", help="Labelled images that a class needs; default: 2.")
    ] = None,
    rare: Annotated[
        str | None,
        _split("WHAT", help="Classes too rare to test: refuse (default), pool (unlabel), drop."),
    ] = None,
    image_column: Annotated[str | None, _table(help="Paths or URLs of images.")] = None,
    label_column: Annotated[str | None, _table(help="Labels.")] = None,
    id_column: Annotated[str | None, _table(help="Image ids.")] = None,
    group_column: Annotated[
        str | None, _table(help="Groups; a group stays on one side of a split.")
    ] = None,
    split_column: Annotated[
        str | None, _table(help="Given splits: train, val, test, unlabeled.")
    ] = None,
    slices: Annotated[
        list[str] | None, _table("--slice", help=f"Values to report results by. {REPEAT}")
    ] = None,
    answers: Annotated[
        str | None, _crowd("FILE", help="A table, MTurk results or a Ground Truth manifest.")
    ] = None,
    answers_image: Annotated[
        str | None, _crowd("COLUMN", help="MTurk's Input column that names the image.")
    ] = None,
    answers_field: Annotated[
        str | None, _crowd("FIELD", help="Field of MTurk or Ground Truth with the answer.")
    ] = None,
    gold: Annotated[
        str | None, _crowd("FILE", help="Table of task and label that workers are tested on.")
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize",
            help="Unite answers that differ in case or blanks only.",
            rich_help_panel="Crowd answers",
        ),
    ] = None,
    agree: Annotated[int | None, _crowd("N", help="Equal answers that make a label.")] = None,
    of: Annotated[int | None, _crowd("N", help="Answers per image that count.")] = None,
    min_gold_score: Annotated[
        float | None, _crowd("SHARE", help="Gold tasks that a worker must get right, 0 to 1.")
    ] = None,
    method: Annotated[
        str | None, _crowd("METHOD", help="majority (default) or dawid-skene.")
    ] = None,
    product_type: Annotated[
        str | None, _abo("TYPE", help="Product type, such as CELLULAR_PHONE_CASE.")
    ] = None,
    attribute: Annotated[
        str | None, _abo("NAME", help="Attribute to use as the label; default: pattern.")
    ] = None,
) -> None:
    """Build a checked dataset of images. Run it again to resume."""
    from semigrid.data.builder.gather import gather
    from semigrid.data.builder.ingest import build_dataset
    from semigrid.data.builder.place import check_place
    from semigrid.data.builder.report import report_lines
    from semigrid.data.builder.request import BuildRequest, load_request
    from semigrid.data.sources.left_out import LeftOut

    # options are named as the keys of a request; those that were not given stay out
    keys = BuildRequest.model_fields.keys() - {"source"}
    options = {k: v for k, v in context.params.items() if k in keys and v not in (None, [])}
    request = load_request(source, options)
    check_place(destination)  # before minutes of listing and hours of cleaning
    left_out = LeftOut()
    items, audit = gather(request, left_out)
    try:
        with progress_bar("cleaning") as progress:
            dataset, report = build_dataset(
                destination,
                items,
                request,
                audit=audit,
                left_out=left_out,
                processes=processes,
                progress=progress,
            )
    except KeyboardInterrupt:
        say(f"interrupted: cleaned images are kept. To resume: {this_command()}")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        echo_json(report | {"fingerprint": dataset.manifest.fingerprint})
        return
    for line in report_lines(dataset, report):
        echo(line)
    if audit is not None and audit.unknown_tasks:
        say(
            f"{len(audit.unknown_tasks)} tasks with answers name no image of the source, the first "
            f"is {audit.unknown_tasks[0]!r}"
        )


@app.command()
def show(
    dataset: DatasetUri,
    sheets: Annotated[
        str | None,
        option("FOLDER", help="Write a contact sheet of each class; a new or empty folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a dataset holds: splits, classes and their shares, slices."""
    from semigrid.data.show import contact_sheet, describe
    from semigrid.data.storage.in_use import new_folder

    opened = open_dataset(dataset)
    if sheets is not None:
        with new_folder(sheets, "--sheets") as folder:
            for index in range(opened.num_classes):
                folder.write(f"class-{index:03d}.png", contact_sheet(opened, index))
    facts = describe(opened)
    if as_json:
        echo_json(facts)
        return
    splits = ", ".join(f"{count:,} {split}" for split, count in facts["splits"].items())
    echo(f"{facts['name']}: {splits}; 100% of the pool is {facts['pool_unit']:,}")
    for line in (precision_line(facts["test"]), *val_lines(opened.manifest.counts)):
        echo(line)
    echo(f"licence {facts['license']}, fingerprint {facts['fingerprint'][:12]}")
    echo(f"made from {facts['source']}")
    table = Table()
    for column in ("class", "train", "share", "val", "test"):
        is_name = column == "class"
        table.add_column(column, justify="left" if is_name else "right", overflow="fold")
    for row in facts["classes"]:
        share = f"{row['train_share']:.1%}"
        table.add_row(
            visible(row["class"]), f"{row['train']:,}", share, f"{row['val']:,}", str(row["test"])
        )
    out.print(table)
    for name, values in facts["slices"].items():
        shown = "; ".join(f"{visible(value)}: {sum(of.values()):,}" for value, of in values.items())
        echo(f"slice {name}: {shown}")
    if sheets is not None:
        echo(f"contact sheets: {open_storage(sheets).uri}")


@app.command()
def check(dataset: DatasetUri) -> None:
    """Verify every byte of a dataset; exit with code 1 if something is wrong."""
    from semigrid.data.builder.check import check_dataset

    opened = open_dataset(dataset)
    with progress_bar("shards") as progress:
        problems = check_dataset(opened, progress=progress)
    for problem in problems[:_SHOWN_PROBLEMS]:
        say_problem(problem)
    if problems:
        say_problem(f"{len(problems)} problems")
        raise typer.Exit(SOME_FAILED)
    rows = sum(shard.rows for shard in opened.manifest.shards)
    echo(f"{len(opened.manifest.shards)} shards, {rows:,} images: all match the manifest")


@app.command()
def generate(
    destination: Annotated[str, typer.Argument(metavar="DEST", help="New or empty folder.")],
    images: Annotated[int, option("N", help="Images, at least 500.")] = 4000,
    answered: Annotated[
        int | None, option("N", help="Images with crowd answers; default: two fifths.")
    ] = None,
    size: Annotated[int, option("PIXELS", help="Side of an image, from 8 to 1024.")] = 64,
    seed: Annotated[int, option("N", help="Seed of the images and answers.")] = 0,
) -> None:
    """Write generated images and crowd answers as files, to try things on."""
    from semigrid.data.sources.patterns.raw import write_raw
    from semigrid.data.sources.patterns.spec import URI, parse_patterns

    parameters = {"images": images, "answered": answered, "size": size, "seed": seed}
    query = "&".join(f"{key}={value}" for key, value in parameters.items() if value is not None)
    patterns = parse_patterns(f"{URI}?{query}")
    with progress_bar("drawing") as progress:
        command = write_raw(destination, patterns, progress=progress)
    echo(
        f"{patterns.images:,} generated images, generated answers to {patterns.answered:,} of them "
        f"and {len(patterns.gold_numbers)} gold tasks: {open_storage(destination).uri}"
    )
    echo(f"To build a dataset from it: {command}")
