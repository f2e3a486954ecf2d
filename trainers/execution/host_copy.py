"""A copy of a training's state that its next steps leave alone."""

import copy
from typing import Any

import torch

_Place = tuple[Any, ...]


class HostCopy:
    """A state of nested dicts and lists, its tensors copied into memory of this machine.

    The copy's memory is used again by the next one. For tensors of a GPU it is pinned, and they are
    copied by the GPU itself, after the work that it was given before and ahead of what comes next:
    ``take`` does not wait for it, ``state`` does.
    """

    def __init__(self) -> None:
        self._buffers: dict[_Place, torch.Tensor] = {}
        self._state: Any = None
        self._copied: torch.Event | None = None

    def take(self, state: Any) -> None:
        """Begins to copy; what the last copy held is lost."""
        self._copied = None
        self._state = self._taken(state, ())
        if self._copied is not None:
            self._copied.record()

    def state(self) -> Any:
        """The copy, once it is complete; any thread may ask for it."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._state

    def _taken(self, value: Any, place: _Place) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(value.detach(), place)
        if isinstance(value, dict):
            return {name: self._taken(each, (*place, name)) for name, each in value.items()}
        if isinstance(value, list):
            return [self._taken(each, (*place, number)) for number, each in enumerate(value)]
        return copy.deepcopy(value)

    def _tensor(self, tensor: torch.Tensor, place: _Place) -> torch.Tensor:
        on_gpu = tensor.device.type == "cuda"
        buffer = self._buffers.get(place)
        if buffer is None or not _is_like(buffer, tensor):
            buffer = torch.empty_like(tensor, device="cpu", pin_memory=on_gpu)
            self._buffers[place] = buffer
        buffer.copy_(tensor, non_blocking=on_gpu)
        if on_gpu and self._copied is None:
            self._copied = torch.Event(tensor.device)
        return buffer


def _is_like(buffer: torch.Tensor, tensor: torch.Tensor) -> bool:
    same_layout = buffer.shape == tensor.shape and buffer.stride() == tensor.stride()
    return same_layout and buffer.dtype == tensor.dtype
