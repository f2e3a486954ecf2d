"""A memory of ``suggest_wave``, so that a large search opens quickly.

A suggestion is a function of its inputs, and Optuna takes its time for it: without a memory every
look at a grid of thousands of trials would suggest all of them again.
"""

import contextlib
import hashlib
import json
from dataclasses import asdict

import optuna
from pydantic import BaseModel, ValidationError

from semigrid.data.storage import Storage
from semigrid.grid.study.layout import SUGGESTED, suggested_file
from semigrid.grid.study.search import Wave, suggest_wave

# suggestions of one search, by the hash of what they depend on
Remembered = dict[str, list[dict[str, float]]]


class _File(BaseModel):
    sha256: str  # of the suggestions: a changed digit would be another trial
    suggested: Remembered


class Suggestions:
    """A memory in the run's folder, one file per search; without it only time is lost.

    Args:
        writes: keep new suggestions, as does the run that holds the folder's lock.
    """

    def __init__(self, storage: Storage, writes: bool = False):
        self.storage, self.writes = storage, writes
        self._by_search: dict[str, Remembered] = {}
        self._contents: dict[str, bytes] | None = None

    def suggest(self, wave: Wave) -> list[dict[str, float]]:
        """The same as ``suggest_wave``."""
        if wave.identity not in self._by_search:
            self._by_search[wave.identity] = self._read(suggested_file(wave.identity))
        remembered, key = self._by_search[wave.identity], _key(wave)
        if key not in remembered:
            remembered[key] = suggest_wave(wave)
            if self.writes:
                self._write(suggested_file(wave.identity), remembered)
        return [dict(params) for params in remembered[key]]

    def _write(self, name: str, remembered: Remembered) -> None:
        content = _File(sha256=_hash(remembered), suggested=remembered).model_dump_json()
        with contextlib.suppress(OSError):  # a full disk costs only time here
            self.storage.write(name, content.encode())

    def _read(self, name: str) -> Remembered:
        """A search's suggestions; none if the file is missing or damaged."""
        with contextlib.suppress(OSError, ValidationError):
            if self._contents is None:  # all files at once: a bucket answers side by side
                names = self.storage.names(SUGGESTED, ".json")
                self._contents = self.storage.read_all(f"{SUGGESTED}/{name}" for name in names)
            content = _File.model_validate_json(self._contents.pop(name, b""))
            if content.sha256 == _hash(content.suggested):
                return content.suggested
        return {}


def _key(wave: Wave) -> str:
    recipe = wave.recipe.model_dump(mode="json")
    return _hash(asdict(wave) | {"recipe": recipe, "optuna": optuna.__version__})


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
