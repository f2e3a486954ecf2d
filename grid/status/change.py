"""What a changed experiment file means for what was trained already. Pure: reads nothing itself."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import yaml

from semigrid.grid.experiment import Experiment, ExperimentFile
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Plan, Search
from semigrid.grid.study.state import StudyState
from semigrid.grid.study.summary import ENDED
from semigrid.trainers.trial import TrialSpec

# anew: it was trained, but what it is now was not; not asked: by --only
What = Literal["finished", "continued", "new", "anew", "failed", "blocked", "not asked"]
# keys that cannot change a number
_HARMLESS = ("name", "prices", "trackers", "train")
_HARMFUL = ("train.precision",)
# what a key that is not there is compared and shown as; null is a value
MISSING = "—"
# a changed value is shown up to this many characters
_SHOWN = 60


@dataclass(frozen=True)
class KeyChange:
    """A key of the file, by its path, with what it was and is; ``MISSING``: it is not there."""

    key: str
    before: Any
    after: Any

    @property
    def changes_numbers(self) -> bool:
        """Whether trainings may come out differently for it."""
        top = self.key.split(".")[0]
        own_train = self.key.startswith("models.") and self.key.split(".")[2:3] == ["train"]
        return self.key in _HARMFUL or not (top in _HARMLESS or own_train)

    def __str__(self) -> str:
        harmless = "" if self.changes_numbers else "  (changes no result)"
        return f"{self.key}: {_shown(self.before)} → {_shown(self.after)}{harmless}"


@dataclass(frozen=True)
class CellChange:
    """What becomes of one cell: trainings kept and to do, and why.

    ``perhaps`` more are kept if the cell that it starts from keeps its winner.
    """

    cell: str
    what: What
    kept: int
    to_do: int
    why: str = ""
    perhaps: int = 0
    in_table: bool = True


@dataclass(frozen=True)
class Change:
    """From the last run in a folder to what a file asks for now.

    ``removed`` are the cells that are no more, with the number of their trainings; ``unused`` is
    how many trainings of the ledger, theirs included, no cell of the file uses. All are kept.
    """

    keys: list[KeyChange]
    cells: list[CellChange]
    removed: dict[str, int]
    unused: int
    had_run: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(study: StudyState, records: Mapping[str, Record], text: str | None) -> Change:
    """What the plan keeps of a folder's ledger and what it trains.

    Args:
        text: the experiment file of the folder's last run, None where there was none.
    """
    plan = study.plan
    before, after = (
        _as_written(text, plan.experiment),
        _as_written(plan.experiment.text, plan.experiment),
    )
    ended = {i: record for i, record in records.items() if record.status in ENDED}
    by_cell: dict[str, list[Record]] = {}
    for record in ended.values():
        by_cell.setdefault(record.cell, []).append(record)
    used = {spec.id for state in study.searches.values() for spec in state.specs}
    perhaps: set[str] = set()
    cells = []
    for search in plan.searches:
        maybe = _perhaps(study, search, by_cell.get(search.name, []), used)
        perhaps |= maybe
        cells.append(_cell(study, search, by_cell.get(search.name, []), len(maybe)))
    known = {search.name for search in plan.searches}
    gone = {cell.name for cell in Plan(before).cells} - known if before is not None else set()
    gone |= {name for name in by_cell if name not in known}
    unused = [i for i in ended if i not in used and i not in perhaps]
    in_order = {cell.name: number for number, cell in enumerate(plan.cells)}
    return Change(
        keys=_key_changes(before, after) if before and after else [],
        cells=sorted(cells, key=lambda c: in_order.get(c.cell, -1)),
        removed={name: len(by_cell.get(name, [])) for name in sorted(gone)},
        unused=len(unused),
        had_run=text is not None or bool(records),
    )


def _as_written(text: str | None, now: Experiment) -> Experiment | None:
    """The experiment of a text, its datasets unopened; None where it cannot be read any more."""
    if text is None:
        return None
    try:
        file = ExperimentFile.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValueError, TypeError):
        return None
    return Experiment(source=now.source, file=file, text=text, datasets={}, weights={})


def _cell(study: StudyState, search: Search, records: list[Record], perhaps: int) -> CellChange:
    state = study.searches[search.name]
    to_do = study.trainings_left(search.name)
    kept = sum(study.has_ended(spec.id) for spec in state.specs)
    what: What = "continued" if kept else "new"
    why = ""
    if state.stage == "failed" or state.stage == "blocked":
        what, why = state.stage, state.failure or ""
    elif not study.is_wanted(search.name):
        what = "not asked"
    elif state.stage == "finished" or not (to_do or state.pending):
        what = "finished"
    elif not to_do:
        what, why = "continued", "to be measured on test"
    elif not kept and records:
        what, why = "anew", _why_again(study, search, records)
    if perhaps and what != "not asked":
        assert search.parent is not None
        why = f"{perhaps} kept if {search.parent.name} keeps its winner"
        what = "continued"
    elif not search.in_table and not why:
        why = "for others to start from"
    return CellChange(search.name, what, kept, to_do, why, perhaps, search.in_table)


def _perhaps(study: StudyState, search: Search, records: list[Record], used: set[str]) -> set[str]:
    """Its trainings that are of use again if its parent's winner stays who it was.

    They started from a trial of the parent's that is still one; the first of them is the recipe
    as it is now, or none counts.
    """
    if search.parent is None or study.searches[search.name].stage != "waiting":
        return set()
    trained = {record.id: record for record in records}
    for parent in study.searches[search.parent.name].specs:
        if study.plan.spec(search, {}, 0, parent.id).id in trained:
            found = {i: r for i, r in trained.items() if r.spec.parent == parent.id}
            recipes = [record.spec.recipe for record in found.values()]
            found |= {i: r for i, r in trained.items() if r.spec.seed and r.spec.recipe in recipes}
            return set(found) - used
    return set()


def _why_again(study: StudyState, search: Search, records: list[Record]) -> str:
    """What differs between the cell's first trial as planned and the nearest that was trained."""
    planned = study.plan.spec(search, {}, 0, None)
    nearest = min((_differences(r.spec, planned) for r in records), key=len)
    if not nearest:
        if search.parent is None:
            return ""
        decided = study.searches[search.parent.name].winner is not None
        return f"{search.parent.name} {'has another winner' if decided else 'trains again'}"
    shown = ", ".join(str(change) for change in nearest[:2])
    return shown + (f" and {len(nearest) - 2} more" if len(nearest) > 2 else "")


def _differences(before: TrialSpec, after: TrialSpec) -> list[KeyChange]:
    """Fields of two trials that differ; not the parent, which is another one wherever it trains."""
    one, other = _flat(before.model_dump(mode="json")), _flat(after.model_dump(mode="json"))
    ignored = ("parent", "seed")
    return [
        KeyChange(key, one.get(key, MISSING), other.get(key, MISSING))
        for key in {**one, **other}
        if key not in ignored and one.get(key, MISSING) != other.get(key, MISSING)
    ]


def _key_changes(before: Experiment, after: Experiment) -> list[KeyChange]:
    """Keys of two files that differ, defaults and published recipes filled in; not the grid."""
    one, other = _effective(before), _effective(after)
    for part in ("models", "datasets"):  # one that is new or gone is a line, not all its defaults
        for name in one[part].keys() ^ other[part].keys():
            for content in (one, other):
                if name in content[part]:
                    content[part][name] = "defined"
    one, other = _flat(one), _flat(other)
    return [
        KeyChange(key, one.get(key, MISSING), other.get(key, MISSING))
        for key in {**one, **other}
        if one.get(key, MISSING) != other.get(key, MISSING)
    ]


def _effective(experiment: Experiment) -> dict[str, Any]:
    content = experiment.file.model_dump(mode="json", by_alias=True, exclude={"grid", "storage"})
    for name, model in content["models"].items():
        own = experiment.file.models[name].train
        model["train"] = None if own is None else own.model_dump(mode="json", exclude_unset=True)
        try:
            model["recipe"] = experiment.recipe_of(name).model_dump(mode="json")
        except (ValueError, KeyError, AssertionError):
            continue  # of a version that had other keys: as the file has it
    for name, dataset in content["datasets"].items():
        if isinstance(dataset, str):
            content["datasets"][name] = {"uri": dataset, "pool_unit": None}
        content["datasets"][name]["uri"] = experiment.dataset_uri(name)
    return content


def _flat(content: Any, path: str = "") -> dict[str, Any]:
    """``{"search.trials": 3}``: one entry for each value that is no mapping."""
    if not isinstance(content, dict):
        return {path: content}
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= _flat(value, f"{path}.{key}" if path else str(key))
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    if re.fullmatch(r"[0-9a-f]{20,}", shown):  # a fingerprint
        return shown[:12]
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"


def summary(cells: Iterable[CellChange]) -> dict[str, int]:
    """How many cells there are of each kind of change."""
    count: dict[str, int] = {}
    for cell in cells:
        count[cell.what] = count.get(cell.what, 0) + 1
    return count
