"""One training or one measurement, from its specification to its files."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from semigrid.data.catalog import open_dataset
from semigrid.data.schema import Dataset
from semigrid.data.splits import label_subset
from semigrid.data.storage import FileFacts, Storage, open_storage
from semigrid.trainers.choose import Cutoffs
from semigrid.trainers.fence import Fence, FencedStorage
from semigrid.trainers.layout import checkpoint_folder, predictions_file, weights_file
from semigrid.trainers.methods import MethodName
from semigrid.trainers.options import Precision, TrainOptions, uses_ray_stream
from semigrid.trainers.recipe import RECIPE_VERSION, Recipe

if TYPE_CHECKING:
    from torch import nn

# small enough that a few workers share a few hundred images evenly
EVALUATION_BATCH = 64


class TrialSpec(BaseModel):
    """Everything that can change a training's numbers, and nothing that cannot.

    Worker counts, storage and names are not here. ``parent`` is the trial whose weights it starts
    from. ``id`` is the trial's identity: the same specification is the same training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe_version: int = RECIPE_VERSION
    dataset: str  # fingerprint
    labels: str  # label fraction as a ratio, "1/4"
    pool_images: int | None  # how many of the pool, from its start; None for finetune
    backbone: str
    backbone_args: dict[str, Any]
    weights: str  # what the backbone starts from: "random", "timm" (by its tag) or "sha256:..."
    method: MethodName
    recipe: Recipe  # resolved
    precision: Precision
    seed: int
    parent: str | None

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, with its own identity if it differs."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("id", None)
        return copy

    @cached_property  # asked for at every step of a plan, of every trial
    def id(self) -> str:
        """The first 20 hexadecimal digits of the SHA-256 over the canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Place:
    """Where a trial runs and how: none of it changes the numbers.

    ``folder`` is the experiment's folder; ``stream`` says how the pool is read; ``threads`` is
    torch's within an operation; ``weights_uri`` is the file of weights that the specification
    names by their hash, and ``weights_sha256`` the hash of the trained weights that it loads, if
    it is known. With ``patience`` (seconds) the folder is waited for when it vanishes, and
    never made: see ``Storage``. ``attempt`` is a trial and the token of an attempt at it, on a
    cluster: once it was given up, nothing more is written there.
    """

    dataset_uri: str
    folder: str
    stream: Literal["auto", "memory", "ray"] = "auto"
    threads: int = 1
    loader_workers: int = 0
    checkpoint_steps: int = 200
    report_seconds: float = 2.0
    micro_batch: int | None = None
    compiled: bool = False
    weights_uri: str | None = None
    patience: float = 0
    weights_sha256: str | None = None
    attempt: tuple[str, str] | None = None

    @property
    def storage(self) -> Storage:
        storage = open_storage(self.folder, self.patience)
        return storage if self.fence is None else FencedStorage(storage, self.fence)

    @property
    def fence(self) -> Fence | None:
        return (
            None
            if self.attempt is None
            else Fence(open_storage(self.folder, must_exist=True), *self.attempt)
        )

    def checkpoints(self, trial_id: str) -> Storage:
        return self.storage.folder(checkpoint_folder(trial_id))


class NoRoomError(RuntimeError):
    """A training lost its machines: who gave it room must give it room elsewhere."""


class DamagedError(RuntimeError):
    """The weights of a finished trial are missing or not what was written: train it again."""

    def __init__(self, trial_id: str, problem: str):
        super().__init__(trial_id, problem)  # both, or it could not be pickled
        self.trial_id, self.problem = trial_id, problem

    def __str__(self) -> str:
        return self.problem


def run_trial(
    spec: TrialSpec, place: Place, runtime: Any, cutoffs: Cutoffs | None = None
) -> dict[str, Any]:
    """Trains to the end or to a stop, leaves the best weights, returns the outcome as a dict.

    The weights are at ``weights_file(spec.id)`` in the experiment's folder before this returns
    with ``finished`` true; the checkpoints stay until the ledger has the result. A training that
    falls below one of its ``cutoffs`` ends there, with ``fell_behind`` true, and leaves no weights.
    ``weights_file`` of the outcome has the ``FileFacts`` of the weights. Raises ``DamagedError``
    when the parent's weights are not as they were.
    """
    import torch

    from semigrid.trainers.loop import train
    from semigrid.trainers.models import input_statistics

    torch.set_num_threads(place.threads)
    dataset = _dataset(place.dataset_uri, spec.dataset)
    model = start_model(spec, dataset.num_classes, place.weights_uri)
    teacher_state = None
    if spec.parent is not None:
        parent = _load_weights(spec.parent, place)
        model.load_state_dict(parent["student"])
        teacher_state = parent["ema"]
    streams = _streams(spec, place, dataset, runtime, input_statistics(model))
    outcome = train(
        spec.recipe,
        spec.method,
        model,
        teacher_state,
        streams,
        runtime,
        num_classes=dataset.num_classes,
        seed=spec.seed,
        precision=spec.precision,
        options=TrainOptions(
            checkpoint_steps=place.checkpoint_steps,
            micro_batch=place.micro_batch,
            compile=place.compiled,
        ),
        cutoffs=cutoffs,
        report_seconds=place.report_seconds,
    )
    if outcome.finished and runtime.rank == 0:
        best = runtime.checkpoints.load_weights(outcome.best_step)
        place.storage.write(weights_file(spec.id), best)
        return asdict(outcome) | {"weights_file": asdict(FileFacts.of(best))}
    return asdict(outcome)


def _load_weights(trial_id: str, place: Place) -> dict[str, dict[str, Any]]:
    """``decode_weights`` of a trial's file; ``DamagedError`` if that is not what was written."""
    from safetensors import SafetensorError

    from semigrid.trainers.checkpoint import decode_weights

    where = place.storage.location(weights_file(trial_id))
    try:
        content = place.storage.read(weights_file(trial_id))
        if place.weights_sha256 not in (None, FileFacts.of(content).sha256):
            raise DamagedError(trial_id, f"{where}: damaged, it is not what was written")
        return decode_weights(content)
    except FileNotFoundError as error:
        raise DamagedError(trial_id, f"{where}: missing") from error
    except SafetensorError as error:
        raise DamagedError(trial_id, f"{where}: damaged: {error}") from error


def start_model(spec: TrialSpec, num_classes: int, weights_uri: str | None) -> Any:
    """The model a trial starts with: random, or with its backbone's pretrained weights.

    A trial with a parent takes all weights from there. Raises ``InputError`` where the pretrained
    weights cannot be had or do not fit.
    """
    from semigrid.trainers.models import create_model
    from semigrid.trainers.pretrained import load_from_file, load_from_hub

    def create(pretrained: bool, overlay: dict[str, Any] | None = None) -> Any:
        return create_model(
            spec.backbone,
            num_classes,
            spec.recipe,
            spec.backbone_args,
            pretrained,
            spec.seed,
            overlay,
        )

    if spec.weights == "random" or spec.parent is not None:
        return create(False)
    if spec.weights == "timm":
        return load_from_hub(spec.backbone, lambda: create(True))
    assert weights_uri is not None
    sha256 = spec.weights.removeprefix("sha256:")
    return load_from_file(weights_uri, sha256, spec.backbone, lambda over: create(True, over))


def finished_model(spec: TrialSpec, place: Place, num_classes: int, weights: str) -> "nn.Module":
    """A finished trial's model on the CPU, with its ``student`` or ``ema`` weights.

    Raises ``DamagedError`` when the weights are not as they were written.
    """
    from semigrid.trainers.models import create_model

    model = create_model(
        spec.backbone, num_classes, spec.recipe, spec.backbone_args, False, spec.seed
    )
    model.load_state_dict(_load_weights(spec.id, place)[weights])
    return model


def measure_trial(
    spec: TrialSpec, place: Place, weights: str, runtime: Any
) -> tuple[dict[str, float], FileFacts]:
    """Measures a finished trial on test; writes its prediction table.

    Returns the metrics, and what the file must be. The table holds image id, true class, the
    probability of every class in float64, and the dataset's slices. Raises ``DamagedError`` when
    the trial's weights are not as they were.
    """
    import torch

    from semigrid.trainers.evaluate import evaluate
    from semigrid.trainers.models import input_statistics

    torch.set_num_threads(place.threads)
    dataset = _dataset(place.dataset_uri, spec.dataset)
    model = finished_model(spec, place, dataset.num_classes, weights)
    model.to(runtime.device)
    views = view_settings(spec.recipe, input_statistics(model))
    predictions = evaluate(model, _eval_batches(dataset, "test", views, runtime), views, runtime)
    predictions = replace(predictions, slices=_slices(dataset, predictions.ids))
    content = predictions.encode()
    place.storage.write(predictions_file(spec.id), content)
    return predictions.metrics(), FileFacts.of(content)


def _slices(dataset: Dataset, ids: list[str]) -> dict[str, list[str | None]]:
    """The test images' slice columns, in the order of ``ids``."""
    stored = dataset.column("test", "image_id").to_pylist()
    found = {}
    for name in dataset.manifest.slices:
        values = dict(zip(stored, dataset.column("test", name).to_pylist(), strict=True))
        found[name] = [values[image_id] for image_id in ids]
    return found


def view_settings(recipe: Recipe, statistics: tuple[Any, Any]) -> Any:
    """The views of a recipe, normalised as the model's weights expect."""
    from semigrid.data.views.augment import ViewSettings

    return ViewSettings(
        img_size=recipe.img_size,
        crop_scale=recipe.crop_scale,
        weak_crop_scale=recipe.weak_crop_scale,
        hflip=recipe.hflip,
        color_jitter=recipe.color_jitter,
        rand_augment=recipe.rand_augment,
        erase_prob=recipe.erase_prob,
        mean=statistics[0],
        std=statistics[1],
    )


@lru_cache(maxsize=4)
def _dataset(uri: str, fingerprint: str) -> Dataset:
    dataset = open_dataset(uri)
    if dataset.manifest.fingerprint != fingerprint:
        raise RuntimeError(f"{uri} changed since the plan was made; run the experiment again")
    return dataset


@lru_cache(maxsize=4)
def _table(uri: str, fingerprint: str, split: str) -> Any:
    return _dataset(uri, fingerprint).read(split)


@lru_cache(maxsize=4)
def _kept_eval_batches(
    uri: str, fingerprint: str, split: str, views: Any, rank: int, world_size: int
) -> Any:
    from semigrid.data.batches import EvalBatches

    table = _table(uri, fingerprint, split)
    return EvalBatches(table, views, EVALUATION_BATCH, rank, world_size)


def _eval_batches(dataset: Dataset, split: str, views: Any, runtime: Any) -> Any:
    """Evaluation batches, kept for the next trial of this process when the views are the same.

    Only what an evaluation view depends on goes into the key.
    """
    from semigrid.data.views.augment import ViewSettings

    seen = ViewSettings(
        img_size=views.img_size,
        interpolation=views.interpolation,
        mean=views.mean,
        std=views.std,
    )
    uri = dataset.storage.uri
    return _kept_eval_batches(
        uri, dataset.manifest.fingerprint, split, seen, runtime.rank, runtime.world_size
    )


def _streams(
    spec: TrialSpec, place: Place, dataset: Dataset, runtime: Any, statistics: tuple[Any, Any]
) -> Any:
    from semigrid.data.batches import MemoryBatches
    from semigrid.data.order import Share, StreamOrder
    from semigrid.trainers.streams import Streams

    recipe = spec.recipe
    views = view_settings(recipe, statistics)
    table = dataset.read("train", label_subset(dataset.train_labels, Fraction(spec.labels)))
    labeled = MemoryBatches(
        table,
        StreamOrder([len(table)], spec.seed),
        Share(recipe.batch_size, runtime.rank, runtime.world_size),
        views,
        ("strong",),
        spec.seed,
        place.loader_workers,
    )
    pool: Any = None
    if spec.pool_images is not None:
        units = pool_units(dataset, spec.pool_images)
        order = StreamOrder([unit.rows for unit in units], spec.seed)
        share = Share(recipe.pool_batch_size, runtime.rank, runtime.world_size)
        if uses_ray_stream(place.stream, dataset):
            from semigrid.data.stream import RayBatches
            from semigrid.trainers.ray_nodes import placement

            pool = RayBatches(
                dataset.storage,
                units,
                order,
                share,
                views,
                ("weak", "strong"),
                spec.seed,
                placement,
            )
        else:
            images = _table(place.dataset_uri, spec.dataset, "pool")
            pool = MemoryBatches(
                images, order, share, views, ("weak", "strong"), spec.seed, place.loader_workers
            )
    return Streams(labeled, pool, _eval_batches(dataset, "val", views, runtime), views)


def pool_units(dataset: Dataset, rows: int) -> list[Any]:
    """The pool's row groups that make up its first ``rows`` rows, the last one cut to fit."""
    return [
        replace(group, rows=min(group.rows, rows - group.start))
        for group in dataset.row_groups("pool")
        if group.start < rows
    ]
