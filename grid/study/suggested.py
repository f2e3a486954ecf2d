"""What was suggested before: ``suggest_wave`` with a memory, so that a large search opens quickly.

A suggestion is a function of its inputs and takes Optuna a while; a grid of thousands of trials
would be suggested anew, wave by wave, whenever someone looks at it.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

import optuna
from pydantic import BaseModel, ValidationError

from semigrid.data.storage import Storage
from semigrid.grid.study.layout import SUGGESTED, suggested_file
from semigrid.grid.study.search import Tried, suggest_wave
from semigrid.trainers.methods import Space
from semigrid.trainers.recipe import Recipe

Params = list[dict[str, float]]


class _File(BaseModel):
    sha256: str  # of what follows: a changed digit would be another trial
    suggested: dict[str, Params]


class Suggestions:
    """A memory in the experiment's folder, a file a search; deleted or damaged, it costs time only.

    Args:
        writes: keep new suggestions, as the run does that holds the folder's lock.
    """

    def __init__(self, storage: Storage, writes: bool = False):
        self.storage, self.writes = storage, writes
        self._known: dict[str, dict[str, Params]] = {}
        self._contents: dict[str, bytes] | None = None

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
        """The same as ``suggest_wave``."""
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
                content = {"sha256": _hash(known), "suggested": known}
                with contextlib.suppress(OSError):  # a full disk costs time here, and no more
                    self.storage.write(suggested_file(identity), json.dumps(content).encode())
        return [dict(params) for params in known[key]]

    def _read(self, identity: str) -> dict[str, Params]:
        found: dict[str, Params] = {}
        with contextlib.suppress(OSError, ValidationError):  # damaged: made again
            content = _File.model_validate_json(self._content(suggested_file(identity)))
            if content.sha256 == _hash(content.suggested):
                found = content.suggested
        self._known[identity] = found
        return found

    def _content(self, file: str) -> bytes:
        """Raises ``OSError``. All files are read when the first is, side by side."""
        if self._contents is None:
            names = self.storage.names(SUGGESTED, ".json")
            self._contents = self.storage.read_all(f"{SUGGESTED}/{name}" for name in names)
        if file not in self._contents:
            raise FileNotFoundError(file)
        return self._contents.pop(file)


def _hash(suggested: dict[str, Params]) -> str:
    return hashlib.sha256(json.dumps(suggested, sort_keys=True).encode()).hexdigest()
