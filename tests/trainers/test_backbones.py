"""timm's names, kept in this machine's cache."""

from importlib.metadata import version
from pathlib import Path

import pytest

from semigrid.trainers.backbones import timm_names


def test_a_damaged_cache_of_names_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMIGRID_CACHE", str(tmp_path))
    cache = tmp_path / f"timm-{version('timm')}.json"
    for damaged in ('{"architectures": {"vit', "[]", "{}"):
        cache.write_text(damaged)
        timm_names.cache_clear()
        assert "vit_base_patch16_224" in timm_names().architectures
    timm_names.cache_clear()
    assert "vit_base_patch16_224" in timm_names().architectures
