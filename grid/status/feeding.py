"""Whether a training's views are made as fast as its GPU takes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from semigrid.data.schema import Dataset
from semigrid.grid.status.cost import flops_of
from semigrid.grid.status.gpus import NAMES, peak
from semigrid.grid.study.state import StudyState
from semigrid.trainers.methods import Stepped, find_method
from semigrid.trainers.options import TrainOptions, uses_ray_stream
from semigrid.trainers.recipe import PoolRecipe, SteppedRecipe
from semigrid.trainers.trial.identity import TrialSpec

# Images/s of which a core makes a weak and a strong view, up to 224 px from originals of 256 px
# (`make bench --only stream`, by processor time).
CORE_IMAGES, CORE_SIZE = 800, 224
# What a well-fed training reaches of its GPU's peak, and the GPU if the file's prices name none.
BUSY, ASSUMED_GPU = 0.4, "NVIDIA H200"


@dataclass(frozen=True)
class Feeding:
    """Images/s that a worker trains on its GPU, and those whose views its processes make.

    An image with one view counts as half an image.
    """

    model: str
    processes: int
    made: float
    trained: float

    @property
    def cores(self) -> int:
        """Processes that would be enough."""
        return ceil(self.trained / self.made * self.processes)


def feeding_warning(study: StudyState) -> Iterator[str]:
    """One line on the models whose GPUs wait for views, with the numbers of the worst, if any."""
    prices = study.plan.experiment.file.prices
    gpu = max(prices.keys() & {*NAMES}, key=lambda name: peak(name, "bf16"), default=ASSUMED_GPU)
    found = {each.model: each for each in _all(study, gpu) if each.made < each.trained}
    if not found:
        return
    worst = max(found.values(), key=lambda each: each.cores)
    others = "".join(f", {name}" for name in found if name != worst.model)
    yield (
        f"warning: GPUs may wait for the images of {worst.model}{others}: loader processes make "
        f"the views of about {worst.made:,.0f} images/s a worker ({worst.processes} × "
        f"{worst.made / worst.processes:,.0f}), and an {gpu} at {BUSY:.0%} of its peak trains "
        f"{worst.trained:,.0f} images/s of {worst.model}; cpus_per_worker: {worst.cores + 1} with "
        "loader_workers: auto keeps up, data build with a smaller --shorter-side takes less, and "
        "stream: ray makes a pool's views on the CPUs of all nodes"
    )


def _all(study: StudyState, gpu: str) -> Iterator[Feeding]:
    """Of each model that trains on GPUs, once for each of its datasets."""
    experiment, seen = study.plan.experiment, set[tuple[str, str]]()
    for search in study.plan.searches:
        cell = search.cell
        options = experiment.train_of(cell.model)
        if not options.gpus_per_worker or (cell.model, cell.dataset) in seen:
            continue
        seen.add((cell.model, cell.dataset))
        spec = study.plan.spec(search, {}, 0, "a parent" if search.parent else None)
        found = _feeding(cell.model, spec, options, experiment.datasets[cell.dataset], gpu)
        if found is not None:
            yield found


def _feeding(
    model: str, spec: TrialSpec, options: TrainOptions, dataset: Dataset, gpu: str
) -> Feeding | None:
    """None for a method without steps, and where FLOPs cannot be counted."""
    method = find_method(spec.method)
    recipe = spec.recipe
    if not isinstance(method, Stepped) or not isinstance(recipe, SteppedRecipe):
        return None
    flops = flops_of(spec, dataset.num_classes)
    if flops is None:
        return None
    with_pool = spec.pool_images is not None
    images = recipe.batch_size * len(method.labeled_views) / 2
    if with_pool and (spec.pool == "labeled" or not uses_ray_stream(options.stream, dataset)):
        assert isinstance(recipe, PoolRecipe)
        images += recipe.pool_batch_size * len(method.pool_views) / 2
    step_flops = flops * method.forwards_per_step(recipe, with_pool)
    trained = images * options.gpus_per_worker * BUSY * peak(gpu, spec.precision) / step_flops
    processes = options.loader_processes or 1  # without any, the worker makes them itself
    made = processes * CORE_IMAGES * min(1.0, (CORE_SIZE / recipe.img_size) ** 2)
    return Feeding(model, processes, made, trained)
