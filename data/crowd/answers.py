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
TASK_ANSWERS = "Answer.taskAnswers"  # the MTurk column with answers as JSON


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
    inputs = [column for column in map(str, table.columns) if column.startswith("Input.")]
    chosen = _choose(uri, "Input", inputs, image, "image")
    table = table[table["AssignmentStatus"] != "Rejected"]
    labels = _mturk_labels(uri, table, answer)
    frame = pd.DataFrame({"task": table[chosen], "worker": table["WorkerId"], "label": labels})
    return frame[frame.label != ""].reset_index(drop=True)  # an assignment without an answer


def _choose(uri: str, kind: str, columns: list[str], wanted: str | None, option: str) -> str:
    if wanted is not None:
        for column in columns:
            if column in (wanted, f"{kind}.{wanted}"):
                return column
        raise InputError(
            f"{uri}: there is no column {wanted!r}; there are {', '.join(columns) or 'none'}"
        )
    if len(columns) != 1:
        raise InputError(
            f"{uri}: {len(columns)} {kind} columns ({', '.join(columns[:6])}); say which one with "
            f"{option}"
        )
    return columns[0]


def _mturk_labels(uri: str, table: pd.DataFrame, answer: str | None) -> list[str]:
    columns = [column for column in map(str, table.columns) if column.startswith("Answer.")]
    if TASK_ANSWERS in columns and f"Answer.{answer}" not in {*columns} - {TASK_ANSWERS}:
        name = None if answer in (TASK_ANSWERS, "taskAnswers") else answer
        return [
            _json_answer(f"{uri}: row {row}", text, name)
            for row, text in zip(table.index + 1, table[TASK_ANSWERS], strict=True)
        ]
    by_field: dict[str, list[str]] = {}
    for column in columns:
        parts = column.split(".", 2)
        if len(parts) == 3:
            by_field.setdefault(parts[1], []).append(column)
    plain = [column for column in columns if len(column.split(".", 2)) == 2]
    fields = plain + [f"Answer.{name}" for name in by_field]
    chosen = _choose(uri, "Answer", fields, answer, "answer").removeprefix("Answer.")
    if chosen not in by_field:
        return list(table[f"Answer.{chosen}"])
    columns = by_field[chosen]
    is_true = table[columns].apply(lambda column: column.str.strip().str.lower() == "true")
    is_true.columns = [column.split(".", 2)[2] for column in columns]
    return [
        _true_label(f"{uri}: row {row}", values)
        for row, values in zip(table.index + 1, is_true.to_dict("records"), strict=True)
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
    if name is None:
        if len(names) != 1:
            raise InputError(
                f"{where}: {len(names)} answer fields ({', '.join(names)}); say which one with "
                "answer"
            )
        name = names[0]
    value = fields.get(name, "")
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
    attributes = [key for key in record if f"{key}-metadata" in record]
    custom = [
        key
        for key, value in record.items()
        if isinstance(value, dict) and "annotationsFromAllWorkers" in value
    ]
    known = sorted({*attributes, *custom})
    if attribute is None:
        if len(known) > 1:
            raise InputError(
                f"{where}: {len(known)} label attributes ({', '.join(known)}); say which one with "
                "answer"
            )
        if not known:
            return []  # an image without answers
        attribute = known[0]
    if attribute not in known:
        return []
    if attribute in custom:
        return [
            (str(a["workerId"]), _json_answer(where, a["annotationData"]["content"], None))
            for a in record[attribute]["annotationsFromAllWorkers"]
        ]
    metadata = record[f"{attribute}-metadata"]
    if "class-name" not in metadata:
        raise InputError(f"{where}: {attribute}-metadata has no class-name: not a classification")
    return [(CONSOLIDATED, str(metadata["class-name"]))]
