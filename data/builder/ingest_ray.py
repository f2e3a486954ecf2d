"""Cleans chunks in parallel with Ray Data, which runs a process per CPU."""

import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import ray
import ray.data

from semigrid.data.builder.chunks import Chunk, ChunkRunner, clean_chunk
from semigrid.data.errors import InputError


def in_processes(count: int) -> ChunkRunner:
    """A runner of chunks for ``build_dataset`` with this many processes.

    It uses the cluster at ``RAY_ADDRESS`` or the one of this process instead, if there is one.
    """

    def run(chunks: Sequence[Chunk]) -> Iterator[Any]:
        if not chunks:
            return
        mine = not ray.is_initialized()
        if mine:
            address = os.environ.get("RAY_ADDRESS")
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level="ERROR",
                **({} if address else {"num_cpus": count, "object_store_memory": 512 * 2**20}),
            )
        try:
            yield from _run(chunks)
        finally:
            if mine:
                ray.shutdown()

    return run


def _run(chunks: Sequence[Chunk]) -> Iterator[Any]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the context above sets up loggers

    def clean(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Cleans chunks into files, and returns the error if there is one."""
        error: Exception | None = None
        try:
            for packed in batch["chunk"]:
                clean_chunk(pickle.loads(packed))  # pickled below
        except (InputError, OSError) as met:  # Ray would wrap what is raised here
            error = met
        return {"error": np.array([pickle.dumps(error)], dtype=object)}

    # each task gets its own chunk, not the list of all
    packed = [{"chunk": pickle.dumps(chunk)} for chunk in chunks]
    work = ray.data.from_items(packed, override_num_blocks=len(packed))
    done = work.map_batches(clean, batch_size=1)
    for batch in done.iter_batches(batch_size=1, prefetch_batches=0):
        error = pickle.loads(batch["error"][0])
        if error is not None:
            raise error
        yield
