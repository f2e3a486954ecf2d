"""Crowd answers to labels: reading them, who counts, what the votes say, and the audit."""

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage

AnswerFormat = Literal["generic", "mturk", "groundtruth"]
Method = Literal["majority", "dawid-skene"]
COLUMNS = ["task", "worker", "label"]


@dataclass(frozen=True)
class Rules:
    """Whose answers count, and when they make a label.

    An answer counts if its worker has been right on at least ``min_gold_score`` of the gold tasks
    that the worker answered (one at least). Of the answers that count, the first ``of`` are taken;
    ``agree`` or more equal ones, and more than any other label has, make the label (the paper: two
    of three). ``dawid-skene`` weighs workers by how they agree with each other (Dawid and Skene
    1979, by crowd-kit) and then needs a probability of at least ``min_probability``.
    """

    agree: int = 2
    of: int = 3
    min_gold_score: float = 0.7
    method: Method = "majority"
    min_probability: float = 0.7

    def __post_init__(self) -> None:
        if not 1 <= self.agree <= self.of:
            raise InputError(
                f"agree is {self.agree} of {self.of}: at least 1 and at most {self.of} answers can "
                "agree"
            )
        for name in ("min_gold_score", "min_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be from 0 to 1")


@dataclass(frozen=True)
class Vote:
    """What the crowd says of one task: its label, or why it has none, and the votes that count."""

    label: str | None
    reason: str | None
    votes: Mapping[str, int]


@dataclass
class Audit:
    """What became of the answers.

    ``dropped`` counts answers by reason, ``unlabeled`` tasks by reason; ``kappa`` is Fleiss' over
    the answers that count, None where no task has two; ``workers`` has a record for each worker.
    """

    answers: int = 0
    used: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    tasks: int = 0
    labeled: int = 0
    unlabeled: dict[str, int] = field(default_factory=dict)
    kappa: float | None = None
    workers: list[dict[str, Any]] = field(default_factory=list)


# the worker of answers that are the outcome of a vote taken elsewhere
CONSOLIDATED = "(consolidated)"
# why an answer does not count
REPEATED = "a second answer of the same worker"
UNQUALIFIED = "the worker failed on gold tasks"
UNTESTED = "the worker answered no gold task"
SURPLUS = "more answers than asked for"
# why a task has no label
NO_ANSWER = "no answer that counts"
TIE = "a tie"
TOO_FEW = "too few equal answers"
UNSURE = "too improbable"


def consensus(
    answers: pd.DataFrame, rules: Rules | None = None, gold: Mapping[str, str] | None = None
) -> tuple[dict[str, Vote], Audit]:
    """Labels from answers.

    Args:
        answers: columns ``task``, ``worker``, ``label``, one row an answer, in the order given.
        gold: true labels of some tasks; without them every worker qualifies.

    Returns:
        The vote on every task, in the order of first appearance, and the audit. A gold task has
        its true label.
    """
    rules, gold = rules or Rules(), gold or {}
    frame = answers[COLUMNS].astype(str)
    scores = _gold_scores(frame, gold)
    reasons = _reasons(frame, rules, gold, scores)
    counted = frame[reasons.isna()]
    votes: dict[str, dict[str, int]] = {}
    # not by groupby, which makes an object for each of perhaps a hundred thousand tasks
    for task, label in zip(counted.task, counted.label, strict=True):
        cast = votes.setdefault(task, {})
        cast[label] = cast.get(label, 0) + 1
    settled_rows = frame[frame.worker == CONSOLIDATED]
    settled = dict(zip(settled_rows.task, settled_rows.label, strict=True)) | dict(gold)
    judge = _dawid_skene(counted, rules) if rules.method == "dawid-skene" else None
    found = {}
    for task in dict.fromkeys(frame.task):
        cast = votes.get(task, {})
        if task in settled:
            found[task] = Vote(settled[task], None, cast)
        elif judge is not None and cast:
            label, probability = judge[task]
            sure = probability >= rules.min_probability
            found[task] = Vote(label if sure else None, None if sure else UNSURE, cast)
        else:
            found[task] = _majority(cast, rules)
    return found, _audit(frame, reasons, found, votes, scores)


def _majority(votes: Mapping[str, int], rules: Rules) -> Vote:
    if not votes:
        return Vote(None, NO_ANSWER, votes)
    (label, most), *others = Counter(votes).most_common()
    if most < rules.agree:
        return Vote(None, TOO_FEW, votes)
    if others and others[0][1] == most:
        return Vote(None, TIE, votes)
    return Vote(label, None, votes)


def _gold_scores(frame: pd.DataFrame, gold: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Right answers and answers on gold tasks by worker; a worker's first answer counts."""
    tested = frame[frame.task.isin(list(gold)) & (frame.worker != CONSOLIDATED)].drop_duplicates(
        ["task", "worker"]
    )
    right = tested.label == tested.task.map(gold)
    return {
        str(worker): (int(group.sum()), len(group))
        for worker, group in right.groupby(tested.worker)
    }


def _reasons(
    frame: pd.DataFrame,
    rules: Rules,
    gold: Mapping[str, str],
    scores: Mapping[str, tuple[int, int]],
) -> "pd.Series[Any]":
    """Why each answer does not count; missing where it does."""
    reasons: pd.Series[Any] = pd.Series(None, index=frame.index, dtype=object)
    reasons[frame.duplicated(["task", "worker"])] = REPEATED
    if gold:
        failed = {w for w, (right, of) in scores.items() if right < rules.min_gold_score * of}
        reasons[reasons.isna() & ~frame.worker.isin([CONSOLIDATED, *scores])] = UNTESTED
        reasons[reasons.isna() & frame.worker.isin(list(failed))] = UNQUALIFIED
    place = frame[reasons.isna()].groupby("task").cumcount()
    reasons[place.index[place >= rules.of]] = SURPLUS
    return reasons


def _dawid_skene(counted: pd.DataFrame, rules: Rules) -> dict[str, tuple[str, float]]:
    """The most probable label of each task and its probability."""
    try:
        from crowdkit.aggregation import DawidSkene
    except ImportError as error:
        raise InputError(
            "the method dawid-skene needs crowd-kit: install semigrid[crowd], or use majority"
        ) from error
    if counted.empty:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # crowd-kit's own use of pandas
        table = DawidSkene(n_iter=100).fit_predict_proba(counted)
    return {str(task): (str(row.idxmax()), float(row.max())) for task, row in table.iterrows()}


def _audit(
    frame: pd.DataFrame,
    reasons: "pd.Series[Any]",
    found: Mapping[str, Vote],
    votes: Mapping[str, Mapping[str, int]],
    scores: Mapping[str, tuple[int, int]],
) -> Audit:
    labels = {task: vote.label for task, vote in found.items() if vote.label is not None}
    used = reasons.isna()
    settled = frame.task.map(labels)  # missing where the task has no label
    judged, agreed = used & settled.notna(), frame.label == settled
    workers = []
    for worker, group in frame.groupby("worker"):
        right, tested = scores.get(str(worker), (0, 0))
        verdicts = agreed[group.index][judged[group.index]]
        workers.append(
            {
                "worker": str(worker),
                "answers": len(group),
                "used": int(used[group.index].sum()),
                "gold": tested,
                "gold_score": right / tested if tested else None,
                "agreement": float(verdicts.mean()) if len(verdicts) else None,
            }
        )
    return Audit(
        answers=len(frame),
        used=int(used.sum()),
        dropped={str(k): int(v) for k, v in reasons.value_counts().items()},
        tasks=len(found),
        labeled=len(labels),
        unlabeled=dict(Counter(v.reason for v in found.values() if v.reason is not None)),
        kappa=fleiss_kappa(votes.values()),
        workers=workers,
    )


def fleiss_kappa(votes: Iterable[Mapping[str, int]]) -> float | None:
    """Fleiss' κ (1971) over tasks with two answers or more; their number may differ by task.

    κ = (P̄ − P̄e) / (1 − P̄e), with P̄ the mean share of agreeing pairs of a task and P̄e = Σ p_j²
    over the labels' shares. None without such a task, and where all answers are the same label,
    for which it is not defined.
    """
    tasks = [dict(cast) for cast in votes if sum(cast.values()) >= 2]
    if not tasks:
        return None
    totals: Counter[str] = Counter()
    pairs = []
    for cast in tasks:
        count = sum(cast.values())
        totals.update(cast)
        pairs.append(sum(n * (n - 1) for n in cast.values()) / (count * (count - 1)))
    by_chance = sum((n / totals.total()) ** 2 for n in totals.values())
    if by_chance == 1:
        return None
    return float((sum(pairs) / len(pairs) - by_chance) / (1 - by_chance))


def read_answers(
    uri: str,
    format: AnswerFormat | None = None,
    *,
    image: str | None = None,
    answer: str | None = None,
) -> pd.DataFrame:
    """Answers of a file, one row each, with the columns ``task``, ``worker``, ``label``.

    Args:
        uri: CSV or Parquet with these columns; an MTurk batch-results CSV; a SageMaker Ground
            Truth output manifest.
        format: guessed from the file where it is None.
        image: of MTurk, the ``Input`` column that is the task; needed if there are several.
        answer: of MTurk, the ``Answer`` column or field; of Ground Truth, the label attribute.

    Raises:
        InputError: naming the file, the row or column, and what is expected.
    """
    content = _content(uri)
    format = format or _guess(uri, content)
    if format == "groundtruth":
        return _ground_truth(uri, content, answer)
    table = _table(uri, content)
    if format == "mturk":
        return _mturk(uri, table, image, answer)
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise InputError(
            f"{uri}: lacks the column {missing[0]!r}; answers have {', '.join(COLUMNS)}, this file "
            f"{', '.join(table.columns[:8])}"
        )
    empty = table[COLUMNS].isna().any(axis=1) | (table[COLUMNS] == "").any(axis=1)
    if empty.any():
        row = int(empty.to_numpy().argmax())
        raise InputError(f"{uri}: row {row + 1} has an empty task, worker or label")
    return table[COLUMNS].reset_index(drop=True)


def _content(uri: str) -> bytes:
    storage = open_storage(uri)
    try:
        return storage.read()
    except OSError as error:
        raise InputError(f"{uri}: cannot be read: {error}") from error


def read_table(uri: str) -> pd.DataFrame:
    """A CSV or Parquet file as strings, empty where a value is missing. Raises ``InputError``."""
    return _table(uri, _content(uri))


def _guess(uri: str, content: bytes) -> AnswerFormat:
    if content.lstrip()[:1] == b"{":
        return "groundtruth"
    first = content.split(b"\n", 1)[0]
    return "mturk" if b"AssignmentStatus" in first and b"WorkerId" in first else "generic"


def _table(uri: str, content: bytes) -> pd.DataFrame:
    import io

    try:
        if content[:4] == b"PAR1":
            table = pd.read_parquet(io.BytesIO(content))
            return table.astype(str).mask(table.isna(), "")
        # everything is a string: a label "1" and a worker "007" must stay what they are
        return pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise InputError(f"{uri}: not a CSV or Parquet file: {error}") from error


def _mturk(uri: str, table: pd.DataFrame, image: str | None, answer: str | None) -> pd.DataFrame:
    """MTurk batch results: rejected assignments do not count."""
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
    if "Answer.taskAnswers" in columns and answer in (None, "Answer.taskAnswers", "taskAnswers"):
        return [
            _json_answer(f"{uri}: row {row}", text, None)
            for row, text in zip(table.index + 1, table["Answer.taskAnswers"], strict=True)
        ]
    if "Answer.taskAnswers" in columns and f"Answer.{answer}" not in columns:
        return [
            _json_answer(f"{uri}: row {row}", text, answer)
            for row, text in zip(table.index + 1, table["Answer.taskAnswers"], strict=True)
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
    return _one_hot(uri, table, by_field[chosen])


def _one_hot(uri: str, table: pd.DataFrame, columns: list[str]) -> list[str]:
    """The label whose column is true; an empty string where none is."""
    labels = []
    for row, values in zip(table.index + 1, table[columns].to_numpy(), strict=True):
        true = [c for c, v in zip(columns, values, strict=True) if str(v).strip().lower() == "true"]
        if len(true) > 1:
            raise InputError(f"{uri}: row {row} has {len(true)} answers: {', '.join(true)}")
        labels.append(true[0].split(".", 2)[2] if true else "")
    return labels


def _json_answer(where: str, text: str, name: str | None) -> str:
    """One answer out of ``Answer.taskAnswers``: ``[{"pattern": {"label": "dots"}}]`` and the like.

    A field's value may be the label, ``{"label": …}``, or ``{label: true or false, …}``.
    """
    if not text.strip():
        return ""
    try:
        found = json.loads(text)
        fields = found[0] if isinstance(found, list) else found
        assert isinstance(fields, dict)
    except (ValueError, IndexError, AssertionError) as error:
        raise InputError(
            f"{where}: Answer.taskAnswers is not a JSON object: {text[:80]}"
        ) from error
    if name is None:
        if len(fields) != 1:
            raise InputError(
                f"{where}: {len(fields)} answer fields ({', '.join(fields)}); say which one with "
                "answer"
            )
        name = next(iter(fields))
    value = fields.get(name, "")
    if isinstance(value, dict):
        if isinstance(value.get("label"), str):
            return str(value["label"])
        true = [label for label, chosen in value.items() if chosen is True]
        if len(true) > 1:
            raise InputError(f"{where}: {len(true)} answers: {', '.join(true)}")
        return true[0] if true else ""
    return str(value)


def _ground_truth(uri: str, content: bytes, attribute: str | None) -> pd.DataFrame:
    """A Ground Truth manifest: each worker's answer where it has them, else the one it settled on.

    The answer it settled on is that of the worker ``CONSOLIDATED`` and needs no second one: Ground
    Truth has taken the vote already.
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
            return []  # an image that nobody was asked about
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
