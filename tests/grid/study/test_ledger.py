"""Records: written whole, read back, and an unreadable one is said and trained again."""

from pathlib import Path

from tests.helpers.experiments import experiment_text

from semigrid.data.storage import open_storage
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.study.ledger import Ledger, Record, start_record
from semigrid.grid.study.plan import Plan


def record_of(seed: int = 0) -> Record:
    plan = Plan(load_experiment("file.yaml", text=experiment_text()))
    search = plan.searches[0]
    return start_record(plan.spec(search, {}, seed, None), search.name)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    ledger = Ledger(open_storage(tmp_path))
    record = record_of()
    record.status = "finished"
    record.val = {"acc1": 100 / 3, "ce": 0.1 + 0.2}
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
        assert found.problems == [f"{path}: not a readable record; its trial trains again"]


def test_a_record_under_a_name_that_is_not_its_identity_is_not_believed(tmp_path: Path) -> None:
    ledger = Ledger(open_storage(tmp_path))
    record = record_of()
    ledger.write(record)
    (tmp_path / "ledger" / f"{record.id}.json").rename(tmp_path / "ledger" / f"{'0' * 20}.json")
    assert ledger.read_all() == {}
    assert len(ledger.problems) == 1
