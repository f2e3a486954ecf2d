"""The soft targets of a training: the mean of its teachers' answers, by image."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from semigrid.data.mapped import mapped
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.features.store import PartStore
from semigrid.trainers.soft_targets.make import soft_target_store
from semigrid.trainers.trial.data import dataset_of
from semigrid.trainers.trial.job import DamagedSoftTargetsError, TrialJob


class SoftTargets:
    """Mean probabilities of several teachers for the images of a pool, looked up by id.

    They lie in a file that is mapped into memory, K numbers of half precision an image: a million
    images of a thousand classes are 2 GB of the disk, not of memory. Ids are known by 64-bit hashes
    (8 bytes an image; among a million, two are alike with a probability of 3e-8).
    """

    def __init__(self, stores: Sequence[PartStore], num_classes: int):
        images = sum(part.images.count for part in stores[0].parts(["pool"]))
        self._rows = mapped((images, num_classes), np.float16)
        keys = np.zeros(images, np.uint64)
        done = 0
        for blocks in zip(*(store.blocks("pool") for store in stores), strict=True):
            end = done + len(blocks[0].ids)
            keys[done:end] = _keys(blocks[0].ids)
            mean = np.mean([block.rows.astype(np.float32) for block in blocks], axis=0)
            self._rows[done:end] = mean
            done = end
        self._order = np.argsort(keys)
        self._sorted = keys[self._order]

    def __call__(self, ids: Sequence[str]) -> torch.Tensor:
        """Soft targets (N, K), float32; zero for an image that no teacher could be shown."""
        keys = _keys(ids)
        places = np.searchsorted(self._sorted, keys).clip(max=len(self._sorted) - 1)
        if (unknown := self._sorted[places] != keys).any():
            raise LookupError(f"there is no soft target of image {ids[int(unknown.argmax())]}")
        rows = self._rows[self._order[places]].astype(np.float32)
        # half precision leaves the sum of a row within a thousandth of 1
        total = rows.sum(axis=1, keepdims=True)
        return torch.from_numpy(rows / np.where(total > 0, total, 1))


def open_soft_targets(job: TrialJob, runtime: Runtime) -> SoftTargets:
    """The soft targets of a training with teachers, which must have been made.

    Raises ``DamagedSoftTargetsError``, on all ranks, where files are missing or damaged; the
    damaged ones are removed, so that they are made again.
    """
    spec, dataset = job.spec, dataset_of(job)
    storage, images = job.place.storage, spec.pool_images or 0
    stores = {each: soft_target_store(storage, each, dataset, images) for each in spec.teachers}
    for teacher, store in stores.items():
        missing = store.missing(["pool"])
        if runtime.any(bool(missing)):
            for part in missing if runtime.rank == 0 else ():
                store.remove(part)
            raise DamagedSoftTargetsError(
                teacher,
                f"{store.storage.uri}: {len(missing)} files of soft targets are missing or damaged",
            )
    return SoftTargets(list(stores.values()), dataset.num_classes)


def _keys(ids: Sequence[str]) -> np.ndarray:
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(digests, np.uint64)
