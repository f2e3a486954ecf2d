"""Reads a crowd's answers from tables, MTurk batch results and Ground Truth manifests."""

import json
from typing import Any, Literal

import pandas as pd

from semigrid.data.errors import InputError
from semigrid.data.tables import check_columns, read_file, read_table

AnswerFormat = Literal["generic", "mturk", "groundtruth"]
COLUMNS = ["task", "worker", "label"]
# the worker of answers that another system has already agreed on
CONSOLIDATED = "(consolidated)"
JSON_FIELD = "taskAnswers"  # the MTurk field with answers as JSON
ANSWER_KEY = "answers_field"  # the key of a request that says which answer


def read_answers(
    uri: str,
    format: AnswerFormat | None = None,
    *,
    image: str | None = None,
    answer: str | None = None,
) -> pd.DataFrame:
    """Reads answers, one row each, with the columns ``task``, ``worker`` and ``label``.

    Args:
        uri: CSV or Parquet with these columns; an MTurk batch-results CSV; a SageMaker Ground
            Truth output manifest.
        format: format of the file, or None to guess it.
        image: ``Input`` column that is the task (MTurk); required if there are several.
        answer: ``Answer`` column or field (MTurk), or label attribute (Ground Truth).

    Raises:
        InputError: the file, a row or a column is not as expected.
    """
    content = read_file(uri)
    format = format or _guess(uri, content)
    if format == "groundtruth":
        return _ground_truth(uri, content, answer)
    table = read_table(uri, content)
    if format == "mturk":
        return _mturk(uri, table, image, answer)
    check_columns(uri, table.columns, COLUMNS)
    empty = (table[COLUMNS] == "").any(axis=1)
    if empty.any():
        raise InputError(f"{uri}: row {empty.argmax() + 1} has an empty task, worker or label")
    return table[COLUMNS]


def _guess(uri: str, content: bytes) -> AnswerFormat:
    if content.lstrip()[:1] == b"{":
        return "groundtruth"
    first = content.split(b"\n", 1)[0]
    return "mturk" if b"AssignmentStatus" in first and b"WorkerId" in first else "generic"


def _mturk(uri: str, table: pd.DataFrame, image: str | None, answer: str | None) -> pd.DataFrame:
    """Reads MTurk batch results. Rejected assignments do not count."""
    inputs = [column for column in table.columns if column.startswith("Input.")]
    chosen = image or _only(uri, "Input columns", inputs, "answers_image")
    task = f"Input.{chosen.removeprefix('Input.')}"
    check_columns(uri, inputs, [task])
    table = table[table["AssignmentStatus"] != "Rejected"]
    labels = _mturk_labels(uri, table, None if answer is None else answer.removeprefix("Answer."))
    frame = pd.DataFrame({"task": table[task], "worker": table["WorkerId"], "label": labels})
    return frame[frame.label != ""].reset_index(drop=True)  # an assignment without an answer


def _only(where: str, kind: str, names: list[str], option: str) -> str:
    """The only one of some names. Raises ``InputError``."""
    if len(names) != 1:
        shown = f" ({', '.join(names[:6])})" if names else ""
        raise InputError(f"{where}: {len(names)} {kind}{shown}; say which one with {option}")
    return names[0]


def _mturk_labels(uri: str, table: pd.DataFrame, field: str | None) -> list[str]:
    fields: dict[str, dict[str, str]] = {}  # columns by field and, where each has its own, by label
    for column in table.columns:
        kind, _, name = column.partition(".")
        if kind == "Answer":
            name, _, label = name.partition(".")
            fields.setdefault(name, {})[label] = column
    if JSON_FIELD in fields and (field == JSON_FIELD or field not in fields):
        wanted = None if field == JSON_FIELD else field
        texts = zip(table.index + 1, table[f"Answer.{JSON_FIELD}"], strict=True)
        return [_json_answer(f"{uri}: row {row}", text, wanted) for row, text in texts]
    columns = [f"Answer.{name}" for name in sorted(fields)]
    chosen = field or _only(uri, "Answer columns", columns, ANSWER_KEY).removeprefix("Answer.")
    check_columns(uri, columns, [f"Answer.{chosen}"])
    of_label = {label: column for label, column in fields[chosen].items() if label}
    if not of_label:
        return list(table[f"Answer.{chosen}"])
    is_true = (
        table[list(of_label.values())].apply(lambda texts: texts.str.strip().str.lower()) == "true"
    )
    rows = zip(table.index + 1, is_true.itertuples(index=False), strict=True)
    return [
        _true_label(f"{uri}: row {row}", dict(zip(of_label, values, strict=True)))
        for row, values in rows
    ]


def _true_label(where: str, chosen: dict[Any, Any]) -> str:
    """The only label that is true; an empty string when none is. Raises ``InputError``."""
    labels = [label for label, is_true in chosen.items() if is_true is True]
    if len(labels) > 1:
        raise InputError(f"{where} has {len(labels)} answers: {', '.join(labels)}")
    return labels[0] if labels else ""


def _json_answer(where: str, text: str, name: str | None) -> str:
    """Reads an answer in ``Answer.taskAnswers``, such as ``[{"pattern": {"label": "dots"}}]``.

    A field's value may be the label, ``{"label": …}``, or ``{label: true or false, …}``.
    """
    if not text.strip():
        return ""
    try:
        content = json.loads(text)
        fields = content[0] if isinstance(content, list) else content
        names = list(fields.keys())
    except (ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"{where}: Answer.taskAnswers is not a JSON object: {text[:80]}"
        ) from error
    value = fields.get(name or _only(where, "answer fields", names, ANSWER_KEY), "")
    if isinstance(value, dict):
        if isinstance(value.get("label"), str):
            return str(value["label"])
        return _true_label(where, value)
    return str(value)


def _ground_truth(uri: str, content: bytes, attribute: str | None) -> pd.DataFrame:
    """Reads a Ground Truth manifest: the workers' answers, or else the consolidated answer.

    The consolidated answer has the worker ``CONSOLIDATED``. It makes a label without other answers.
    """
    rows: list[tuple[str, str, str]] = []
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{uri}: line {number}"
        try:
            record = json.loads(line)
            task = record["source-ref"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{where}: not a JSON object with source-ref: {line[:80]}") from error
        rows += [(str(task), *pair) for pair in _annotations(where, record, attribute)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _annotations(
    where: str, record: dict[str, Any], attribute: str | None
) -> list[tuple[str, str]]:
    custom = {
        key
        for key, value in record.items()
        if isinstance(value, dict) and "annotationsFromAllWorkers" in value
    }
    known = sorted(custom | {key for key in record if f"{key}-metadata" in record})
    if not known:
        return []  # an image without answers
    attribute = attribute or _only(where, "label attributes", known, ANSWER_KEY)
    if attribute in custom:
        return [
            (str(a["workerId"]), _json_answer(where, a["annotationData"]["content"], None))
            for a in record[attribute]["annotationsFromAllWorkers"]
        ]
    if attribute not in known:
        return []
    metadata = record[f"{attribute}-metadata"]
    if "class-name" not in metadata:
        raise InputError(f"{where}: {attribute}-metadata has no class-name: not a classification")
    return [(CONSOLIDATED, str(metadata["class-name"]))]
