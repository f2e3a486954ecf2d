"""What is still to be spent: from finished trials or, where there are none, from FLOPs."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from semigrid.grid.study.plan import Search
from semigrid.grid.study.state import StudyState
from semigrid.grid.study.summary import CostSample, forwards, kind_of_model
from semigrid.trainers.progress import DeviceSeconds, add
from semigrid.trainers.trial import TrialSpec

# What is assumed without a finished trial. GPUs: this one, at this share of its peak. CPUs: what
# PyTorch reaches on one core in float32, beside what a core needs to make a view (three forwards)
# and, however small the model is, for a step.
ASSUMED_GPU = "NVIDIA A10G"
ASSUMED_SHARE_OF_PEAK = 0.3
CORE_FLOPS = 2e10
FORWARD_CORE_SECONDS = 3e-4
STEP_CORE_SECONDS = 0.01
FROM_FLOPS = "from FLOPs, within a factor of 3 or so"
ASSUMPTION = (
    f"counted from FLOPs: a GPU is an {ASSUMED_GPU} at {ASSUMED_SHARE_OF_PEAK:.0%} of its peak, a "
    f"CPU core does {CORE_FLOPS / 1e9:g} GFLOP/s, and a step or an image cost it something each"
)


@dataclass(frozen=True)
class Estimate:
    """What the trainings of one model still take; ``device_seconds`` None: it cannot be said."""

    model: str
    trainings: int
    device_seconds: DeviceSeconds | None
    basis: str


@dataclass(frozen=True)
class Bill:
    """Device-seconds and their price; ``unpriced`` are the kinds that the file has no price for."""

    device_seconds: DeviceSeconds
    price: float
    unpriced: list[str] = field(default_factory=list)


def estimate(study: StudyState, count_flops: bool) -> list[Estimate]:
    """What each model of the plan still takes.

    Args:
        count_flops: where no trial of a model's kind has finished, build it and count its FLOPs:
            that takes PyTorch, and seconds. Else nothing is said of it.
    """
    samples = [s for summary in study.summaries.values() if (s := summary.sample) is not None]
    left: dict[str, dict[str, int]] = {}
    for search in study.plan.searches:
        trainings = study.trainings_left(search.name)
        if trainings:
            left.setdefault(search.cell.model, {})[search.name] = trainings
    by_name = {search.name: search for search in study.plan.searches}
    found = []
    for model in study.plan.experiment.file.models:
        if model in left:
            searches = {name: by_name[name] for name in left[model]}
            found.append(_of_model(study, searches, left[model], samples, count_flops))
    return found


def _of_model(
    study: StudyState,
    searches: Mapping[str, Search],
    trainings: Mapping[str, int],
    samples: list[CostSample],
    count_flops: bool,
) -> Estimate:
    plan = study.plan
    model = next(iter(searches.values())).cell.model
    specs = {
        name: plan.spec(s, {}, 0, "a parent" if s.parent else None) for name, s in searches.items()
    }
    spec = next(iter(specs.values()))
    on_gpus = plan.experiment.train_of(model).gpus_per_worker > 0
    own = [
        sample
        for sample in samples
        if sample.model == kind_of_model(spec) and ("cpu" not in sample.device_seconds) == on_gpus
    ]
    pace: _Pace | None = None
    share = 1.0
    if own:
        pace = _measured(own)
        if plan.experiment.file.search.early_stopping:
            share = statistics.fmean(sample.share for sample in own)
    elif count_flops:
        classes = plan.experiment.datasets[next(iter(searches.values())).cell.dataset].num_classes
        pace = _counted(spec, classes, on_gpus)
    count = sum(trainings.values())
    if pace is None:
        why = "its FLOPs cannot be counted" if count_flops else "no trial of it has finished yet"
        return Estimate(model, count, None, why)
    passes = sum(
        share * trainings[name] * forwards(s.recipe, s.method) for name, s in specs.items()
    )
    steps = sum(share * trainings[name] * s.recipe.total_steps for name, s in specs.items())
    seconds = {kind: passes * each for kind, each in pace.per_forward.items()}
    if pace.per_step:
        seconds = add(seconds, {"cpu": steps * pace.per_step})
    return Estimate(model, count, seconds, pace.basis)


@dataclass(frozen=True)
class _Pace:
    """Device-seconds by kind for a forward of an image, and seconds of a core for a step."""

    per_forward: DeviceSeconds
    basis: str
    per_step: float = 0.0


def _measured(samples: list[CostSample]) -> _Pace:
    """The middle one of the trials on the usual devices.

    Not the mean: a trial that was trained twice, or beside a neighbour, says little of the others.
    """
    usual, _ = Counter(tuple(sorted(s.device_seconds)) for s in samples).most_common(1)[0]
    alike = sorted(
        (s for s in samples if tuple(sorted(s.device_seconds)) == usual), key=lambda s: s.rate
    )
    middle = alike[len(alike) // 2]
    passed = middle.forwards * middle.share
    basis = f"from {len(samples)} finished trial" + ("s" if len(samples) != 1 else "")
    return _Pace({kind: s / passed for kind, s in middle.device_seconds.items()}, basis)


def _counted(spec: TrialSpec, classes: int, on_gpus: bool) -> _Pace | None:
    """Imports PyTorch and builds the model, without its weights."""
    import torch

    from semigrid.trainers.health import flops_per_image, peak_flops
    from semigrid.trainers.trial_model import start_model

    try:
        with torch.device("meta"):
            model = start_model(spec.model_copy(update={"weights": "random"}), classes, None)
    except Exception:  # whatever timm raises: a run says it, an estimate only lacks a figure
        return None
    flops = flops_per_image(model, spec.recipe.img_size)
    if flops is None:
        return None
    if not on_gpus:
        per_forward = flops / CORE_FLOPS + FORWARD_CORE_SECONDS
        return _Pace({"cpu": per_forward}, FROM_FLOPS, STEP_CORE_SECONDS)
    peak = peak_flops(ASSUMED_GPU, spec.precision)
    assert peak is not None
    return _Pace({ASSUMED_GPU: flops / (peak * ASSUMED_SHARE_OF_PEAK)}, FROM_FLOPS)


def total(estimates: Iterable[Estimate]) -> DeviceSeconds:
    """Of all models of which something can be said."""
    found: DeviceSeconds = {}
    for each in estimates:
        found = add(found, each.device_seconds or {})
    return found


def spent(study: StudyState, running: Mapping[str, DeviceSeconds] | None = None) -> DeviceSeconds:
    """Device-seconds of all trials in the ledger.

    Args:
        running: what running trials have spent so far, by id, in place of what the ledger has.
    """
    by_trial = {i: summary.device_seconds for i, summary in study.summaries.items()}
    total: DeviceSeconds = {}
    for device_seconds in (by_trial | dict(running or {})).values():
        total = add(total, device_seconds)
    return total


def bill(device_seconds: DeviceSeconds, prices: Mapping[str, float]) -> Bill:
    """At the file's prices per device-hour."""
    price = sum(s / 3600 * prices.get(kind, 0.0) for kind, s in device_seconds.items())
    return Bill(device_seconds, price, [kind for kind in device_seconds if kind not in prices])


def show_bill(device_seconds: DeviceSeconds, prices: Mapping[str, float]) -> str:
    """``12.3 h of NVIDIA A10G, 0.4 h of cpu cores, price 14.78``."""
    hours = ", ".join(f"{show_hours(s)} of {_unit(k)}" for k, s in sorted(device_seconds.items()))
    if not hours:
        return "nothing"
    if not prices:
        return hours
    found = bill(device_seconds, prices)
    missing = f" without {', '.join(found.unpriced)}" if found.unpriced else ""
    if len(found.unpriced) == len(device_seconds):
        return f"{hours} (no price for {', '.join(found.unpriced)})"
    return f"{hours}, price {show_price(found.price)}{missing}"


def show_price(price: float) -> str:
    return f"{price:,.2f}" if price >= 0.095 or price == 0 else f"{price:.2g}"


def show_hours(seconds: float) -> str:
    """``310 h``, ``1.2 h``, ``4.5 min``, ``12 s``."""
    hours = seconds / 3600
    if hours >= 1:
        return f"{hours:,.0f} h" if hours >= 99.5 else f"{hours:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _unit(kind: str) -> str:
    return "CPU cores" if kind == "cpu" else kind
