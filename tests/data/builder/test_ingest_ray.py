"""A build in several processes."""

from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings


def test_what_a_process_of_a_build_meets_is_said_as_it_is(cluster: None, tmp_path: Path) -> None:
    from semigrid.data.builder.chunks import Chunk
    from semigrid.data.builder.clean import CleanSettings
    from semigrid.data.builder.ingest_ray import in_processes

    (tmp_path / "file").write_text("no folder")
    chunk = Chunk(0, 0, (), str(tmp_path / "file" / "set"), 0, 1, CleanSettings())
    with pytest.raises(NotADirectoryError, match="file") as error:
        list(in_processes(2)([chunk]))
    assert type(error.value) is NotADirectoryError, "dressed up by Ray"


def test_two_processes_build_the_dataset_of_one(cluster: None, tmp_path: Path) -> None:
    from tests.helpers.shop import SETTINGS, shop

    from semigrid.data.builder.ingest import build_dataset
    from semigrid.data.builder.ingest_ray import in_processes
    from semigrid.data.sources.files import folder_items

    items = folder_items(str(shop(tmp_path / "shop")))
    alone, _ = build_dataset(str(tmp_path / "one"), items, SETTINGS)
    seen: list[int] = []
    together, _ = build_dataset(
        str(tmp_path / "two"),
        items,
        SETTINGS,
        workers=in_processes(2),
        progress=lambda done, total: seen.append(done),
    )
    assert together.manifest == alone.manifest
    assert seen[0] == 0 and seen[-1] == 60 and seen == sorted(seen)
