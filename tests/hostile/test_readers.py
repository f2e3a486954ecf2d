"""Each reader on some damaged files, and on all that it once handled wrongly."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from tests.hostile.fuzz import FOUND, try_one
from tests.hostile.readers import Reader, readers
from tests.hostile.watch import Watch

from semigrid.data.schema import Dataset

READERS = {reader.name: reader for reader in readers()}


@pytest.fixture(scope="module")
def watch(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Watch:
    import timm  # noqa: F401  # PyTorch and others make folders when they are imported

    return Watch(tmp_path_factory.mktemp("watched"))


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused(name: str, watch: Watch) -> None:
    reader = READERS[name]

    # whole commands run on a file of a run's folder
    examples = settings().max_examples // (
        1 if reader.share >= 0.5 else 5 if reader.share >= 0.1 else 15
    )

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(reader.contents)
    def check(content: bytes) -> None:
        try_one(reader, content, watch)

    check()


def found() -> list[tuple[Reader, Path]]:
    return [
        (READERS[os.path.basename(folder)], Path(folder, name))
        for folder, _, names in sorted(os.walk(FOUND))
        for name in sorted(names)
    ]


@pytest.mark.parametrize(("reader", "file"), found(), ids=lambda part: getattr(part, "name", None))
def test_what_was_handled_wrongly_once_is_not_again(
    reader: Reader, file: Path, watch: Watch
) -> None:
    try_one(reader, file.read_bytes(), watch)
