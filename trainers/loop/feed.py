"""The input of the steps: each is made, and on its way to the device, while the last one trains."""

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import torch

from semigrid.data.views.augment import ViewName, erase, normalize
from semigrid.data.views.render import Batch
from semigrid.trainers.loop.streams import Streams
from semigrid.trainers.methods.step import StepInput, Views

S = TypeVar("S")
T = TypeVar("T")
CUDA: Any = torch.cuda

# what begins where in a buffer, in bytes: tensors of all types may
ALIGNMENT = 16


class Ahead(Generic[S, T]):
    """Items, each made by a thread while the one before it is in use.

    Asking for an item raises what making it raised. Whoever leaves early calls ``close``.

    Args:
        items: they are closed at the end, by the thread.
        then: what is left to do with an item, by whoever asked for it.
    """

    def __init__(self, items: Generator[S, None, None], then: Callable[[S], T]):
        self._then, self._over = then, False
        # the thread knows the queues only: it ends, too, when nobody has this any more
        self._wanted, self._made = SimpleQueue[bool](), SimpleQueue[tuple[Any, Any]]()
        how = items, self._wanted, self._made
        self._thread = threading.Thread(target=_make, args=how, name="feed", daemon=True)
        self._thread.start()
        self._wanted.put(True)

    def __iter__(self) -> "Ahead[S, T]":
        return self

    def __next__(self) -> T:
        if self._over:
            raise StopIteration
        item, error = self._made.get()
        if error is not None:
            self.close()
            raise error
        self._wanted.put(True)
        return self._then(item)

    def close(self) -> None:
        """Waits until the item in work is made, and ends the thread and the items."""
        self._over = True
        self._wanted.put(False)
        self._thread.join()

    def __del__(self) -> None:
        self._wanted.put(False)


def _make(
    items: Generator[Any, None, None],
    wanted: "SimpleQueue[bool]",
    made: "SimpleQueue[tuple[Any, Any]]",
) -> None:
    with contextlib.closing(items):
        while wanted.get():
            try:
                made.put((next(items), None))
            except BaseException as error:  # it is raised where the item is asked for
                made.put((None, error))
                return


@dataclass(frozen=True)
class Sent:
    """Tensors on their way to a device: parts of one buffer there."""

    parts: list[torch.Tensor]
    buffer: torch.Tensor
    # of a GPU, None otherwise
    arrival: Any

    def received(self) -> list[torch.Tensor]:
        """The tensors, for the stream that trains; it waits for them, the host does not."""
        if self.arrival is not None:
            stream = torch.cuda.current_stream(self.buffer.device)
            stream.wait_event(self.arrival)
            self.buffer.record_stream(stream)  # its memory is of another stream
        return self.parts


class Parcels:
    """Sends tensors to a device, as many as there are in one copy.

    They are gathered in two buffers that take turns; those of a GPU are pinned, and copied from
    beside what it computes.
    """

    def __init__(self, device: torch.device):
        self._device, self._pinned = device, device.type == "cuda"
        self._buffers = [torch.empty(0, dtype=torch.uint8)] * 2
        self._arrivals: list[Any] = [None, None]
        self._turn = 0

    def send(self, tensors: Sequence[torch.Tensor]) -> Sent:
        """Sends the tensors from the current stream; they may change as soon as it returns."""
        sizes = [-(-each.nbytes // ALIGNMENT) * ALIGNMENT for each in tensors]
        self._turn = 1 - self._turn
        if (last := self._arrivals[self._turn]) is not None:
            last.synchronize()  # the buffer is still being read until then
        if len(self._buffers[self._turn]) < sum(sizes):
            self._buffers[self._turn] = torch.empty(
                sum(sizes), dtype=torch.uint8, pin_memory=self._pinned
            )
        host = self._buffers[self._turn][: sum(sizes)]
        for place, each in zip(_parts(host, tensors, sizes), tensors, strict=True):
            place.copy_(each)
        there = host.to(self._device, non_blocking=True, copy=True)
        arrival = None
        if self._pinned:
            arrival = self._arrivals[self._turn] = CUDA.Event()
            arrival.record()
        return Sent(_parts(there, tensors, sizes), there, arrival)


def _parts(
    buffer: torch.Tensor, like: Sequence[torch.Tensor], sizes: list[int]
) -> list[torch.Tensor]:
    """Tensors of these types and shapes that lie in a buffer one behind the other."""
    pairs = zip(torch.split(buffer, sizes), like, strict=True)
    return [place[: each.nbytes].view(each.dtype).view(each.shape) for place, each in pairs]


@dataclass(frozen=True)
class Fed:
    """All that a step is given.

    Attributes:
        number: the step's, from 0.
        kept: which uses of drop paths keep which rows, as ``DropPaths.draw`` drew.
        broken: ids of images of the pool that could not be decoded.
    """

    number: int
    input: StepInput
    kept: torch.Tensor
    broken: list[str]


# A step's random numbers, for so many labelled and unlabelled images of this rank.
Draw = Callable[[int, int, int], Mapping[str, torch.Tensor]]
KEPT = "drop paths"


class Feed:
    """Makes the input of steps.

    Args:
        draw: draws a step's random numbers; those of drop paths are called ``KEPT``.
        channels_last: the memory layout of the images on the device.
    """

    def __init__(self, streams: Streams, draw: Draw, device: torch.device, channels_last: bool):
        self._streams, self._draw, self._device = streams, draw, device
        self._channels_last = channels_last
        self._images, self._others = Parcels(device), Parcels(device)
        self._beside = CUDA.Stream(device) if device.type == "cuda" else None

    def steps(self, start: int, stop: int) -> Ahead[Callable[[], Fed], Fed]:
        """The steps from start to stop, to be closed in the end.

        Raises what reading and decoding raise, and ``RuntimeError`` when a source ends too early.
        """
        return Ahead(self._on_their_way(start, stop), lambda receive: receive())

    def step(self, number: int, labeled: Batch, pool: Batch | None) -> Fed:
        """One step, of these batches."""
        return self._send(number, labeled, pool)()

    def _on_their_way(self, start: int, stop: int) -> Generator[Callable[[], Fed], None, None]:
        with contextlib.closing(self._streams.batches(start, stop)) as batches:
            for batch in batches:
                with torch.cuda.stream(self._beside):
                    sent = self._send(*batch)
                yield sent

    def _send(self, number: int, labeled: Batch, pool: Batch | None) -> Callable[[], Fed]:
        """Sends a step's tensors; what it returns makes the step of them, on their arrival."""
        batches = [labeled] if pool is None else [labeled, pool]
        images = self._images.send([view for each in batches for view in each.views.values()])
        small: dict[str, torch.Tensor] = {"y": labeled.labels}
        for which, batch in enumerate(batches):
            small[f"erasures {which}"] = batch.erasures
            small[f"erased {which}"] = batch.erasures[:, 2].nonzero().flatten()
        if pool is not None and self._streams.soft_targets is not None:
            small["soft targets"] = self._streams.soft_targets(pool.ids)
        drawn = self._draw(number, len(labeled.ids), 0 if pool is None else len(pool.ids))
        others = self._others.send([*small.values(), *drawn.values()])

        def received() -> Fed:
            views = iter(images.received())
            parts = others.received()
            found = dict(zip(small, parts, strict=False))
            draws = dict(zip(drawn, parts[len(small) :], strict=True))
            sides = [
                self._views(batch, views, found[f"erasures {n}"], found[f"erased {n}"])
                for n, batch in enumerate(batches)
            ]
            kept = draws.pop(KEPT)
            of_pool = None if pool is None else sides[1]
            step = StepInput(sides[0], found["y"], of_pool, found.get("soft targets"), draws)
            return Fed(number, step, kept, [] if pool is None else pool.broken)

        return received

    def _views(
        self,
        batch: Batch,
        images: Iterator[torch.Tensor],
        erasures: torch.Tensor,
        erased: torch.Tensor,
    ) -> Views:
        settings = self._streams.views

        def plain(
            images: torch.Tensor, erasures: torch.Tensor, rows: torch.Tensor | None
        ) -> torch.Tensor:
            if self._channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            return normalize(images, settings)

        def strong(
            images: torch.Tensor, erasures: torch.Tensor, rows: torch.Tensor | None
        ) -> torch.Tensor:
            if rows is None:
                rows = torch.arange(len(images), device=images.device)
            return erase(plain(images, erasures, rows), erasures, rows)

        finish = {name: plain for name in batch.views}
        if "strong" in finish and settings.erase_prob > 0:
            finish["strong"] = strong
        of_names: dict[ViewName, torch.Tensor] = {name: next(images) for name in batch.views}
        return Views(of_names, finish, erasures, erased)
