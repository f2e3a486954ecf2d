"""Lists the images of a request, and labels them with the crowd's votes."""

from collections.abc import Sequence
from dataclasses import asdict, replace

import pandas as pd

from semigrid.data.builder.report import answer_lines
from semigrid.data.builder.request import BuildRequest
from semigrid.data.crowd.answers import normalized, read_answers, read_gold
from semigrid.data.crowd.consensus import UNTESTED, Audit, consensus
from semigrid.data.crowd.tasks import images_of
from semigrid.data.errors import InputError
from semigrid.data.redact import shown
from semigrid.data.sources.abo import abo_items
from semigrid.data.sources.archives import parquet_items, webdataset_items
from semigrid.data.sources.files import folder_items, table_items
from semigrid.data.sources.given import splits_in, splits_of_files, splits_of_folders
from semigrid.data.sources.items import Item
from semigrid.data.sources.left_out import LeftOut
from semigrid.data.sources.patterns.drawing import pattern_items
from semigrid.data.sources.patterns.spec import answers_of, gold_of
from semigrid.data.storage import open_storage
from semigrid.data.storage.address import suffix_of
from semigrid.data.tables import SUFFIXES as TABLES


def gather(
    request: BuildRequest, left_out: LeftOut | None = None
) -> tuple[list[Item], Audit | None]:
    """Lists the images of a request with their labels, and audits the crowd's answers to them.

    ``left_out`` receives what else the source holds. Raises ``InputError``.
    """
    left_out = LeftOut() if left_out is None else left_out
    items = _source_items(request, left_out)
    for number, folder in enumerate(request.pool, 1):
        # two folders may have images of the same name
        prefix = "pool" if len(request.pool) == 1 else f"pool{number}"
        pool = folder_items(folder, labeled=False, left_out=left_out)
        items += [replace(item, image_id=f"{prefix}/{item.image_id}") for item in pool]
    if (made := request.patterns) is not None:
        answers, true_labels = answers_of(made), [*gold_of(made).items()]
    elif request.answers is not None:
        fields = {"image": request.answers_image, "answer": request.answers_field}
        answers = read_answers(request.answers, request.answers_format, **fields)
        true_labels = [] if request.gold is None else read_gold(request.gold)
        if request.normalize:
            answers, true_labels = _normalized(answers, true_labels, request.classes or [])
    elif request.gold is not None:
        raise InputError("gold is given without answers: gold tasks only select workers")
    else:
        return items, None
    # answers to one image count together, whatever the tasks call it
    images = images_of(answers["task"], items)
    answers = answers.assign(task=[images.get(task, shown(task)) for task in answers["task"]])
    gold = _by_image(request, true_labels, items)
    votes, audit = consensus(answers, request, gold)
    known = {item.image_id for item in items}
    audit = replace(audit, unknown_tasks=[task for task in votes if task not in known])
    if len(audit.unknown_tasks) == len(votes):
        raise InputError(
            f"{request.answers}: none of {len(votes)} tasks is an image of {request.source}; a "
            "task must be an image's id, path or file name, or an address that ends in one that "
            "only one image has; "
            f"the first task is {next(iter(votes))!r}, the first image {items[0].image_id!r}"
        )
    labeled = [
        replace(item, label=vote.label, votes=vote.votes)
        if (vote := votes.get(item.image_id)) is not None
        else item
        for item in items
    ]
    _check_labels(request, labeled, audit, gold)
    return labeled, audit


def _normalized(
    answers: pd.DataFrame, gold: Sequence[tuple[str, str]], classes: Sequence[str]
) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Answers and gold with labels that differ no longer in spelling, written as the classes."""
    written = {normalized(name): name for name in classes}
    names = {*answers["label"].dropna(), *(label for _, label in gold)}
    spell = {name: normalized(name) for name in names}
    spell = {name: written.get(plain, plain) for name, plain in spell.items()}
    answers = answers.assign(label=answers["label"].map(spell))
    return answers, [(task, spell[label]) for task, label in gold]


def _by_image(
    request: BuildRequest, gold: Sequence[tuple[str, str]], items: Sequence[Item]
) -> dict[str, str]:
    """True labels by image id, or by task where that is no image here.

    Raises ``InputError`` where one has two labels.
    """
    images = images_of((task for task, _ in gold), items)
    found: dict[str, tuple[str, str]] = {}
    for task, label in gold:
        before, first = found.setdefault(images.get(task, shown(task)), (task, label))
        if label != first:
            raise InputError(
                f"{request.gold}: {task!r} is labelled {label!r}, but {before!r}, the same image, "
                f"{first!r}; keep one of the two, or unite spellings with --normalize"
            )
    return {name: label for name, (_, label) in found.items()}


def _check_labels(
    request: BuildRequest, items: Sequence[Item], audit: Audit, gold: dict[str, str]
) -> None:
    """Raises ``InputError`` with the audit if the answers make fewer than two classes."""
    labels = {item.label for item in items if item.label is not None}
    if len(labels) > 1:
        return
    said = f"every label is {min(labels)!r}" if labels else "no image has a label"
    problems = [
        f"{request.answers}: {said}: the answers make no classes",
        *answer_lines(asdict(audit)),
    ]
    if audit.dropped.get(UNTESTED) == audit.answers:
        problems.append(
            f"{request.gold}: no worker answered one of its {len(gold)} gold tasks, the first is "
            f"{next(iter(gold))!r}; gold tasks must be named as the answers name theirs"
        )
    raise InputError(*problems)


def _source_items(request: BuildRequest, left_out: LeftOut) -> list[Item]:
    if request.patterns is not None:
        if request.answers is not None or request.gold is not None:
            raise InputError(
                f"{request.source}: its crowd answers are generated with its images; leave answers "
                "and gold out, or write them to files to change them: semigrid data generate"
            )
        return pattern_items(request.patterns)
    kind = request.kind or _kind(request.source)
    if request.split_column is not None and kind not in ("table", "parquet"):
        raise InputError(
            f"{request.source}: split_column is for tables and image Parquet, and this is of the "
            f"kind {kind}; its folders or files may name splits"
        )
    find_split = request.splits == "given"
    split = request.split_column if find_split else None
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
        items = webdataset_items(request.source, request.label_column, left_out)
        return _of_files(request, items, left_out)
    if kind == "parquet":
        unused = LeftOut()
        images = request.source, request.image_column, label
        items = parquet_items(*images, split, find_split, unused)
        if split is None and all(item.split is None for item in items):
            items = _of_files(request, items, left_out)
        if all(item.split is None for item in items):
            left_out.notes += unused.notes
        return items
    if kind == "table":
        return table_items(
            request.source,
            image=request.image_column,
            label=label,
            image_id=request.id_column,
            group=request.group_column,
            slices=request.slices,
            split=split,
            find_split=find_split,
            left_out=left_out,
        )
    if request.answers is not None:
        items = folder_items(request.source, labeled=False, left_out=left_out)
        if request.splits == "new":
            return items
        return splits_of_folders(request.source, items, left_out, labeled=False) or items
    try:
        items = folder_items(request.source, left_out=left_out)
        if {item.label for item in items} <= {*(request.classes or [])}:
            return items  # folders named as splits are classes if they are listed
        given = splits_of_folders(request.source, items, left_out, labeled=True)
    except InputError as error:
        raise InputError(f"{error}{_tables_in(request.source)}") from error
    if given is not None:
        anew = request.splits == "new"
        return [replace(item, split=None) for item in given] if anew else given
    if request.classes is None:
        _check_class_folders(request.source, items)
    return items


def _of_files(request: BuildRequest, items: list[Item], left_out: LeftOut) -> list[Item]:
    return items if request.splits == "new" else splits_of_files(request.source, items, left_out)


def _check_class_folders(source: str, items: Sequence[Item]) -> None:
    """Raises ``InputError`` where the folders are hardly classes, with what is probably meant."""
    classes = sorted({item.label for item in items if item.label is not None})
    if len(classes) < 2:
        problem = f"all images are in the folder {classes[0]!r}, but a classifier needs two classes"
    elif None not in splits_in(classes).values():
        problem = (
            f"the folders {', '.join(classes)} look like splits, not classes, and have no class "
            "folders; give a folder with class folders, or name these as classes in a YAML file"
        )
    else:
        return
    # below folders that stand alone
    parts = [item.image_id.split("/")[:-1] for item in items]
    depth = 0
    while len(folders := {part[depth] for part in parts if len(part) > depth}) == 1:
        depth += 1
    if folders and depth:
        deeper = "/".join([source.rstrip("/"), *(part for part in parts[0][:depth])])
        problem += f"; did you mean {deeper}, which has {len(folders)} folders?"
    raise InputError(f"{source}: {problem}{_tables_in(source)}")


def _tables_in(source: str) -> str:
    """Hints at files in a folder of images that may hold the labels, or the images themselves."""
    storage = open_storage(source)
    names = sorted(storage.walk(), key=lambda name: (name.count("/"), name))
    hints = ""
    for kind, suffix in (("webdataset", ".tar"), ("parquet", ".parquet")):
        if holders := [name for name in names if name.lower().endswith(suffix)]:
            hints += f"; or are the images in {holders[0]}? Then add --kind {kind}"
    if tables := [name for name in names if name.lower().endswith(tuple(TABLES))]:
        hints += (
            f"; or are the labels in {storage.location(tables[0])}? Then give that table as the "
            "source, with --image-column and --label-column"
        )
    return hints


def _kind(source: str) -> str:
    """Guesses the kind of a source. Image Parquet looks like a table, so it is never guessed.

    Raises ``InputError`` for a file of no kind that can be guessed.
    """
    if (suffix := suffix_of(source)) == ".tar":
        return "webdataset"
    if suffix in TABLES:
        return "table"
    storage = open_storage(source)
    if storage.exists("listings/metadata") and storage.exists("images/metadata"):
        return "abo"
    if not storage.is_folder() and storage.exists():
        raise InputError(
            f"{source}: a file, and its name ends in none of {', '.join(TABLES)}, .tar, .yaml; "
            "convert it to one of these, or say with --kind what it holds"
        )
    return "folder"
