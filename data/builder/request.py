"""A request to build a dataset: the keys of its YAML file and the options of the command."""

from collections import Counter
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from semigrid.data.builder.clean import CleanSettings
from semigrid.data.builder.curate import Rare
from semigrid.data.crowd.answers import AnswerFormat
from semigrid.data.crowd.consensus import Rules
from semigrid.data.errors import InputError
from semigrid.data.schema import MOST
from semigrid.data.sources.patterns.spec import Patterns, parse_patterns
from semigrid.data.storage.address import is_local, suffix_of
from semigrid.data.yaml_files import parse_yaml, read_yaml


class BuildRequest(CleanSettings, Rules):
    """The settings of ``semigrid data build``; a YAML file has the same keys."""

    model_config = ConfigDict(extra="forbid")
    source: str
    kind: Literal["folder", "table", "parquet", "webdataset", "abo", "patterns"] | None = None
    pool: list[str] = []
    # Amazon Berkeley Objects
    product_type: str | None = None
    attribute: str = "pattern"
    slice: str | None = "country"
    all_images: bool = False
    # tables; Hugging Face Parquet uses the first two and split_column, and WebDataset label_column
    # as a .json key
    image_column: str = "image"
    label_column: str | None = None
    id_column: str | None = None
    group_column: str | None = None
    split_column: str | None = None
    slices: list[str] = []
    # crowd answers
    answers: str | None = None
    answers_format: AnswerFormat | None = None
    answers_image: str | None = None
    answers_field: str | None = None
    gold: str | None = None
    normalize: bool = False
    # the dataset
    name: str | None = None
    license: str | None = None
    classes: list[str] | None = Field(None, min_length=2)
    seed: int = Field(0, ge=-MOST, le=MOST)
    val_share: float = Field(0.15, gt=0, lt=1)
    # its default, too, may leave nothing to train on beside a large val
    test_share: float = Field(0.10, gt=0, lt=1, validate_default=True)
    # whether splits that the source comes with are kept, or all are drawn
    splits: Literal["given", "new"] = "given"
    # classes with fewer labelled images than this cannot be learnt and tested
    min_per_class: int = Field(2, ge=2, le=MOST)
    rare: Rare = "refuse"
    pool_unit: int | None = Field(None, gt=0, le=MOST)
    # the images that are cleaned at a time, and that are in memory while shards are written; no
    # result depends on them
    chunk_images: int = Field(512, gt=0)
    bucket_images: int = Field(8192, gt=0)

    @field_validator("classes")
    @classmethod
    def _are_distinct(cls, classes: list[str] | None) -> list[str] | None:
        if twice := [name for name, n in Counter(classes or []).items() if n > 1]:
            raise ValueError(f"the class {twice[0]!r} is given twice")
        return classes

    @field_validator("test_share")
    @classmethod
    def _leaves_some_to_train(cls, test_share: float, others: ValidationInfo) -> float:
        val_share = others.data.get("val_share", 0.0)
        if val_share + test_share >= 1:
            raise ValueError(
                f"{test_share:g} and val_share {val_share:g} leave nothing to train on; give "
                "shares of less than 1 together"
            )
        return test_share

    @property
    def patterns(self) -> Patterns | None:
        """The generated images that are the source. Raises ``InputError`` for bad parameters."""
        wanted = self.kind == "patterns" or self.kind is None and self.source.startswith("builtin:")
        return parse_patterns(self.source) if wanted else None


def load_request(source: str, options: dict[str, Any]) -> BuildRequest:
    """Reads the request of a YAML file, or of a plain source, and overrides keys with options.

    Raises ``InputError`` with all problems and their keys.
    """
    is_yaml = suffix_of(source) in (".yaml", ".yml")
    expected = "not a mapping; give source and any other keys"
    content = {"source": source}
    if is_yaml:
        content = parse_yaml(source, read_yaml(source), expected)
    try:
        request = BuildRequest.model_validate(content | options)
    except ValidationError as error:
        unknown = f"unknown key; allowed are {', '.join(BuildRequest.model_fields)}"
        problems = []
        for problem in error.errors():
            words = problem["msg"].removeprefix("Value error, ")
            key = ".".join(map(str, problem["loc"]))
            is_unknown = problem["type"] == "extra_forbidden"
            problems.append(f"{source}: {key}: {unknown if is_unknown else words}")
        raise InputError(*problems) from error
    if not is_local(source) and is_yaml:
        for key in {"source", "answers", "gold", "pool"} & content.keys() - options.keys():
            value = getattr(request, key)
            for named in value if isinstance(value, list) else [value]:
                if is_local(named):
                    raise InputError(
                        f"{source}: {key}: names {named}, a file on this machine, which settings "
                        "from elsewhere must not do; if you trust them, copy them to this machine"
                    )
    return request
