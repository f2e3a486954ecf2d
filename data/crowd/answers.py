"""Reads a crowd's answers from tables, MTurk batch results and Ground Truth manifests."""

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from semigrid.data.errors import InputError
from semigrid.data.shapes import of_shape, parse_json
from semigrid.data.tables import Table, check_columns, open_table, read_file, utf8

AnswerFormat = Literal["generic", "mturk", "groundtruth"]
COLUMNS = ["task", "worker", "label"]
# the worker of answers that another system has already agreed on
CONSOLIDATED = "(consolidated)"
JSON_FIELD = "taskAnswers"  # the MTurk field with answers as JSON
ANSWER_KEY = "answers_field"  # the key of a request that says which answer
MTURK = ("WorkerId", "AssignmentStatus")  # columns by which batch results are told
BOOLEANS = {"true", "false", ""}  # values of a column that stands for one label
CLASSIFIED = {"label", "labels"}  # columns of MTurk's own classifiers
BUTTONS = "buttons"  # names, as an answers_field, all fields that are one radio button each
UNNAMED = "on"  # the value of a button whose form gives it none


Text = Annotated[str, Field(min_length=1)]


class _Line(BaseModel):
    """A line of a manifest; what is said of the image is in further keys."""

    model_config = ConfigDict(extra="allow")
    task: Text = Field(alias="source-ref")


class _Content(BaseModel):
    content: str


class _Annotation(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)
    worker: Text = Field(alias="workerId")
    data: _Content = Field(alias="annotationData")


class _Custom(BaseModel):
    votes: list[_Annotation] = Field(alias="annotationsFromAllWorkers")


class _Settled(BaseModel):
    label: Text = Field(alias="class-name")


class _Answer(RootModel[list[dict[str, Any]]]):
    """Fields with their values, in a list of one or alone."""

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, content: Any) -> Any:
        return [content] if isinstance(content, dict) else content


class _Many(RootModel[list[Any]]):
    """Labels of a form that takes several."""


def read_answers(
    uri: str,
    format: AnswerFormat | None = None,
    *,
    image: str | None = None,
    answer: str | None = None,
) -> pd.DataFrame:
    """Reads answers, one row each, with the columns ``task``, ``worker`` and ``label``.

    The label is missing where a worker gave several.

    Args:
        uri: a table with these columns; an MTurk batch-results CSV; a SageMaker Ground Truth
            output manifest.
        format: format of the file, or None to guess it.
        image: ``Input`` column that is the task (MTurk); required if there are several.
        answer: ``Answer`` column or field (MTurk), or label attribute (Ground Truth).

    Raises:
        InputError: the file, a row or a column is not as expected, or no row has an answer.
    """
    content = read_file(uri)
    content = content if content[:4] == b"PAR1" else utf8(uri, content)
    if format == "groundtruth" or format is None and content.lstrip()[:1] == b"{":
        return _ground_truth(uri, content, answer)
    table = open_table(uri, content)
    if format == "mturk" or format is None and {*MTURK} <= {*table.names}:
        return _mturk(table, image, answer)
    return _complete(uri, enumerate(zip(*table.columns(*COLUMNS).values(), strict=True), 1))


def read_gold(uri: str) -> list[tuple[str, str]]:
    """Gold tasks with their true labels, from a table with ``task`` and ``label``.

    A row without a label is no gold. Raises ``InputError``: no row has a label, or a row has no
    task.
    """
    columns = open_table(uri).columns("task", "label")
    gold = []
    for row, (task, label) in enumerate(zip(columns["task"], columns["label"], strict=True), 1):
        if not label.strip():
            continue
        if not task.strip():
            raise InputError(f"{uri}: row {row} has a label and no task")
        gold.append((task, label))
    if not gold:
        raise InputError(f"{uri}: no task has a label, so no worker can be tested")
    return gold


def normalized(label: str) -> str:
    """A label without differences in case, blanks and forms of the same character (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", label).lower().split())


def _complete(uri: str, rows: Iterable[tuple[int, tuple[str | None, ...]]]) -> pd.DataFrame:
    """Numbered rows of task, worker and label, none of which may be blank."""
    complete = []
    for number, row in rows:
        if not all(text is None or text.strip() for text in row):
            raise InputError(f"{uri}: row {number} has an empty task, worker or label")
        complete.append(row)
    return pd.DataFrame(complete, columns=COLUMNS)


def _mturk(table: Table, image: str | None, answer: str | None) -> pd.DataFrame:
    """Reads MTurk batch results. Rejected assignments do not count, nor those without an answer."""
    inputs = [name for name in table.names if name.startswith("Input.")]
    chosen = image or _only(table.uri, "Input columns", inputs, "answers_image")
    task = f"Input.{chosen.removeprefix('Input.')}"
    columns = table.columns(task, *MTURK)
    label_of = _mturk_labels(table, None if answer is None else answer.removeprefix("Answer."))
    kept = [row for row, said in enumerate(columns["AssignmentStatus"]) if said != "Rejected"]
    answered = [
        (row + 1, (columns[task][row], columns["WorkerId"][row], label))
        for row in kept
        if _is_answer(label := label_of(row, f"{table.uri}: row {row + 1}"))
    ]
    if not answered:
        rejected = len(columns[task]) - len(kept)
        raise InputError(
            f"{table.uri}: no assignment counts: {rejected} are rejected, {len(kept)} empty"
        )
    return _complete(table.uri, answered)


def _is_answer(label: str | None) -> bool:
    return label is None or bool(label.strip())


def _only(where: str, kind: str, names: list[str], option: str) -> str:
    """The only one of some names. Raises ``InputError``."""
    if len(names) != 1:
        shown = f" ({', '.join(names[:6])})" if names else ""
        raise InputError(f"{where}: {len(names)} {kind}{shown}; say which one with {option}")
    return names[0]


def _mturk_labels(table: Table, field: str | None) -> Callable[[int, str], str | None]:
    """What reads the label of a row; a row is told in messages by a string.

    ``Answer.<field>`` has a field's value, and ``Answer.<field>.<key>`` a part of it, which is true
    or false unless MTurk's own classifiers wrote it.
    """
    columns: dict[str, dict[str, str]] = {}  # by field and, where it has several, by key
    for column in table.names:
        kind, _, name = column.partition(".")
        if kind == "Answer":
            name, _, key = name.partition(".")
            columns.setdefault(name, {})[key] = column
    if JSON_FIELD in columns and (field == JSON_FIELD or field not in columns):
        wanted = None if field == JSON_FIELD else field
        texts = table.columns(f"Answer.{JSON_FIELD}")[f"Answer.{JSON_FIELD}"]
        return lambda row, where: _json_answer(where, texts[row], wanted)
    if field not in (None, BUTTONS, *columns):
        check_columns(table.uri, table.names, [f"Answer.{field}"])
    names = [name for of_field in columns.values() for name in of_field.values()]
    cells = table.columns(*names) if names else {}
    fields: dict[str, list[Any]] = {}
    for name, keys in columns.items():
        parts: dict[str, list[Any]] = {
            key: [*cells[column]] for key, column in keys.items() if key or len(keys) == 1
        }
        if keys.keys().isdisjoint({"", *CLASSIFIED}) and all(
            _is_boolean(cell) for part in parts.values() for cell in part
        ):
            parts = {key: [_is_true(cell) for cell in part] for key, part in parts.items()}
        values = [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]
        fields[name] = parts.get("", values)
    return lambda row, where: _chosen(
        table.uri, where, {name: values[row] for name, values in fields.items()}, field
    )


def _is_boolean(text: str) -> bool:
    return text.strip().lower() in BOOLEANS


def _is_true(text: str) -> bool:
    return text.strip().lower() == "true"


def _buttons(values: dict[str, str]) -> dict[str, str]:
    """The label of each radio button, by its name: its value or, where all have the same, its name.

    ``crowd-radio-group`` writes each of its buttons as a field of its own, with the value ``on``
    where the form gives it none: ``{"cat": {"on": false}, "dog": {"on": true}}``.

    Args:
        values: the only value of each field that may be true or false.
    """
    if {*values.values()} == {UNNAMED} or len(values) > 1 and len({*values.values()}) == 1:
        return {name: name for name in values}
    return values if 1 < len(values) == len({*values.values()}) else {}


def _json_answer(where: str, text: str, name: str | None) -> str | None:
    """Reads an answer in ``Answer.taskAnswers``, such as ``[{"pattern": {"label": "dots"}}]``.

    A field's value may be the label, ``{"label": …}``, a list of labels, ``{"labels": [the same]}``
    or ``{label: true or false, …}``; or each field is a radio button, see ``_buttons``.
    """
    if not text.strip():
        return ""
    where = f"{where}: the JSON answer"
    fields = next(iter(parse_json(_Answer, text, where).root), {})
    return _chosen(where, where, fields, name) if fields else ""


def _chosen(uri: str, where: str, fields: dict[str, Any], name: str | None) -> str | None:
    """The label that one of an answer's fields has, or all of its radio buttons together."""
    buttons = _buttons(
        {
            field: next(iter(value))
            for field, value in fields.items()
            if isinstance(value, dict) and [type(chosen) for chosen in value.values()] == [bool]
        }
    )
    names = [*(field for field in fields if field not in buttons), *([BUTTONS] if buttons else [])]
    chosen = name or _only(uri, "answer fields", names, ANSWER_KEY)
    if chosen == BUTTONS and buttons:
        pressed = {label: next(iter(fields[field].values())) for field, label in buttons.items()}
        return _label(f"{where}: {BUTTONS}", pressed)
    return _label(f"{where}: {chosen}", fields.get(chosen))


def _label(where: str, value: Any) -> str | None:
    """The label that a value stands for, empty for none, None for several.

    Raises ``InputError``.
    """
    match value:
        case None:
            return ""
        case str():
            return value
        case bool() | int() | float() if value == value:  # NaN is no label
            return str(value)
        case list():
            labels = {label for one in value if _is_answer(label := _label(where, one))}
            return "" if not labels else labels.pop() if len(labels) == 1 else None
        case dict() if all(isinstance(chosen, bool) for chosen in value.values()):
            return _label(where, [label for label, chosen in value.items() if chosen])
        case {"label": (str() | int() | float()) as label} if label != "":
            return _label(where, label)
        case {"labels": list(labels)}:
            return _label(where, labels)
        case dict() if (
            "label" not in value
            and {*value} != {"labels"}
            and all(_is_boolean(str(chosen)) for chosen in value.values())
        ):
            return _label(where, {label: _is_true(str(text)) for label, text in value.items()})
        case {"labels": str(text)}:  # a cell
            is_list = text.strip()[:1] == "["
            return _label(where, parse_json(_Many, text, where).root if is_list else text)
        case {"label": "" | None}:
            return ""
    raise InputError(
        f"{where} is {str(value)[:80]}, which names no label; give one, or true or false for each"
    )


def _ground_truth(uri: str, content: bytes, attribute: str | None) -> pd.DataFrame:
    """Reads a Ground Truth manifest: the workers' answers, or else the consolidated answer.

    The consolidated answer has the worker ``CONSOLIDATED``. It makes a label without other answers.
    """
    rows: list[tuple[str, str, str | None]] = []
    for number, text in enumerate(content.split(b"\n"), 1):
        if text.strip():
            where = f"{uri}: line {number}"
            line = parse_json(_Line, text, where)
            said = _annotations(where, line.model_extra or {}, attribute)
            rows += [(line.task, worker, label) for worker, label in said if _is_answer(label)]
    if not rows:
        raise InputError(f"{uri}: no line has an answer{f' in {attribute}' if attribute else ''}")
    return pd.DataFrame(rows, columns=COLUMNS)


def _annotations(
    where: str, record: dict[str, Any], attribute: str | None
) -> Iterator[tuple[str, str | None]]:
    """Workers and labels of an image."""
    custom = {
        key
        for key, value in record.items()
        if isinstance(value, dict) and "annotationsFromAllWorkers" in value
    }
    known = sorted(custom | {key for key in record if f"{key}-metadata" in record})
    if not known:
        return  # an image without answers
    attribute = attribute or _only(where, "label attributes", known, ANSWER_KEY)
    if attribute in custom:
        for vote in of_shape(_Custom, record[attribute], f"{where}: {attribute}").votes:
            yield vote.worker, _json_answer(where, vote.data.content, None)
    elif attribute in known:
        metadata = record[f"{attribute}-metadata"]
        where = f"{where}: {attribute}-metadata of a classification"
        yield CONSOLIDATED, of_shape(_Settled, metadata, where).label
