"""Cleaning chunks side by side: Ray Data runs as many processes as it is given CPUs."""

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
    """Runs the chunks of ``build_dataset`` in this many processes, or those of the cluster.

    At ``RAY_ADDRESS``, or where Ray runs in this process already, that cluster is used.
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
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the context sets its loggers up

    def clean(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the error if there is one; the results are files."""
        error: Exception | None = None
        try:
            for packed in batch["chunk"]:
                clean_chunk(pickle.loads(packed))  # ours, of a moment ago
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
