"""Damaged experiment files: a message that names the key or the line, or a plan; nothing else."""

import contextlib
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helpers.command import semigrid
from tests.helpers.experiments import SMALL
from tests.helpers.scheduling import study_of

from semigrid.data.errors import InputError
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.experiment.schema import ExperimentFile
from semigrid.grid.study.plan import Plan

DAMAGES = 250  # in each of four parts, when there is time

# a file that says nearly all that can be said
FULL: dict[str, Any] = {
    **SMALL,
    "models": {
        **SMALL["models"],
        "resnet": {
            "backbone": "resnet10t",
            "method": "finetune",
            "pretrained": False,
            "recipe": {"img_size": 16, "epochs": 3, "warmup_epochs": 1, "batch_size": 32},
            "train": {"workers": 2, "gpus_per_worker": 0.5},
        },
    },
    "grid": [*SMALL["grid"], {"model": "resnet", "labels": ["100%"], "datasets": ["digits"]}],
    "datasets": {"digits": {"uri": "builtin://digits", "pool_unit": 300}},
    "search": {
        "trials": 3,
        "wave": 2,
        "sampler": "tpe",
        "early_stopping": True,
        "reduction_factor": 3,
        "warm_start": True,
        "space": {
            "finetune": {"base_lr": [0.01, 0.1], "weight_decay": {"times": 4}},
            "semi-vit": {"confidence_threshold": {"around": 0.5, "plus": 0.1}, "base_lr": None},
        },
    },
    "seeds": 2,
    "train": {
        "workers": 1,
        "cpus_per_worker": 1,
        "gpus_per_worker": 0,
        "precision": "fp32",
        "stream": "auto",
        "loader_workers": 0,
        "checkpoint_seconds": 50,
        "micro_batch": None,
        "compile": False,
    },
    "prices": {"cpu": 0.04, "NVIDIA A10G": 1.2},
    "storage": "results",
}
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 3, 10**6, 10**30, 10**400, -(10**30), 2**63, 0.0, -0.5, 1e308,
    5e-324,
    math.nan, math.inf, -math.inf, "", " ", "\t", "0", "nan", "-1", "é", "名前", "\u202e", "\x00",
    "\ud83d", "a" * 5000, "../..", "/", "s3://", "memory://x", "file:///nowhere", "builtin://",
    "builtin://digits?x=1", "~", "%", "1e9%", "100%", "0%", "-5%", "١٠٠%", "*", "[", "{}", "!!",
    [], {}, [[]], [{}], [None], {"": ""}, {None: 1}, {1: 2}, {True: 1}, [0, 0], [1, 2, 3], ["a"],
    {"around": math.nan, "times": 2}, {"times": 1e308}, {"plus": 1e400}, {"times": 2, "plus": 1},
    [math.nan, 1], [0.1, math.inf], [1e-320, 1e300], {"uri": "builtin://digits"}, {"uri": None},
    b"bytes", {"a": {"b": {"c": {"d": {}}}}}, "2020-01-01", "vit_base_patch16_224", "semi", "vit",
]  # fmt: skip


def paths(content: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of every value in it, from the top."""
    items: Any = ()
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    return [path for key, value in items for path in [(*here, key), *paths(value, (*here, key))]]


def at(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


def copy_of(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: copy_of(value) for key, value in content.items()}
    return [copy_of(value) for value in content] if isinstance(content, list) else content


def replaced(content: Any, rng: random.Random) -> None:
    path = rng.choice(paths(content))
    at(content, path[:-1])[path[-1]] = copy_of(rng.choice(VALUES))


def deleted(content: Any, rng: random.Random) -> None:
    path = rng.choice(paths(content))
    del at(content, path[:-1])[path[-1]]


def renamed(content: Any, rng: random.Random) -> None:
    path = rng.choice([p for p in paths(content) if isinstance(at(content, p[:-1]), dict)])
    section = at(content, path[:-1])
    name = str(path[-1])
    place = rng.randrange(len(name))
    new: Any = rng.choice(
        [name[:place] + name[place + 1 :], name + "s", name.upper(), "", "é", 7, None, "a.b", "x y"]
    )
    section[new] = section.pop(path[-1])


def moved(content: Any, rng: random.Random) -> None:
    one, other = rng.choice(paths(content)), rng.choice(paths(content))
    at(content, one[:-1])[one[-1]] = copy_of(at(content, other))


def doubled(content: Any, rng: random.Random) -> None:
    path = rng.choice([p for p in paths(content) if isinstance(at(content, p[:-1]), list)])
    at(content, path[:-1]).append(copy_of(at(content, path)))


def nested(content: Any, rng: random.Random) -> None:
    path = rng.choice(paths(content))
    value = at(content, path)
    for _ in range(rng.choice([1, 2, 50])):
        value = rng.choice([[value], {"a": value}])
    at(content, path[:-1])[path[-1]] = value


def bytes_of(content: Any) -> bytes:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode(
        "utf-8", "surrogatepass"
    )


def cut(text: bytes, rng: random.Random) -> bytes:
    return text[: rng.randrange(len(text))]


def flipped(text: bytes, rng: random.Random) -> bytes:
    found = bytearray(text)
    for _ in range(rng.choice([1, 1, 3, 20])):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def inserted(text: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(text))
    pieces = [
        b"&a ", b"*a ", b"*missing", b"<<: ", b"<<: *a\n", b"? ", b"- ", b": ", b"&a [*a]",
        b"!!binary x", b"!!python/object:x ", b"!!set {a}", b"!x ", b"|\n", b">\n", b"%YAML 9\n",
        b"---\n", b"...\n", b"\t", b"\r", b"\x00", b"\x85", b"\xef\xbb\xbf", b"\xff", b"'", b'"',
        b"a: " * 50, b"1_000", b"0o17", b"1:30:00", b".nan", b".inf", b"~",
        b"2001-99-99", b"=",
    ]  # fmt: skip
    return text[:place] + rng.choice(pieces) + text[place:]


def repeated_line(text: bytes, rng: random.Random) -> bytes:
    lines = text.splitlines(keepends=True)
    place = rng.randrange(len(lines))
    return b"".join(lines[: place + 1] + lines[place:])


DAMAGE: list[Callable[[Any, random.Random], None]] = [
    replaced, replaced, replaced, deleted, renamed, moved, doubled, nested
]  # fmt: skip
TEXT_DAMAGE = [cut, flipped, inserted, repeated_line]


def damaged(seed: int) -> bytes:
    rng = random.Random(seed)
    content = copy_of(FULL if rng.random() < 0.8 else SMALL)
    if rng.random() < 0.7:
        for _ in range(rng.choice([1, 1, 2, 4])):
            with contextlib.suppress(IndexError):  # nothing of that kind is left
                rng.choice(DAMAGE)(content, rng)
        try:
            return bytes_of(content)
        except yaml.YAMLError:
            pass  # what YAML cannot even write
        content = copy_of(FULL)
    return rng.choice(TEXT_DAMAGE)(bytes_of(content), rng)


KEYS = set(ExperimentFile.model_fields) | {"from"}


def names_its_place(message: str) -> bool:
    """Whether a message says where: a key of the file, or a line of the YAML."""
    where = re.sub(r"^(.*?)file\.yaml: ", "", message)
    first = re.split(r"[.:]", where)[0]
    known = (
        "unknown key",
        "a key must be text",
        "a mapping with",
    )
    at_line = re.search(r"(line|position) \d+", where)
    return first in KEYS or any(words in where for words in known) or bool(at_line)


@pytest.mark.parametrize("part", range(4))
def test_damaged_files_are_refused_with_a_place_or_make_a_plan(
    part: int, thorough: bool, tmp_path: Path
) -> None:
    count = DAMAGES if thorough else DAMAGES // 8
    refused = 0
    for seed in range(part * count, (part + 1) * count):
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "file.yaml").write_bytes(damaged(seed))
        done = semigrid("status", "file.yaml", cwd=folder)
        code, said = done.returncode, done.stderr
        shown = f"seed {seed}: {code}: {said[:2000]}\n{damaged(seed)[:3000]!r}"
        assert code in (0, 2), shown
        # nothing was started or written
        assert [path.name for path in folder.iterdir()] == ["file.yaml"], shown
        if code == 2:
            refused += 1
            assert said.strip() and "Traceback" not in said, shown
            assert names_its_place(said), shown
            assert max(map(len, said.splitlines())) < 2000, shown
    assert count / 2 < refused < count


def test_what_is_accepted_makes_a_plan(thorough: bool) -> None:
    accepted = 0
    for seed in range(300 if thorough else 100):
        with contextlib.suppress(InputError, UnicodeDecodeError):
            plan = Plan(load_experiment("file.yaml", text=damaged(seed).decode()))
            assert plan.counts()["trainings"] > 0
            assert study_of(plan).has_jobs
            accepted += 1
    assert accepted > 3


def test_the_undamaged_file_makes_a_plan() -> None:
    plan = Plan(load_experiment("file.yaml", text=bytes_of(FULL).decode()))
    assert plan.counts()["cells"] == 5
