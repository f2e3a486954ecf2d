"""Lists the images of a request, and labels them with the crowd's votes."""

import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from semigrid.data.builder.request import BuildRequest
from semigrid.data.crowd.answers import read_answers
from semigrid.data.crowd.consensus import Audit, consensus
from semigrid.data.errors import InputError
from semigrid.data.sources.abo import abo_items
from semigrid.data.sources.archives import parquet_items, webdataset_items
from semigrid.data.sources.files import folder_items, table_items
from semigrid.data.sources.items import Item
from semigrid.data.sources.patterns.drawing import pattern_items
from semigrid.data.sources.patterns.spec import answers_of, gold_of
from semigrid.data.storage import open_storage
from semigrid.data.tables import check_columns, read_table


def gather(request: BuildRequest) -> tuple[list[Item], Audit | None]:
    """Lists the images of a request with their labels, and audits the crowd's answers to them.

    Raises ``InputError``.
    """
    items = _source_items(request)
    for number, folder in enumerate(request.pool, 1):
        # two folders may have images of the same name
        prefix = "pool" if len(request.pool) == 1 else f"pool{number}"
        pool = folder_items(folder, labeled=False)
        items += [replace(item, image_id=f"{prefix}/{item.image_id}") for item in pool]
    if (made := request.patterns) is not None:
        answers, gold = answers_of(made), gold_of(made)
    elif request.answers is not None:
        fields = {"image": request.answers_image, "answer": request.answers_field}
        answers = read_answers(request.answers, request.answers_format, **fields)
        gold = {}
        if request.gold is not None:
            table = read_table(request.gold)
            check_columns(request.gold, table.columns, ["task", "label"])
            gold = dict(zip(table["task"], table["label"], strict=True))
    elif request.gold is not None:
        raise InputError("gold is given without answers: gold tasks only select workers")
    else:
        return items, None
    by_task, audit = consensus(answers, request, gold)
    names = _names(items)
    votes = {names[task]: vote for task, vote in by_task.items() if task in names}
    unknown = [task for task in by_task if task not in names]
    if not votes:
        raise InputError(
            f"{request.answers}: none of {len(by_task)} tasks is an image of {request.source}; a "
            f"task must be an image's id, path or file name; the first task is "
            f"{next(iter(by_task), '')!r}, the first image {items[0].image_id!r}"
        )
    labeled = [
        replace(item, label=vote.label, votes=vote.votes)
        if (vote := votes.get(item.image_id)) is not None
        else item
        for item in items
    ]
    return labeled, replace(audit, unknown_tasks=unknown)


def _source_items(request: BuildRequest) -> list[Item]:
    if request.patterns is not None:
        if request.answers is not None or request.gold is not None:
            raise InputError(
                f"{request.source}: its crowd answers are generated with its images; leave answers "
                "and gold out, or write them to files to change them: semigrid data generate"
            )
        return pattern_items(request.patterns)
    kind = request.kind or _kind(request.source)
    label = None if request.answers is not None else request.label_column or "label"
    if kind == "abo":
        if request.product_type is None:
            raise InputError(
                "product_type is missing; give one of Amazon's, such as CELLULAR_PHONE_CASE"
            )
        return abo_items(
            request.source,
            request.product_type,
            request.attribute,
            request.slice,
            all_images=request.all_images,
        )
    if kind == "webdataset":
        return webdataset_items(request.source, request.label_column)
    if kind == "parquet":
        return parquet_items(request.source, request.image_column, label)
    if kind == "table":
        return table_items(
            request.source,
            image=request.image_column,
            label=label,
            image_id=request.id_column,
            group=request.group_column,
            slices=request.slices,
        )
    return folder_items(request.source, labeled=request.answers is None)


def _kind(source: str) -> str:
    """Guesses the kind of a source. Image Parquet looks like a table, so it is never guessed."""
    if source.endswith(".tar"):
        return "webdataset"
    if source.endswith((".csv", ".parquet")):
        return "table"
    storage = open_storage(source)
    if storage.exists("listings/metadata") and storage.exists("images/metadata"):
        return "abo"
    return "folder"


def _names(items: Sequence[Item]) -> dict[str, str]:
    """Image ids by every name that a task may use: id, URI, and file name if it is unique."""
    files = [posixpath.basename(item.uri) for item in items]
    counts = Counter(files)
    names = {
        file: item.image_id for file, item in zip(files, items, strict=True) if counts[file] == 1
    }
    names |= {item.uri: item.image_id for item in items}
    return names | {item.image_id: item.image_id for item in items}
