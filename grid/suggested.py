"""What was suggested before: ``suggest_wave`` with a memory, so that a large search opens quickly.

A suggestion is a function of its inputs and takes Optuna a while; a grid of thousands of trials
would be suggested anew, wave by wave, whenever someone looks at it.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import optuna
from pydantic import TypeAdapter, ValidationError

from data.storage import Storage
from grid.search import Space, Tried, suggest_wave
from trainers.recipe import Recipe

FOLDER = "suggested"
Params = list[dict[str, float]]
_FILE = TypeAdapter(dict[str, Params])


class Suggestions:
    """A memory in the experiment's folder, a file a search; deleted or damaged, it costs time only.

    Args:
        writes: keep new suggestions, as the run does that holds the folder's lock.
    """

    def __init__(self, storage: Storage, writes: bool = False):
        self.storage, self.writes = storage, writes
        self._known: dict[str, dict[str, Params]] = {}

    def suggest(
        self,
        name: str,
        recipe: Recipe,
        space: Space,
        sampler: str,
        earlier: Sequence[Tried],
        count: int,
        identity: str,
        starts: Sequence[dict[str, float]] = ({},),
    ) -> Params:
        """The same as ``grid.search.suggest_wave``."""
        inputs = {
            "recipe": recipe.model_dump(mode="json"),
            "space": space,
            "sampler": sampler,
            "earlier": [asdict(tried) for tried in earlier],
            "count": count,
            "starts": list(starts),
            "optuna": optuna.__version__,
        }
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        known = self._known.setdefault(identity, {}) or self._read(identity)
        if key not in known:
            known[key] = suggest_wave(
                name, recipe, space, sampler, earlier, count, identity, starts
            )
            if self.writes:
                self.storage.write(f"{FOLDER}/{identity}.json", json.dumps(known).encode())
        return [dict(params) for params in known[key]]

    def _read(self, identity: str) -> dict[str, Params]:
        found: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError, ValidationError):  # damaged: made again
            found = _FILE.validate_json(self.storage.read(f"{FOLDER}/{identity}.json"))
        self._known[identity] = found
        return found
