"""What to build: a source, its pool, the crowd's answers, and how; a YAML file or options."""

import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from semigrid.data.builder.clean import CleanSettings
from semigrid.data.builder.ingest import BuildSettings
from semigrid.data.crowd.answers import read_answers
from semigrid.data.crowd.audit import Audit, Vote
from semigrid.data.crowd.consensus import Rules, VoteMethod, consensus
from semigrid.data.errors import InputError
from semigrid.data.sources.abo import abo_items
from semigrid.data.sources.archives import parquet_items, webdataset_items
from semigrid.data.sources.files import folder_items, table_items
from semigrid.data.sources.items import Item
from semigrid.data.sources.patterns.crowd import answers_of, gold_of
from semigrid.data.sources.patterns.items import pattern_items
from semigrid.data.sources.patterns.spec import LICENSE, Patterns, parse_patterns
from semigrid.data.storage import open_storage
from semigrid.data.tables import read_file, read_table


class BuildRequest(BaseModel):
    """All that ``semigrid data build`` can be told; a YAML file has the same keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    kind: Literal["folder", "table", "parquet", "webdataset", "abo", "patterns"] | None = None
    pool: list[str] = []
    # of Amazon Berkeley Objects
    product_type: str | None = None
    attribute: str = "pattern"
    slice: str | None = "country"
    all_images: bool = False
    # of tables; image_column and label_column also of Hugging Face Parquet, and label_column the
    # key in a WebDataset's .json
    image_column: str = "image"
    label_column: str | None = None
    id_column: str | None = None
    group_column: str | None = None
    slices: list[str] = []
    # of crowd answers
    answers: str | None = None
    answers_format: Literal["generic", "mturk", "groundtruth"] | None = None
    answers_image: str | None = None
    answers_field: str | None = None
    gold: str | None = None
    agree: int = Field(2, gt=0)
    of: int = Field(3, gt=0)
    min_gold_score: float = Field(0.7, ge=0, le=1)
    method: VoteMethod = "majority"
    # of the dataset
    name: str | None = None
    license: str | None = None
    classes: list[str] | None = Field(None, min_length=2)
    seed: int = 0
    val_share: float = Field(0.15, gt=0, lt=1)
    test_share: float = Field(0.10, gt=0, lt=1)
    pool_unit: int | None = Field(None, gt=0)
    shorter_side: int | None = Field(None, gt=0)
    max_pixels: int = Field(50_000_000, gt=0)

    @property
    def patterns(self) -> Patterns | None:
        """The generated images that are the source. Raises ``InputError`` for bad parameters."""
        wanted = self.kind == "patterns" or self.kind is None and self.source.startswith("builtin:")
        return parse_patterns(self.source) if wanted else None

    def settings(self, destination: str) -> BuildSettings:
        made = self.patterns
        return BuildSettings(
            name=self.name or posixpath.basename(destination.rstrip("/")),
            license=self.license or ("unknown" if made is None else LICENSE),
            source=self.source if made is None else made.source,
            seed=self.seed,
            val_share=self.val_share,
            test_share=self.test_share,
            classes=None if self.classes is None else tuple(self.classes),
            pool_unit=self.pool_unit or (None if made is None else made.pool_unit),
            clean=CleanSettings(max_pixels=self.max_pixels, shorter_side=self.shorter_side),
        )


def load_request(source: str, options: dict[str, Any]) -> BuildRequest:
    """The request of a YAML file or a source, with the options that were given over it.

    Raises ``InputError`` with every problem, each naming its key.
    """
    content: dict[str, Any] = {"source": source}
    if source.endswith((".yaml", ".yml")):
        content = _read_yaml(source)
    try:
        return BuildRequest.model_validate(content | options)
    except ValidationError as error:
        allowed = ", ".join(BuildRequest.model_fields)
        problems = []
        for found in error.errors():
            key = ".".join(str(part) for part in found["loc"])
            text = found["msg"].removeprefix("Value error, ")
            if found["type"] == "extra_forbidden":
                text = f"unknown key; allowed are {allowed}"
            problems.append(f"{source}: {key}: {text}")
        raise InputError(*problems) from error


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_file(path))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: a mapping with source and what else there is to say")
    return content


@dataclass(frozen=True)
class Gathered:
    """The items of a request, the votes on them, and the audit of the answers.

    ``unknown_tasks`` are tasks of the answers that are no image of the source.
    """

    items: list[Item]
    votes: dict[str, Vote]
    audit: Audit | None
    unknown_tasks: list[str]


def gather(request: BuildRequest) -> Gathered:
    """Lists the images of a request and gives them their labels. Raises ``InputError``."""
    items = _source_items(request)
    pools = [folder_items(folder, labeled=False) for folder in request.pool]
    for number, found in enumerate(pools, 1):
        # a name in two folders is two images
        prefix = "pool" if len(pools) == 1 else f"pool{number}"
        items += [replace(item, image_id=f"{prefix}/{item.image_id}") for item in found]
    if request.patterns is not None:
        made = request.patterns
        return _with_answers(request, items, answers_of(made), gold_of(made))
    if request.answers is None:
        if request.gold is not None:
            raise InputError("gold is given without answers: there is nothing to qualify for")
        return Gathered(items, {}, None, [])
    answers = read_answers(
        request.answers,
        request.answers_format,
        image=request.answers_image,
        answer=request.answers_field,
    )
    return _with_answers(request, items, answers, _gold(request.gold))


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
                "product_type is missing: which of Amazon's products, such as CELLULAR_PHONE_CASE"
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
    """What a source looks like; the kinds that share their looks must be said."""
    if source.endswith(".tar"):
        return "webdataset"
    if source.endswith((".csv", ".parquet")):
        return "table"
    storage = open_storage(source)
    if storage.exists("listings/metadata") and storage.exists("images/metadata"):
        return "abo"
    return "folder"


def _with_answers(
    request: BuildRequest, items: list[Item], answers: pd.DataFrame, gold: dict[str, str]
) -> Gathered:
    rules = Rules(request.agree, request.of, request.min_gold_score, request.method)
    by_task, audit = consensus(answers, rules, gold)
    names = _names(items)
    votes: dict[str, Vote] = {}
    unknown = []
    for task, vote in by_task.items():
        image_id = names.get(task)
        if image_id is None:
            unknown.append(task)
        else:
            votes[image_id] = vote
    if not votes:
        raise InputError(
            f"{request.answers}: none of {len(by_task)} tasks is an image of {request.source}; a "
            f"task must be an image's id, path or file name; the first task is "
            f"{next(iter(by_task), '')!r}, the first image {items[0].image_id!r}"
        )
    labeled = [
        replace(item, label=votes[item.image_id].label) if item.image_id in votes else item
        for item in items
    ]
    return Gathered(labeled, votes, audit, unknown)


def _names(items: Sequence[Item]) -> dict[str, str]:
    """Image ids by all that a task may call an image; file names only where they are unique."""
    files = Counter(posixpath.basename(item.uri) for item in items)
    names = {
        posixpath.basename(item.uri): item.image_id
        for item in items
        if files[posixpath.basename(item.uri)] == 1
    }
    names |= {item.uri: item.image_id for item in items}
    return names | {item.image_id: item.image_id for item in items}


def _gold(uri: str | None) -> dict[str, str]:
    if uri is None:
        return {}
    table = read_table(uri)
    missing = [name for name in ("task", "label") if name not in table]
    if missing:
        raise InputError(f"{uri}: lacks the column {missing[0]!r}; gold has task and label")
    return dict(zip(table["task"], table["label"], strict=True))
