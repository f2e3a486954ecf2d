"""Pretrained weights: where they come from, under which licence, and which bytes they are."""

import contextlib
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict

from semigrid.data.errors import InputError, RefusedError, StorageGoneError
from semigrid.data.storage import cache_folder, open_storage
from semigrid.trainers.backbones import timm_weights

if TYPE_CHECKING:
    from torch import nn

UNSTATED = "not stated"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
Made = TypeVar("Made")


class Weights(BaseModel):
    """Pretrained weights: ``source`` is a repository of the hub or a file's URI.

    ``sha256`` is None while weights of the hub are not on this machine.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    source: str
    license: str = UNSTATED
    sha256: str | None = None

    def describe(self) -> str:
        """``timm/vit_base_patch16_224.mae, licence cc-by-nc-4.0 (not for commercial use), ...``"""
        license = f"licence {self.license}"
        if is_non_commercial(self.license):
            license += " (not for commercial use)"
        known = f"sha256 {self.sha256[:12]}" if self.sha256 else "not downloaded yet"
        return f"{self.source}, {license}, {known}"


def is_non_commercial(license: str) -> bool:
    """Whether a licence's name says so: ``cc-by-nc-4.0``, ``CC BY-NC-SA``, ``non-commercial``."""
    return re.search(r"\bnc\b|non-?commercial", license, re.IGNORECASE) is not None


def hub_weights(backbone: str) -> Weights:
    """The weights that timm loads for a backbone with a tag, as far as this machine knows them."""
    stated = timm_weights(backbone)
    repository = stated.get("hub", f"timm/{backbone}")
    return Weights(
        source=repository,
        license=stated.get("license", UNSTATED),
        sha256=_cached_hash(repository),
    )


def file_weights(uri: str, license: str | None, backbone: str) -> Weights:
    """The weights of a file; without a licence of its own, that of the backbone's tag is stated.

    Raises ``InputError`` where there is no such file.
    """
    if not uri.endswith(SUFFIXES):
        raise InputError(f"{uri!r}: weights are a file ending in {', '.join(SUFFIXES)}")
    tag = timm_weights(backbone).get("license")
    return Weights(
        source=open_storage(uri).uri,
        license=license or (f"{tag} (timm's for {backbone})" if tag else UNSTATED),
        sha256=_file_hash(uri),
    )


def _file_hash(uri: str) -> str:
    """SHA-256 of a file, remembered for as long as the file's size and time stay the same."""
    storage = open_storage(uri)
    try:
        key = hashlib.sha256(f"{uri} {storage.version()}".encode()).hexdigest()
        known = open_storage(cache_folder()).folder("hashes")
        if known.exists(key):
            return known.read(key).decode()
        digest = hashlib.sha256()
        for content in storage.chunks():
            digest.update(content)
        found = digest.hexdigest()
    except (RefusedError, StorageGoneError):  # which say all that there is to say
        raise
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{uri!r}: there is no such file") from error
    except OSError as error:
        raise InputError(f"{uri!r}: cannot be read: {error}") from error
    with contextlib.suppress(OSError):  # a cache that cannot be written is no reason to stop
        known.write(key, found.encode())
    return found


def _cached_hash(repository: str) -> str | None:
    """SHA-256 of the weights in the hub's local cache; None if they are not there."""
    from huggingface_hub import try_to_load_from_cache

    for name in ("model.safetensors", "pytorch_model.bin"):
        path = try_to_load_from_cache(repository, name)
        if isinstance(path, str):
            blob = Path(os.path.realpath(path)).name  # the hub names large files by their hash
            is_hash = len(blob) == 64 and not set(blob) - set("0123456789abcdef")
            return blob if is_hash else _file_hash(path)
    return None


def load_from_hub(backbone: str, create: Callable[[], Made]) -> Made:
    """What ``create`` makes, timm's downloading included; one clear error where it cannot."""
    try:
        with _quiet("huggingface_hub"):
            return create()
    except OSError as error:
        raise InputError(
            f"the pretrained weights of {backbone} cannot be downloaded "
            f"({type(error).__name__}: {str(error).splitlines()[0]}). Give a local file instead, "
            "pretrained: path/to/model.safetensors (or .pth), or copy the hub's cache (HF_HOME) "
            "from a machine that has them, or train from random weights with pretrained: false"
        ) from error


def load_from_file(
    uri: str, sha256: str, backbone: str, create: Callable[[dict[str, Any]], "nn.Module"]
) -> "nn.Module":
    """The model that ``create`` makes with the weights of a file.

    The file is read by timm (``weights_only``, its own conversions, resampled position
    embeddings), and every weight of the model but those of a new head must be in it, in the
    model's shape. Raises ``InputError``.

    Args:
        create: makes the model with this overlay of timm's ``pretrained_cfg``.
    """
    if _file_hash(uri) != sha256:
        raise InputError(f"{uri}: these weights changed since the plan was made; run it again")
    with _local(uri) as path, _quiet("timm"), _checked_loading(uri, backbone):
        try:
            return create({"file": path, "custom_load": False})
        except InputError:
            raise
        except Exception as error:  # readers of damaged or foreign files raise almost anything
            reason = str(error).splitlines()[0]
            if "weights_only" in reason:
                reason = (
                    "it is damaged, or holds more than tensors, which could run code when opened; "
                    "save the state_dict alone"
                )
            raise InputError(f"{uri}: cannot be loaded into {backbone}: {reason}") from error


@contextlib.contextmanager
def _quiet(logger_name: str) -> Iterator[None]:
    """Less than errors is no news to the reader of a table."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _local(uri: str) -> Iterator[str]:
    storage = open_storage(uri)
    if (path := storage.local_path()) is not None:
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(storage.uri).name
        with path.open("wb") as file:
            file.writelines(storage.chunks())
        yield str(path)


# parts that a file may lack: a change of pooling makes them new
_NEW = ("fc_norm.", "attn_pool.")


@contextlib.contextmanager
def _checked_loading(uri: str, backbone: str) -> Iterator[None]:
    """While it lasts, loading a state dict says what does not fit: timm's own way is silent.

    timm hands the state to the model after its conversions; only there is it known which names
    and shapes the file has.
    """
    from torch import nn

    load = nn.Module.load_state_dict

    def checked(model: "nn.Module", state: Any, strict: bool = True, assign: bool = False) -> Any:
        head = tuple(f"{name}." for name in _classifiers(model))
        state = {name: value for name, value in state.items() if not name.startswith(head)}
        own = model.state_dict()
        wrong = [
            f"{name} is {tuple(state[name].shape)}, the model's {tuple(value.shape)}"
            for name, value in own.items()
            if name in state and state[name].shape != value.shape
        ]
        missing = [
            name
            for name in own
            if name not in state and not name.startswith(_NEW + head) and "num_batches" not in name
        ]
        # a decoder or a mask token is no matter; more of the model's own parts is another model
        parts = {name.partition(".")[0] for name in own}
        other = [name for name in state if name not in own and name.partition(".")[0] in parts]
        problems = [f"it lacks {_first(missing)}"] if missing else []
        problems += [f"of other shape: {_first(wrong)}"] if wrong else []
        problems += [f"the model has no {_first(other)}"] if other else []
        if problems:
            raise InputError(f"{uri}: these are not weights of {backbone}: {'; '.join(problems)}")
        return load(model, state, strict=False, assign=assign)

    nn.Module.load_state_dict = checked  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.load_state_dict = load  # type: ignore[method-assign]


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _classifiers(model: "nn.Module") -> tuple[str, ...]:
    names = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)
