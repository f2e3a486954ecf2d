"""The images of a trial: the pool that is made of the labelled ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.tiny import VIT, VIT_ARGS, Died, Watched, die_in_step, tiny_recipe

from semigrid.data.catalog import open_dataset
from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.layout import weights_file
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.trial.data import open_streams, view_settings
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.job import Place, TrialJob
from semigrid.trainers.trial.run import run_trial

DIGITS = "builtin://digits"


def job(folder: Path, method: str, parent: str | None = None, **recipe: Any) -> TrialJob:
    """A quarter of the digits' labels, with these images as the pool of ``semi``, too."""
    spec = TrialSpec(
        dataset=open_dataset(DIGITS).manifest.fingerprint,
        labels="1/4",
        pool="labeled" if method == "semi" else "unlabeled",
        pool_images=63 if method == "semi" else None,
        backbone=VIT,
        backbone_args=VIT_ARGS,
        weights="random",
        method=method,
        recipe=tiny_recipe(method, **recipe),
        precision="fp32",
        seed=0,
        parent=parent,
    )
    return TrialJob(spec=spec, place=Place(DIGITS, str(folder)))


def test_a_labeled_pool_has_the_labeled_images_without_labels(tmp_path: Path) -> None:
    control = job(tmp_path, "semi", batch_size=9, unlabeled_ratio=7)
    views = view_settings(control.spec.recipe, ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    runtime = Runtime(Checkpoints(open_storage(tmp_path / "c")), device="cpu")
    streams = open_streams(control, views, runtime)
    assert streams.pool is not None
    labeled, pool = list(streams.labeled(0, 14)), list(streams.pool(0, 2))
    images = {image_id for batch in labeled[:7] for image_id in batch.ids}
    assert len(images) == 63 and set(pool[0].ids) == set(pool[1].ids) == images
    assert all((batch.labels == -1).all() for batch in pool)
    # each pass has an order of its own, which is not that of the labelled batches
    passes = [sum((batch.ids for batch in labeled[n : n + 7]), []) for n in (0, 7)]
    assert len({tuple(ids) for ids in (*passes, pool[0].ids, pool[1].ids)}) == 4
    # nor are the views: an image of the batch is not in the pool as it is there
    first, same = labeled[0].ids[0], pool[0].ids.index(labeled[0].ids[0])
    here, there = labeled[0].views["strong"][0], pool[0].views["strong"][same]
    assert first == pool[0].ids[same] and not np.array_equal(here, there)
    again = list(open_streams(control, views, runtime).pool(1, 2))[0]
    assert again.ids == pool[1].ids and np.array_equal(again.views["weak"], pool[1].views["weak"])


def train(each: TrialJob, folder: Path, die: int | None = None) -> Outcome:
    checkpoints = Checkpoints(open_storage(folder))
    on_step = (lambda step: None) if die is None else die_in_step(die)
    return run_trial(each, Watched(checkpoints, on_step))


@pytest.mark.parametrize("method", ["finetune", "semi"])
def test_a_killed_control_goes_on_as_if_nothing_had_been(tmp_path: Path, method: str) -> None:
    start = job(tmp_path, "finetune")
    train(start, tmp_path / "start")
    # a compute control is a longer fine-tuning of the start's weights
    control = job(tmp_path, method, parent=start.spec.id, steps=10, base_lr=0.03)
    whole = train(control, tmp_path / "whole")
    weights = control.place.storage.read(weights_file(control.spec.id))
    with pytest.raises(Died):
        train(control, tmp_path / "killed", die=7)
    resumed = train(control, tmp_path / "killed")
    assert resumed.resumed_at == [5]
    assert resumed.history == whole.history and whole.status == "finished"
    assert control.place.storage.read(weights_file(control.spec.id)) == weights
