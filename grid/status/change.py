"""What a changed experiment file keeps of earlier trainings. Pure: it reads no files."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from semigrid.data.yaml_files import parse_yaml
from semigrid.grid.experiment.experiment import Experiment
from semigrid.grid.experiment.schema import ExperimentFile
from semigrid.grid.study.layout import EXPERIMENT_COPY
from semigrid.grid.study.ledger import ENDED, Record
from semigrid.grid.study.plan import Search, cells_of
from semigrid.grid.study.state import StudyState

# ``anew``: an earlier version of the cell was trained; ``not asked``: left out by --only.
What = Literal["finished", "continued", "new", "anew", "failed", "blocked", "not asked"]
# Keys that change no numbers, and the one below them that does.
_HARMLESS = ("name", "prices", "trackers", "train")
_HARMFUL = ("train.precision",)
# Value of a key that the file lacks; null is a value.
MISSING = "—"
# Longest value shown, in characters.
_SHOWN = 60


@dataclass(frozen=True)
class KeyChange:
    """A key of the file, by its path, with its values; ``MISSING`` where the file lacks it."""

    key: str
    before: Any
    after: Any

    @property
    def changes_numbers(self) -> bool:
        """Whether it can change the results of trainings."""
        top = self.key.split(".")[0]
        own_train = self.key.startswith("models.") and self.key.split(".")[2:3] == ["train"]
        return self.key in _HARMFUL or not (top in _HARMLESS or own_train)

    def __str__(self) -> str:
        harmless = "" if self.changes_numbers else "  (changes no result)"
        return f"{self.key}: {_shown(self.before)} → {_shown(self.after)}{harmless}"


@dataclass(frozen=True)
class CellChange:
    """What becomes of one cell: how many trainings are kept and how many are left, and why.

    Earlier trainings of a cell that ``waits`` are kept if those that it starts or learns from keep
    their winners.
    """

    cell: str
    what: What
    kept: int
    to_do: int
    why: str = ""
    waits: bool = False


@dataclass(frozen=True)
class Change:
    """The difference between a folder's last run and the file as it is now.

    ``removed`` has the number of trainings by cell that the file no longer asks for; ``unused`` is
    how many trainings in the ledger, theirs included, belong to no cell. All stay in the ledger.
    """

    keys: list[KeyChange]
    cells: list[CellChange]
    removed: dict[str, int]
    unused: int
    had_run: bool


def compare(study: StudyState, text: str | None) -> Change:
    """Compares a study with the last run in its folder; ``text`` is that run's experiment file."""
    plan = study.plan
    before = _as_written(text, plan.experiment)
    after = _as_written(plan.experiment.text, plan.experiment)
    ended = {i: record for i, record in study.records.items() if record.status in ENDED}
    by_cell: dict[str, list[Record]] = {}
    for record in ended.values():
        by_cell.setdefault(record.cell, []).append(record)
    used = {spec.id for state in study.searches.values() for spec in state.specs}
    cells: list[CellChange] = []
    waiting: set[str] = set()
    for search in plan.searches:  # those that others need come first
        cells.append(_cell(study, search, by_cell.get(search.name, []), waiting))
        waiting |= {search.name} if cells[-1].waits else set()
    known = {search.name for search in plan.searches}
    cells_before = cells_of(before.file) if before is not None else []
    gone = ({cell.name for cell in cells_before} | by_cell.keys()) - known
    unused = [i for i, r in ended.items() if i not in used and r.cell not in waiting]
    in_order = {cell.name: number for number, cell in enumerate(plan.cells)}
    return Change(
        keys=_key_changes(before, after) if before and after else [],
        cells=sorted(cells, key=lambda c: in_order.get(c.cell, -1)),
        removed={name: len(by_cell.get(name, [])) for name in sorted(gone)},
        unused=len(unused),
        had_run=text is not None or bool(study.records),
    )


def _as_written(text: str | None, now: Experiment) -> Experiment | None:
    """The experiment of a text, without its datasets; None if this version cannot read it."""
    if text is None:
        return None
    try:
        file = ExperimentFile.model_validate(parse_yaml(EXPERIMENT_COPY, text, "no experiment"))
    except (ValueError, TypeError):
        return None
    named = {entry.model for entry in file.grid} | {m.parent for m in file.models.values()}
    named |= {teacher for model in file.models.values() for teacher in model.teachers}
    if not named <= {None, *file.models}:
        return None
    return Experiment(source=now.source, file=file, text=text, datasets={}, weights={})


def _cell(
    study: StudyState, search: Search, records: list[Record], waiting: Collection[str]
) -> CellChange:
    """The change of one cell; ``records`` are its trainings that have ended.

    ``waiting`` are the cells before it that wait.
    """
    state = study.searches[search.name]
    to_do = study.trainings_left(search.name)
    kept = study.trainings_done(search.name)
    what: What = "continued" if kept else "new"
    why, waits = "", False
    if state.stage == "failed" or state.stage == "blocked":
        what, why = state.stage, state.failure or ""
    elif not study.is_wanted(search.name):
        what = "not asked"
    elif state.stage == "finished" or not (to_do or state.pending):
        what = "finished"
    elif not to_do:
        what, why = "continued", "to be evaluated on test"
    elif not kept and records:
        nearest = min((_differences(study, search, record) for record in records), key=len)
        what, why = "anew", ", ".join(map(str, nearest[:2]))
        if len(nearest) > 2:
            why += f" and {len(nearest) - 2} more"
        if search.sources and not nearest:
            why, waits = _because_of_sources(study, search, records, waiting)
            what = "continued" if waits else "anew"
    if not search.in_table and not why:
        why = "for others to start from"
    return CellChange(search.name, what, kept, to_do, why, waits)


def _because_of_sources(
    study: StudyState, search: Search, records: list[Record], waiting: Collection[str]
) -> tuple[str, bool]:
    """What those that a cell starts or learns from make of its trainings, and whether it waits."""
    used = {trial_id for record in records for trial_id in record.spec.sources}
    states = [study.searches[source.name] for source in search.sources]
    undecided = [state.search.name for state in states if state.winner is None]
    other = [s.search.name for s in states if s.winner is not None and not s.chosen & used]
    again = [n for n in undecided if not study.trainings_done(n) and n not in waiting]
    if other:
        each = "has another winner" if len(other) == 1 else "have other winners"
        return f"{' and '.join(other)} {each}", False
    if again:
        return f"{' and '.join(again)} {'trains' if len(again) == 1 else 'train'} again", False
    if not undecided:
        return "", False
    keep = "keeps its winner" if len(undecided) == 1 else "keep their winners"
    return f"kept if {' and '.join(undecided)} {keep}", True


def _differences(study: StudyState, search: Search, record: Record) -> list[KeyChange]:
    """Fields in which an earlier training of a cell differs from what is planned.

    Those that it starts or learns from are compared by their cells: as trials they differ wherever
    they are trained again.
    """
    ignored = {"parent", "teachers", "seed"}
    before = record.spec.model_dump(mode="json", exclude=ignored)
    after = study.plan.spec(search, {}, 0, None).model_dump(mode="json", exclude=ignored)
    known = [study.records[i].cell for i in record.spec.sources if i in study.records]
    if len(known) == len(record.spec.sources):
        before["from"] = ", ".join(sorted(known))
        after["from"] = ", ".join(sorted(source.name for source in search.sources))
    return _changes(before, after)


def _key_changes(before: Experiment, after: Experiment) -> list[KeyChange]:
    """Keys in which two files differ, but for the cells; defaults and recipes are filled in."""
    one, other = _effective(before), _effective(after)
    for part in ("models", "datasets"):  # a new or removed one is a line, not all its defaults
        for name in one[part].keys() ^ other[part].keys():
            for content in (one, other):
                if name in content[part]:
                    content[part][name] = "defined"
    return _changes(one, other)


def _changes(before: dict[str, Any], after: dict[str, Any]) -> list[KeyChange]:
    one, other = _flat(before), _flat(after)
    return [
        KeyChange(key, one.get(key, MISSING), other.get(key, MISSING))
        for key in {**one, **other}
        if one.get(key, MISSING) != other.get(key, MISSING)
    ]


def _effective(experiment: Experiment) -> dict[str, Any]:
    left_out = {"grid", "storage"}
    content = experiment.file.model_dump(mode="json", by_alias=True, exclude=left_out)
    for name, model in content["models"].items():
        own = experiment.file.models[name].train
        model["train"] = {} if own is None else own.model_dump(mode="json", exclude_unset=True)
        try:
            model["recipe"] = experiment.recipe_of(name).model_dump(mode="json")
        except (ValueError, KeyError, AssertionError):
            continue  # a recipe of another version stays as the file has it
    for name in content["datasets"]:
        content["datasets"][name]["uri"] = experiment.dataset_uri(name)
    return content


def _flat(content: Any, path: str = "") -> dict[str, Any]:
    """``{"search.trials": 3}``: one entry for each value that is no mapping."""
    if not isinstance(content, dict):
        return {path: content}
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{path}.{key}" if path else str(key))
    return flat


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    if re.fullmatch(r"[0-9a-f]{20,}", shown):  # a fingerprint
        return shown[:12]
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"
