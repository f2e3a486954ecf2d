"""Every attack of the collection, by the command line in this process."""

from pathlib import Path

import pytest
from tests.helpers.command import semigrid
from tests.hostile.attacks import ATTACKS, Attack
from tests.hostile.outcome import SECRET, fault
from tests.hostile.sources import class_folders
from tests.hostile.watch import Watch, little_memory

from semigrid.data.catalog import open_dataset


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """All that a build, a check and a listing import, before memory becomes scarce."""
    folder = tmp_path_factory.mktemp("warm")
    build = ["data", "build", *class_folders(folder, {}), "set"]
    for command in (build, ["data", "check", "set"], ["data", "show", "set"]):
        assert semigrid(*command, cwd=folder).returncode == 0
    open_dataset("builtin://digits")


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_ends_as_it_should(
    attack: Attack, warm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    command = attack.command(tmp_path)
    with little_memory(), Watch(tmp_path):
        done = semigrid(*command, cwd=tmp_path)
    said = done.stdout + done.stderr
    assert fault(attack, done.returncode, said) is None, said
