"""What files are at the moment, and how many requests it takes to know."""

import pytest

from semigrid.data.sources import versions
from semigrid.data.sources.items import Item
from semigrid.data.sources.versions import versions_of
from semigrid.data.storage import open_storage


def test_a_folder_is_listed_only_for_many_of_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    where = open_storage("memory://listing/photos")
    for number in range(30):
        where.write(f"{number}.png", b"a")
    items = [Item(str(number), where.location(f"{number}.png")) for number in range(20)]
    listing, listed = versions._listing, []
    monkeypatch.setattr(versions, "_listing", lambda uri: listed.append(uri) or listing(uri))
    alone = versions_of(items)
    assert None not in alone and not listed
    monkeypatch.setattr(versions, "WORTH_LISTING", 20)
    assert None not in versions_of(items) and len(listed) == 1
