"""The model card of an export: what the model is, how to use it, how good it is, what it is not.

Pure: results in, Markdown out, with the front matter that the Hugging Face hub reads.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import reduce
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from semigrid.data.escape import markdown, visible
from semigrid.data.plausible import DeviceSeconds
from semigrid.data.schema import Manifest
from semigrid.data.splits import images_at
from semigrid.grid.analysis.classes import class_results, confusions
from semigrid.grid.analysis.families import chance_of, learnt_cells, what_helps
from semigrid.grid.analysis.numbers import show_difference as show_points_between
from semigrid.grid.analysis.numbers import show_interval
from semigrid.grid.analysis.result_set import FEW_IMAGES, CellResult, ResultSet
from semigrid.grid.analysis.statistics import Weighted, compare, mean_interval
from semigrid.grid.experiment.schema import show_percent
from semigrid.grid.export.check import Check, show_difference
from semigrid.grid.status.show import show_seconds
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.winner import adjustment_note, stages_of
from semigrid.grid.tables.slices import slice_results
from semigrid.trainers.evaluation.predictions import Predictions
from semigrid.trainers.evaluation.scores import cross_entropies
from semigrid.trainers.execution.progress import add
from semigrid.trainers.methods import find_method, why_unused
from semigrid.trainers.models.weights import UNSTATED, Weights, is_non_commercial
from semigrid.trainers.recipe import Adapter, SteppedRecipe
from semigrid.trainers.trial.identity import TrialSpec

CARD = "README.md"
OTHER = "other"
# Licences that the hub knows by these names; any other is `other` there, with a name of its own.
_HUB_LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nd-4.0", "openrail"),
    *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
)


def model_card(
    results: ResultSet,
    record: Record,
    predictions: Predictions,
    parameters: int,
    check: Check,
    worth: str | None = None,
) -> str:
    """The card of an exported model, from the template ``card.md.j2``.

    Args:
        results: those of its cell, with the predictions of its seed only.
        record: of the exported trial.
        predictions: the model's, of the test images.
        worth: what is known of the worth of its unlabelled images; None without any.
    """
    (row,), study = results.rows, results.study
    chain = stages_of(study, record)
    teachers = [study.records[teacher] for teacher in record.spec.teachers]
    trained = {each.id: each for last in (record, *teachers) for each in stages_of(study, last)}
    manifest = results.plan.experiment.datasets[row.cell.dataset].manifest
    (seed,), search = row.predictions, study.searches[row.cell.name]
    classes = class_results(results, row)
    tested = {each.name for each in classes}
    train = manifest.counts["train"]
    device_seconds: DeviceSeconds = reduce(
        add, (each.device_seconds for each in trained.values()), {}
    )
    environment = Environment(
        loader=PackageLoader("semigrid.grid", "export"),
        autoescape=True,  # marks the template's own text as Markdown
        finalize=_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        adapter=_adapter,
        code=_code,
        bounds=show_interval,
        date=lambda seconds: f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}",
        difference=show_difference,
        duration=lambda seconds: Markup(show_seconds(seconds)),
        fraction=show_percent,
        number=lambda number: f"{number:,}",
        origin=_origin,
        percent=lambda value, digits=1: f"{value:.{digits}f} %",
    )
    environment.tests["non_commercial"] = is_non_commercial
    return environment.get_template("card.md.j2").render(
        front_matter=_front_matter(row, manifest, chain, teachers, check.onnx is not None),
        row=row,
        record=record,
        chain=chain,
        teachers=sorted(teachers, key=lambda teacher: teacher.cell),
        manifest=manifest,
        method=find_method(record.spec.method),
        hyper_parameters=_hyper_parameters,
        stepped=lambda spec: isinstance(spec.recipe, SteppedRecipe),
        trials=len(search.trials),
        acc1_by_seed=dict(sorted(zip(search.by_seed, row.scores("acc1"), strict=True))),
        parameters=parameters,
        check=check,
        worth=worth,
        adjustment=adjustment_note(record),
        chance=None if learnt_cells([row]) else f"{chance_of(row):.1%}",
        scores=seed.scores,
        intervals=row.intervals,
        ce_interval=_ce_interval(predictions),
        overconfidence=float(predictions.probabilities.max(axis=1).mean() - row.right.mean()),
        classes=classes,
        untested={
            name: images_at(row.cell.labels, train.get(name, 0))
            for name in manifest.classes
            if name not in tested
        },
        mistaken={each.true: each for each in reversed(confusions(results, row))},
        slices={name: slice_results(results, name)[row.cell] for name in manifest.slices},
        device_seconds=device_seconds,
        few_images=FEW_IMAGES,
        unstated=UNSTATED,
    )


def pool_worth(plan: Plan, row: CellResult, control: CellResult | None) -> str:
    """What a cell's unlabelled images are worth, by its compute control, in a sentence or two."""
    what = what_helps(plan, row.cell.model)
    has_parent = plan.experiment.file.models[row.cell.model].parent is not None
    if row.cell.control is not None:
        return "It is a control: it saw no unlabelled images but those whose labels it has."
    if (control is None or not control.has_predictions) and not has_parent:
        return f"How much of its accuracy is due to {what} has not been tested."
    if control is None or not control.has_predictions:
        return (
            "Training went on for longer than that of the model it started from. How much of its "
            f"accuracy is due to that, and how much to {what}, has not been tested."
        )
    against = compare(row.balanced, control.balanced)
    start = (
        "The same start, trained for as long on the labelled images alone, reaches "
        f"{control.balanced.mean():.1%}"
    )
    if against.is_vague:
        return f"{start}; what {what} add {show_points_between(against)}."
    open_ = " So they may add nothing." if against.interval.low <= 0 else ""
    return f"{start}: {what} add {show_points_between(against)}.{open_}"


def _adapter(adapter: Adapter) -> Markup:
    """What was trained of a model with an adapter."""
    if adapter.targets == ():
        return Markup("only the head was trained")
    return Markup(
        f"only an adapter (LoRA of rank {adapter.rank}) and the head were trained, and the adapter "
        "is merged into the weights"
    )


def _hyper_parameters(spec: TrialSpec) -> dict[str, Any]:
    """The values of a recipe that have an effect in its method."""
    return {
        name: value
        for name, value in spec.recipe.model_dump(mode="json").items()
        if value is not None and why_unused(name, spec.recipe) is None
    }


def _ce_interval(predictions: Predictions) -> tuple[float, float] | None:
    """The interval of the balanced cross-entropy, in nats; None for a single image."""
    if len(predictions.ids) < 2:
        return None
    classes = predictions.probabilities.shape[1]
    balanced = Weighted(predictions.right[None], predictions.labels, np.ones(classes))
    losses = cross_entropies(predictions.labels, predictions.probabilities)
    interval = mean_interval(losses, balanced)
    return max(0.0, interval.low), interval.high


def licenses_of(teachers: Sequence[Record]) -> list[str]:
    """The licences of the weights that a model's teachers are made from."""
    return [each.weights.license for each in teachers if each.weights is not None]


def card_license(
    weights: Weights | None, data_license: str, of_teachers: Sequence[str] = ()
) -> str:
    """The hub's name of the licence of the weights that training began with.

    ``other`` where it has none, where nobody has stated a licence (after random weights it is the
    user's to choose), and where it would promise more than images and teachers allow.
    """
    if weights is None:
        return OTHER
    name = weights.license.split(" ")[0].lower()
    limits = map(is_non_commercial, (data_license, *of_teachers))
    if UNSTATED in of_teachers or (any(limits) and not is_non_commercial(name)):
        return OTHER
    return name if name in _HUB_LICENSES else OTHER


def _front_matter(
    row: CellResult,
    manifest: Manifest,
    chain: Sequence[Record],
    teachers: Sequence[Record],
    onnx: bool,
) -> Markup:
    spec, weights, scores = chain[-1].spec, chain[-1].weights, row.predictions[0].scores
    of_teachers = licenses_of(teachers)
    license = card_license(weights, manifest.license, of_teachers)
    own_name = None
    if license == OTHER and is_non_commercial(manifest.license):
        own_name = "non-commercial-data"
    elif license == OTHER and any(map(is_non_commercial, of_teachers)):
        own_name = "non-commercial-teachers"
    elif license == OTHER and UNSTATED in of_teachers:
        own_name = "teachers-not-stated"
    elif license == OTHER:
        own_name = "not-chosen" if weights is None else _slug(weights.license)
    dataset = _slug(manifest.name)
    scored = [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset,
            dataset_name=visible(manifest.name),
            dataset_split="test",
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for kind, name, value in (
            ("balanced_accuracy", "Acc@1, balanced", scores.acc1),
            ("balanced_top_5_accuracy", "Acc@5, balanced", scores.acc5),
            ("accuracy", "Acc@1, natural", scores.acc1_natural),
            ("top_5_accuracy", "Acc@5, natural", scores.acc5_natural),
        )
    ]
    tags = ["image-classification", "timm", "semigrid"]
    if spec.pool_images is not None:
        tags.append("semi-supervised-learning")
    if onnx:
        tags.append("onnx")
    from_hub = weights is not None and chain[0].spec.weights == "timm"
    data = ModelCardData(
        base_model=visible(weights.source) if weights is not None and from_hub else None,
        datasets=[dataset],
        eval_results=scored,
        library_name="timm",
        license=license,
        license_name=own_name,
        metrics=["balanced_accuracy", "accuracy"],
        model_name=_slug(row.cell.name),
        pipeline_tag="image-classification",
        tags=tags,
    )
    return Markup(data.to_yaml())


def _slug(text: str) -> str:
    """Letters, digits, dots and dashes: what the hub takes for a name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "unnamed"


def _markdown(value: Any) -> Any:
    """How the template writes a value: text is escaped, so that data stays text."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return Markup(markdown(value) or "(empty)")


def _code(value: object) -> Markup:
    """Text as code, where it can be."""
    text = str(value)
    is_plain = re.fullmatch(r"[^`|\s]+( [^`|\s]+)*", text) and visible(text) == text
    return Markup(f"`{text}`") if is_plain else _markdown(text)


def _origin(source: str) -> str:
    """Where something is from; of a path on the maker's machine, only its last part."""
    path = source.removeprefix("file://")
    if path.startswith("/"):
        return f"{path.rstrip('/').rpartition('/')[2]} (a local file or folder)"
    return source
