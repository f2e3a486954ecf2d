"""Records: written whole, read back, and an unreadable one is said and trained again."""

import json
import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.experiments import experiment_text
from tests.helpers.scores import alike

from semigrid.data.storage import open_storage
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.study.ledger import Ledger, Record, start_record
from semigrid.grid.study.plan import Plan
from semigrid.trainers.recipe import RECIPE_VERSION


def record_of(seed: int = 0) -> Record:
    plan = Plan(load_experiment("file.yaml", text=experiment_text()))
    search = plan.searches[0]
    return start_record(plan.spec(search, {}, seed, None), search.name)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    ledger = Ledger(open_storage(tmp_path))
    record = record_of()
    record.status = "finished"
    record.val = alike({"acc1": 100 / 3, "ce": 0.1 + 0.2})
    ledger.write(record)
    assert ledger.read_all() == {record.id: record}
    assert ledger.read(record.id) == record
    assert record.versions["timm"] and record.started_at > 0


def test_no_record_is_none(tmp_path: Path) -> None:
    assert Ledger(open_storage(tmp_path)).read("0" * 20) is None
    assert Ledger(open_storage(tmp_path)).read_all() == {}


def test_a_record_cut_anywhere_is_unreadable_and_hurts_no_other(tmp_path: Path) -> None:
    ledger = Ledger(open_storage(tmp_path))
    whole, cut = record_of(0), record_of(1)
    ledger.write(whole)
    ledger.write(cut)
    path = tmp_path / "ledger" / f"{cut.id}.json"
    content = path.read_bytes()
    for length in range(0, len(content) - 2, 97):
        path.write_bytes(content[:length])
        found = Ledger(open_storage(tmp_path))
        assert found.read_all() == {whole.id: whole}
        (problem,) = found.problems
        assert problem.startswith(f"{path}: not a readable record (")
        assert problem.endswith("); its trial trains again")


def test_a_record_under_a_name_that_is_not_its_identity_is_not_believed(tmp_path: Path) -> None:
    ledger = Ledger(open_storage(tmp_path))
    record = record_of()
    ledger.write(record)
    (tmp_path / "ledger" / f"{record.id}.json").rename(tmp_path / "ledger" / f"{'0' * 20}.json")
    assert ledger.read_all() == {}
    assert len(ledger.problems) == 1


def test_trainings_of_other_versions_are_one_line_each_version(tmp_path: Path) -> None:
    ledger = Ledger(open_storage(tmp_path))
    own = record_of(0)
    ledger.write(own)
    for number, (version, count) in enumerate({3: 720, RECIPE_VERSION + 1: 2}.items()):
        content = json.loads(record_of(1).model_dump_json())
        content["spec"]["recipe_version"] = version
        content["spec"]["recipe"]["min_mask_rate"] = 0.01  # of another version's recipe
        for i in range(count):
            name = f"{number}{i:03d}{'0' * 16}.json"
            (tmp_path / "ledger" / name).write_text(json.dumps(content))
    assert ledger.read_all() == {own.id: own}
    where = tmp_path / "ledger"
    now = f"now {RECIPE_VERSION}) are not used; their cells train again"
    assert ledger.problems == [
        f"{where}: 720 trainings of an earlier version of semigrid (recipe 3, {now}",
        f"{where}: 2 trainings of a later version of semigrid (recipe {RECIPE_VERSION + 1}, {now}",
    ]


EVALUATION = {"step": 3, "loss": 1.0}
EVALUATION |= alike({f"{n}_{s}": 1.0 for n in ("student", "ema") for s in ("acc1", "ce")})


def finished() -> dict[str, Any]:
    """A finished record's content."""
    content: dict[str, Any] = json.loads(record_of().model_dump_json())
    test = alike({"acc1": 50.0, "acc5": 100.0, "ce": 1.0})
    result = {"val": alike({"acc1": 50.0, "ce": 1.0}), "history": [dict(EVALUATION)], "test": test}
    return content | result | {"status": "finished", "finished_at": content["started_at"]}


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("history.0.student_acc1", None, "history.0: student_acc1 is missing"),
        ("history.0.ema_ce", float("nan"), "history.0.ema_ce: Input should be a finite number"),
        ("history.0.step", 0, "history.0: step cannot be 0"),
        ("history.0.ema_acc1", 100.5, "history.0: ema_acc1 cannot be 100.5"),
        ("val", {}, "val: acc1 is missing"),
        ("val.acc1", -3, "val: acc1 cannot be -3.0"),
        ("val.ce", float("inf"), "val.ce: Input should be a finite number"),
        ("test", {"ce": 1.0}, "test: acc1 is missing"),
        ("test.acc5", 101, "test: acc5 cannot be 101.0"),
        ("test.ce", 1e308, "test: ce cannot be 1e+308"),
        ("val.ce", -1, "val: ce cannot be -1"),
        ("history.0.ema_ce", 41, "history.0: ema_ce cannot be 41"),
        ("history.0.loss", -3.5e38, "history.0: loss cannot be -3.5e+38"),
        ("history.0.mask_rate", 1e308, "history.0: mask_rate cannot be 1e+308"),
        ("history.0.teacher_gap", 1e308, "history.0: teacher_gap cannot be 1e+308"),
        ("history.0.pseudo_entropy", 1e308, "history.0: pseudo_entropy cannot be 1e+308"),
        ("speed", [{"images_per_s": 1.0}], "speed.0: step is missing"),
        ("speed", [{"step": 1, "images_per_s": 1e308}], "speed.0: images_per_s cannot be 1e+308"),
        ("predictions_file", {"size": 10**13, "sha256": ""}, "predictions_file.size: "),
        ("started_at", 1e20, "started_at: Input should be less than or equal to 100000000000"),
        ("finished_at", -1e18, "finished_at: Input should be greater than or equal to 0"),
        ("seconds", float("inf"), "seconds: Input should be a finite number"),
        ("device_seconds.cpu", float("nan"), "device_seconds.cpu: Input should be"),
        ("device_seconds", {"cpu": -1}, "device_seconds.cpu: Input should be"),
        ("device_seconds", {"cpu": 1e300}, "device_seconds.cpu: Input should be"),
        ("best_weights", "../x", "best_weights: Input should be 'student' or 'ema', not '../x'"),
        ("best_step", -1, "best_step: Input should be"),
        ("weights_file", {"size": "x", "sha256": ""}, "weights_file.size: Input should be"),
        ("spec.seed", 1, "of another trial"),
        ("spec.backbone_args", {"a": "LONG"}, ""),
        ("spec.recipe.steps", None, "steps is missing"),
        ("status", "ended", "status: Input should be"),
        ("cell", None, "cell: Field required"),
    ],
)
def test_what_no_run_writes_is_named_and_left_out(
    tmp_path: Path, path: str, value: Any, problem: str
) -> None:
    trial, text = whole()
    content = json.loads(text)
    (tmp_path / "ledger").mkdir()
    file = tmp_path / "ledger" / f"{trial}.json"
    file.write_text(json.dumps(content))
    assert list(Ledger(open_storage(tmp_path)).read_all()) == [trial]
    at: Any = content
    *folders, last = path.split(".")
    for part in folders:
        at = at[int(part)] if isinstance(at, list) else at[part]
    at[last] = value
    if value is None and last != "steps":
        del at[last]
    # a number that Python refuses to write
    file.write_text(json.dumps(content).replace('"LONG"', "1" + "0" * 5000))
    ledger = Ledger(open_storage(tmp_path))
    assert ledger.read_all() == {}
    (said,) = ledger.problems
    assert said.startswith(f"{file}: not a readable record (") and problem in said
    assert len(said) < 500


def test_a_methods_own_numbers_have_no_range_of_semigrids(tmp_path: Path) -> None:
    ledger, record = Ledger(open_storage(tmp_path)), record_of()
    own = {"mask_rate": 37.0, "pseudo_entropy": -2.0, "spread": 1e30}
    record.history = [{**EVALUATION, **own}]
    ledger.write(record)
    found = ledger.read(record.id)
    assert found is not None and found.history[0] == {**EVALUATION, **own}


def test_a_training_that_did_not_finish_has_plausible_scores_too(tmp_path: Path) -> None:
    trial, text = whole()
    file = tmp_path / "ledger" / f"{trial}.json"
    file.parent.mkdir()
    file.write_text(json.dumps(json.loads(text) | {"status": "stopped", "val": {"acc1": 1e308}}))
    assert Ledger(open_storage(tmp_path)).read_all() == {}


def test_files_that_are_no_records_are_not_read(tmp_path: Path) -> None:
    ledger = Ledger(open_storage(tmp_path))
    ledger.write(record := record_of())
    os.mkfifo(tmp_path / "ledger" / f"{'1' * 20}.json")  # nobody would ever write into it
    with (tmp_path / "ledger" / f"{'2' * 20}.json").open("wb") as file:
        file.truncate(10**12)  # a terabyte of zeros, which no disk has to hold
    (tmp_path / "ledger" / f"{'3' * 20}.json").symlink_to("/dev/zero")
    assert list(ledger.read_all()) == [record.id]
    assert len(ledger.problems) == 3
    assert "larger than 67,108,864 bytes" in ledger.problems[1]
    assert ledger.read("1" * 20) is None


@cache
def whole() -> tuple[str, str]:
    return record_of().id, json.dumps(finished())


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)


@given(name=st.sampled_from(sorted(Record.model_fields)), value=json_values)
def test_any_value_anywhere_is_a_record_or_a_message(name: str, value: Any) -> None:
    trial_id, text = whole()
    content = json.dumps(json.loads(text) | {name: value})
    ledger = Ledger(open_storage("nowhere"))
    others = Counter[int]()
    record = ledger._parse(trial_id, content.encode(), others)
    assert (record is None) == bool(ledger.problems or others)
    if record is not None:
        json.loads(record.model_dump_json(), parse_constant=pytest.fail)
