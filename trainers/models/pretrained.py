"""Loading pretrained weights into a model, checked name by name and shape by shape."""

import contextlib
import logging
import shutil
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage
from semigrid.data.storage.hashes import file_hash
from semigrid.trainers.models.adapter import NEW_PARTS

# What to do where a network cannot be reached, in an experiment file.
IN_A_FILE = (
    "Give a local file instead, pretrained: path/to/model.safetensors (or .pth), or copy the hub's "
    "cache (HF_HOME) from a machine that has them, or train from random weights with "
    "pretrained: false"
)


@contextlib.contextmanager
def from_hub(backbone: str, instead: str = IN_A_FILE) -> Iterator[None]:
    """Within this context, timm loads weights that it downloads, where they are not cached.

    Raises ``InputError`` if the hub cannot be reached, with what to do ``instead``.
    """
    try:
        with _quiet("huggingface_hub"):
            yield
    except OSError as error:
        raise InputError(
            f"the pretrained weights of {backbone} cannot be downloaded "
            f"({type(error).__name__}: {first_line(error)}). {instead}"
        ) from error


@contextlib.contextmanager
def from_file(uri: str, sha256: str, backbone: str) -> Iterator[dict[str, Any]]:
    """Within this context, a model made with the overlay of timm's configuration loads a file.

    timm reads the file (``weights_only``, its own conversions, resampled position embeddings). All
    weights of the model but those of a new head must be in it, in the model's shape; raises
    ``InputError`` otherwise.
    """
    changed = InputError(f"{uri}: these weights changed since they were first read; run it again")
    if file_hash(uri) != sha256:
        raise changed
    with _local(uri) as (path, is_copy), _quiet("timm"), _checked_loading(uri, backbone):
        if is_copy and file_hash(path) != sha256:
            raise changed
        try:
            yield {"file": path, "custom_load": False}
        except InputError:
            raise
        except Exception as error:  # readers of damaged or foreign files raise almost anything
            reason = _reason(path, error)
            raise InputError(f"{uri}: cannot be loaded into {backbone}: {reason}") from error


def _reason(path: str, error: Exception) -> str:
    """Why a file, in which an error appeared, is no use as weights."""
    from timm.models import load_state_dict

    if not Path(path).stat().st_size:
        return "it is empty"
    try:
        state: Any = load_state_dict(path)
        if all(isinstance(name, str) and torch.is_tensor(state[name]) for name in state):
            return first_line(error)
    except Exception as damage:
        if "weights_only" in str(damage):
            return (
                "it is damaged, or holds more than tensors, which could run code when opened; "
                "save the state_dict alone"
            )
        if not isinstance(damage, AttributeError | TypeError):  # it could be read
            return f"it is damaged, or no file of weights ({first_line(damage)})"
    return "it holds no tensors by their names; save the state_dict"


def first_line(error: BaseException) -> str:
    """The beginning of what an error says, or else its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _quiet(logger_name: str) -> Iterator[None]:
    """Hides warnings that do not help the reader of a table."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _local(uri: str) -> Iterator[tuple[str, bool]]:
    """The path of a file on this machine, and whether it is a copy, which is deleted again."""
    storage = open_storage(uri)
    if (path := storage.local_path()) is not None:
        yield str(path), False
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"weights{Path(uri).suffix}"
        with storage.open(ahead=True) as content, path.open("wb") as file:
            shutil.copyfileobj(content, file)
        yield str(path), True


@contextlib.contextmanager
def _checked_loading(uri: str, backbone: str) -> Iterator[None]:
    """Within this context, loading a state dict names the weights that do not fit.

    timm itself would leave them out silently. The names and shapes in the file are known only after
    timm's conversions, when it passes the state to the model.
    """
    load = nn.Module.load_state_dict

    def checked(model: nn.Module, state: Any, strict: bool = True, assign: bool = False) -> Any:
        own = model.state_dict()
        heads = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
        heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
        # a decoder or a mask token may be left over; more blocks are those of another model
        parts = {name.partition(".")[0] for name in own}
        state = {
            **{name: value for name, value in own.items() if name.startswith(NEW_PARTS)},
            **{
                name: value
                for name, value in state.items()
                if name.partition(".")[0] in parts and not name.startswith(heads)
            },
            **{name: value for name, value in own.items() if name.startswith(heads)},
        }
        try:
            return load(model, state, strict=True, assign=assign)
        except RuntimeError as error:
            problem = textwrap.shorten(str(error), 400, placeholder=" …")
            raise InputError(f"{uri}: these are not weights of {backbone}: {problem}") from error

    nn.Module.load_state_dict = checked  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.load_state_dict = load  # type: ignore[method-assign]
