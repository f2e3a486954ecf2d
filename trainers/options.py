"""How trainings run: the ``train`` section of an experiment file."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from semigrid.data.schema import Dataset

Precision = Literal["fp32", "bf16", "fp16"]

# Largest pool, in bytes of encoded images, that ``stream: auto`` reads into memory.
MEMORY_POOL_BYTES = 512 * 2**20


# Time between reports on a training's progress, in seconds, while few trainings run.
REPORT_SECONDS = 2.0


class TrainOptions(BaseModel):
    """The options of a training, passed whole from the experiment file to the training loop.

    Only ``precision`` can change numbers: it is part of a trial's identity, and a training takes it
    from there.

    Attributes:
        stream: how the pool is read: into memory, through Ray Data, or whichever suits its size.
        loader_workers: processes of each worker that make views of images in memory; 0 makes them
            in the worker. ``auto`` is one for each of a GPU worker's cores but the one that it
            drives the GPU from, and none on CPUs, where they would take the time of the training.
        checkpoint_seconds: time between checkpoints, besides those at evaluations; 0 for one after
            every step. Half of it is what a lost machine repeats on average (``docs/scale.md``).
        micro_batch: most images in one forward and backward pass of a worker; None for all. It is
            halved, and the step repeated, when the device runs out of memory.
        compile: whether student and teacher run through ``torch.compile``; None: on a GPU.
        max_failures: how many times in a row a training may die without a new checkpoint.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int = Field(1, gt=0)
    cpus_per_worker: int = Field(1, gt=0)
    gpus_per_worker: float = Field(0, ge=0, allow_inf_nan=False)
    precision: Precision = "fp32"
    stream: Literal["auto", "memory", "ray"] = "auto"
    loader_workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    checkpoint_seconds: float = Field(120, ge=0, allow_inf_nan=False)
    micro_batch: int | None = Field(None, gt=0)
    compile: bool | None = None
    max_failures: int = Field(3, ge=0)

    @property
    def device(self) -> str:
        """The type of torch device that a worker trains on."""
        return "cuda" if self.gpus_per_worker else "cpu"

    @property
    def loader_processes(self) -> int:
        """The number that ``loader_workers`` means."""
        if self.loader_workers != "auto":
            return self.loader_workers
        return max(1, self.cpus_per_worker - 1) if self.gpus_per_worker else 0


def uses_ray_stream(stream: str, dataset: Dataset) -> bool:
    """Whether Ray Data streams the pool, instead of reading it into memory; same batches."""
    if stream != "auto":
        return stream == "ray"
    files = [shard.file for shard in dataset.manifest.shards if shard.split == "pool"]
    return sum(dataset.storage.size(file) or 0 for file in files) > MEMORY_POOL_BYTES
