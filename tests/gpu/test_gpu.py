"""The GPU's check in small, on the CPU, and what becomes of parts that fail."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.gpu.parts import PROCESSES, Line, Part, Setup, failed_unless, run_parts

ROOT = Path(__file__).parents[2]


def check(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.gpu", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_all_parts_without_ray_in_small(tmp_path: Path) -> None:
    names = ["losses", "speed", "feeding", "evaluation", "memory", "saving", "resume"]
    output = tmp_path / "found.json"
    done = check("--device", "cpu", "--tiny", "--output", str(output), "--only", *names)
    parts = {part["name"]: part for part in json.loads(output.read_text())["parts"]}
    said = done.stdout + done.stderr + str([part["output"] for part in parts.values()])
    assert done.returncode == 0, said
    assert list(parts) == names and {part["verdict"] for part in parts.values()} == {"ok"}, said
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    for name in names:
        assert any(line.strip().startswith(f"{name}, ") for line in lines), done.stdout
        for line in parts[name]["lines"]:
            assert any(line["what"] in each and line["found"] in each for each in lines), line
    values = {line["what"]: line["values"] for part in parts.values() for line in part["lines"]}
    assert values["most rows in a pass"]["micro_batch"] == 6
    assert values["resumed from its checkpoint"]["step"] > 0
    assert values["second checkpoint, 0.0 GB"]["bytes"] > 10**6


def test_without_a_gpu_nothing_is_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # the processes of the next test import this file, and should not import all parts
    from tests.gpu.__main__ import device_facts, main

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_facts("cuda") == {}
    monkeypatch.setattr("sys.argv", ["tests.gpu"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 77
    said = "no GPU: torch finds no CUDA device, so nothing was checked\n"
    assert capsys.readouterr() == (said, "")


def raising(setup: Setup) -> Iterator[Line]:
    yield Line("before it", "found")
    raise RuntimeError("no kernel\nfor this device")


def hanging(setup: Setup) -> Iterator[Line]:
    yield Line("before it", "found")
    (setup.folder / "child").write_text(str(subprocess.Popen(["sleep", "600"]).pid))
    time.sleep(600)


def dying(setup: Setup) -> Iterator[Line]:
    yield Line("before it", "found")
    os.kill(os.getpid(), signal.SIGSEGV)


def wrong(setup: Setup) -> Iterator[Line]:
    yield Line("a number", "1", "2", failed_unless(setup.tiny))


def slow(setup: Setup) -> Iterator[Line]:
    yield Line("a rate", "1", *setup.goal("2", 1 >= 2))


def silent(setup: Setup) -> Iterator[Line]:
    yield from ()


def test_a_part_that_fails_hides_no_other(tmp_path: Path) -> None:
    parts = [Part(each.__name__, 60, each) for each in (raising, dying, wrong, silent, slow)]
    parts.insert(1, Part("hanging", 3, hanging))
    parts.append(Part("late", 600, slow))
    PROCESSES.set_forkserver_preload([])
    found = {each.name: each for each in run_parts(parts, Setup("cpu", False, tmp_path), 400)}
    assert {name: each.verdict for name, each in found.items()} == {
        "raising": "failed", "hanging": "failed", "dying": "failed", "wrong": "failed",
        "silent": "failed", "slow": "missed", "late": "left out",
    }  # fmt: skip
    assert found["raising"].error == "for this device"
    assert "RuntimeError: no kernel" in found["raising"].output
    assert found["hanging"].error == "took longer than its 3 s"
    assert found["dying"].error == "killed by signal 11"
    assert found["silent"].error == "found nothing"
    assert found["late"].error.startswith("needs up to 600 s")
    for name in ("raising", "hanging", "dying"):  # what they had found is kept
        assert [line.what for line in found[name].lines] == ["before it"]
    child = (tmp_path / "child").read_text()
    assert (
        not Path(f"/proc/{child}").exists()
        or "State:\tZ" in Path(f"/proc/{child}/status").read_text()
    )


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")  # Ray's own warnings
def test_the_parts_with_ray_in_small(cluster: None, tmp_path: Path) -> None:
    from tests.gpu.feeding import fed
    from tests.gpu.group import beside_one_process

    from semigrid.trainers.options import TrainOptions

    setup = Setup("cpu", True, tmp_path)
    line = beside_one_process(setup)
    assert line.verdict == "ok" and len(line.values["found"]) == 2, line
    _, rate, waited = fed("through Ray Data", setup, TrainOptions(stream="ray"))
    assert 0 <= rate.values["idle_seconds"] < rate.values["seconds"] and " of " in waited.found
