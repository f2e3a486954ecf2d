"""What trainings cost and will cost, estimated from finished trials or, without any, FLOPs."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

from semigrid.data.plausible import Count, DeviceSeconds
from semigrid.grid.experiment.bill import bill
from semigrid.grid.status.gpus import peak
from semigrid.grid.study.ledger import ENDED, Record
from semigrid.grid.study.plan import Search
from semigrid.grid.study.state import StudyState
from semigrid.trainers.execution.progress import add
from semigrid.trainers.recipe import SteppedRecipe
from semigrid.trainers.trial.identity import TrialSpec

# Assumptions of an estimate from FLOPs: GPUs are this one at this share of its peak. A CPU core
# reaches this many FLOP/s in float32, and takes this many seconds more per forward (a view takes
# three forwards' worth) and per step, however small the model is.
ASSUMED_GPU = "NVIDIA A10G"
ASSUMED_SHARE_OF_PEAK = 0.3
CORE_FLOPS = 2e10
FORWARD_CORE_SECONDS = 3e-4
STEP_CORE_SECONDS = 0.01
FROM_FLOPS = "from FLOPs, within a factor of 3 or so"
ASSUMPTION = (
    f"counted from FLOPs: a GPU is an {ASSUMED_GPU} at {ASSUMED_SHARE_OF_PEAK:.0%} of its peak, a "
    f"CPU core does {CORE_FLOPS / 1e9:g} GFLOP/s, plus a fixed time for each step and image"
)


@dataclass(frozen=True)
class Estimate:
    """What the remaining trainings of one model, or of its controls of one kind, take.

    And what its winners are still asked as teachers. ``device_seconds`` is None if unknown.
    """

    model: str
    trainings: Count
    device_seconds: DeviceSeconds | None
    basis: str


@dataclass(frozen=True)
class _Left:
    """A search, one trial of it, and how many trainings and answers for the pool remain."""

    search: Search
    spec: TrialSpec
    trainings: int
    answers: int


@dataclass(frozen=True)
class Cost:
    """What a study has spent, and what its remaining trainings take, at the file's prices."""

    spent: DeviceSeconds
    estimates: list[Estimate]
    prices: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Bills of what is spent and left, and the estimates by model."""
        return {
            "spent": asdict(bill(self.spent, self.prices)),
            "left": asdict(bill(total(self.estimates), self.prices)),
            "models": [asdict(each) for each in self.estimates],
        }


def estimate(study: StudyState, count_flops: bool) -> list[Estimate]:
    """What the remaining trainings of each model take.

    Args:
        count_flops: build models of which no trial has finished and count their FLOPs, which
            takes PyTorch and seconds. Without it, such models have no estimate.
    """
    left: dict[str, list[_Left]] = {}
    answers_left = study.answers_left()
    for search in study.plan.searches:
        trainings, answers = study.trainings_left(search.name), answers_left.get(search.name, 0)
        if trainings or answers:
            # the parent's identity changes no cost
            spec = study.plan.spec(search, {}, 0, "a parent" if search.parent else None)
            # controls of one kind cost alike, and not as the cells beside them
            cell = search.cell
            name = cell.model if cell.control is None else f"{cell.model}, {cell.control}"
            left.setdefault(name, []).append(_Left(search, spec, trainings, answers))
    order = list(study.plan.experiment.file.models)
    names = sorted(left, key=lambda name: order.index(left[name][0].search.cell.model))
    return [_of_model(study, name, left[name], count_flops) for name in names]


def _of_model(study: StudyState, name: str, left: list[_Left], count_flops: bool) -> Estimate:
    experiment, search, first = study.plan.experiment, left[0].search, left[0].spec
    on_gpus = experiment.train_of(search.cell.model).gpus_per_worker > 0
    kind = _kind(first)
    samples = [
        record
        for record in study.records.values()
        if record.status in ENDED
        and record.forwards
        and sum(record.device_seconds.values())
        and _kind(record.spec) == kind
        and ("cpu" not in record.device_seconds) == on_gpus
    ]
    count = sum(each.trainings for each in left)
    share = 1.0  # of its steps that a trial trains, on average
    per_step: DeviceSeconds = {}
    if samples:
        per_forward: DeviceSeconds | None = _measured(samples)
        basis = f"from {len(samples)} finished trial" + ("s" if len(samples) != 1 else "")
        if experiment.file.search.early_stopping:
            share = statistics.fmean(record.share_trained for record in samples)
    elif count_flops:
        classes = experiment.datasets[search.cell.dataset].num_classes
        per_forward, basis = _counted(first, classes, on_gpus), FROM_FLOPS
        per_step = {} if on_gpus else {"cpu": STEP_CORE_SECONDS}
    else:
        why = "no trial has finished yet; semigrid plan estimates from FLOPs"
        return Estimate(name, count, None, why)
    if per_forward is None:
        return Estimate(name, count, None, "its FLOPs cannot be counted")
    forwards = study.plan.forwards
    passes = sum(share * each.trainings * forwards[each.search.name] for each in left)
    passes += sum(each.answers for each in left)
    steps = sum(share * each.trainings * _steps(each.spec) for each in left)
    seconds = {kind: passes * each for kind, each in per_forward.items()}
    seconds = add(seconds, {kind: steps * each for kind, each in per_step.items()})
    return Estimate(name, count, seconds, basis)


def _steps(spec: TrialSpec) -> int:
    return spec.recipe.total_steps if isinstance(spec.recipe, SteppedRecipe) else 0


def _kind(spec: TrialSpec) -> tuple[Any, ...]:
    """Equal for trials whose images cost the same."""
    return spec.backbone, spec.backbone_args, spec.method, spec.recipe.img_size, spec.precision


def _measured(samples: list[Record]) -> DeviceSeconds:
    """What one image's forward takes in the median trial on the most common devices.

    The median, since a trial that was trained twice, or beside a busy neighbour, is an outlier. An
    answer as a teacher is a forward, too.
    """
    usual, _ = Counter(frozenset(r.device_seconds) for r in samples).most_common(1)[0]
    paces = [
        {kind: s / (r.forwards + r.soft_targets) for kind, s in r.device_seconds.items()}
        for r in samples
        if r.device_seconds.keys() == usual
    ]
    return sorted(paces, key=lambda pace: sum(pace.values()))[len(paces) // 2]


def _counted(spec: TrialSpec, classes: int, on_gpus: bool) -> DeviceSeconds | None:
    """What one image's forward takes by its FLOPs."""
    flops = flops_of(spec, classes)
    if flops is None:
        return None
    if on_gpus:
        of_gpu = peak(ASSUMED_GPU, spec.precision) * ASSUMED_SHARE_OF_PEAK
        return {ASSUMED_GPU: flops / of_gpu}
    return {"cpu": flops / CORE_FLOPS + FORWARD_CORE_SECONDS}


def flops_of(spec: TrialSpec, classes: int) -> float | None:
    """FLOPs of one image's forward; builds the model, without its weights."""
    import torch

    from semigrid.trainers.models.create import flops_per_image
    from semigrid.trainers.trial.model import start_model

    try:
        with torch.device("meta"):
            model = start_model(spec.model_copy(update={"weights": "random"}), classes, None)
    except Exception:  # timm may raise anything; the run will report it, an estimate does without
        return None
    return flops_per_image(model, spec.recipe.img_size)


def total(estimates: Iterable[Estimate]) -> DeviceSeconds:
    """Device-seconds of all models that have an estimate."""
    return reduce(add, (each.device_seconds or {} for each in estimates), {})


def spent(study: StudyState, running: Mapping[str, DeviceSeconds] | None = None) -> DeviceSeconds:
    """Device-seconds of all trials in the ledger.

    Args:
        running: device-seconds of running trials so far, by id; these override the ledger's.
    """
    by_trial = {i: record.device_seconds for i, record in study.records.items()}
    return reduce(add, (by_trial | dict(running or {})).values(), {})
