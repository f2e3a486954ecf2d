"""The model card of an export: what the model is, how to use it, how good it is, what it is not.

Pure: facts in, Markdown out, with the front matter that the Hugging Face hub reads. All text that
comes from data is escaped.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction

from huggingface_hub import EvalResult, ModelCardData

from data.schema import Manifest
from data.splits import images_at
from grid.card_code import ONNX_CODE, TIMM_CODE
from grid.card_scores import (
    ClassScore,
    class_scores,
    class_table,
    confidence_gap,
    score_table,
    slice_tables,
    summary,
)
from grid.experiment import show_percent
from grid.ledger import Record
from grid.markdown import escape, table
from grid.plan import Cell
from grid.results import mean, std
from grid.show import show_seconds
from grid.slices import FEW_IMAGES, tally
from trainers.predictions import Predictions
from trainers.recipe import why_unused
from trainers.scores import calibration_error
from trainers.weights import UNSTATED, Weights, is_non_commercial

CARD = "README.md"
# names that the hub knows; any other is `other` there, with a name of its own
_HUB_LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nd-4.0", "openrail"),
    *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
)
_DATA_ONLY = "not-chosen"  # the licence of weights that began as random ones


@dataclass(frozen=True)
class Check:
    """What was found when the exported files were used, on so many images.

    The largest differences of logits and probabilities: of the model as timm opens it and of the
    ONNX file (None without one) to the model in PyTorch; and, of probabilities, of that model to
    what was measured on test. ``why_random`` says why there were no test images to take.
    """

    images: int
    timm: float
    onnx: float | None
    measured: float | None
    why_random: str | None = None

    @property
    def real_images(self) -> bool:
        return self.why_random is None


@dataclass(frozen=True)
class CardFacts:
    """``chain`` holds the records from the first training to the one that is exported."""

    cell: Cell
    chain: list[Record]
    seeds: dict[int, Record]
    trials: int
    manifest: Manifest
    predictions: Predictions
    check: Check
    onnx: bool

    @property
    def record(self) -> Record:
        return self.chain[-1]

    @property
    def training_images(self) -> dict[str, int]:
        """Labelled training images by class, of the cell's fraction."""
        fraction = Fraction(self.record.spec.labels)
        counts = self.manifest.counts["train"]
        return {name: images_at(fraction, images) for name, images in counts.items()}

    @property
    def classes(self) -> list[ClassScore]:
        return class_scores(self.predictions, self.manifest.classes, self.training_images)


def card_license(weights: Weights | None) -> str:
    """The licence of the weights that training began with, by the hub's name for it if it has one.

    ``other`` where nobody has stated one: with random weights at the start it is the user's to
    choose.
    """
    known = weights.license.split(" ")[0].lower() if weights else ""
    return known if known in _HUB_LICENSES else "other"


def model_card(facts: CardFacts) -> str:
    parts = [
        [f"---\n{_front_matter(facts)}\n---", "", f"# {escape(facts.cell.name)}", ""],
        _introduction(facts),
        _usage(facts),
        _data(facts),
        _scores(facts),
        _training(facts),
        _licences(facts),
        _limitations(facts),
        _provenance(facts),
    ]
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def _front_matter(facts: CardFacts) -> str:
    spec, weights = facts.record.spec, facts.record.weights
    license = card_license(weights)
    own_name = None
    if license == "other":
        own_name = _DATA_ONLY if weights is None else _slug(weights.license)
    dataset = _slug(facts.manifest.name)
    scores = facts.predictions.metrics()
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset,
            dataset_name=facts.manifest.name,
            dataset_split="test",
            metric_type="accuracy",
            metric_name=name,
            metric_value=round(scores[key] / 100, 4),
        )
        for name, key in (("Acc@1", "acc1"), ("Acc@5", "acc5"))
    ]
    tags = ["image-classification", "timm", "semigrid"]
    if spec.method == "semi":
        tags.append("semi-supervised-learning")
    if facts.onnx:
        tags.append("onnx")
    started_at_hub = weights is not None and facts.chain[0].spec.weights == "timm"
    card = ModelCardData(
        base_model=weights.source if weights is not None and started_at_hub else None,
        datasets=[dataset],
        eval_results=results,
        library_name="timm",
        license=license,
        license_name=own_name,
        metrics=["accuracy"],
        model_name=_slug(facts.cell.name),
        pipeline_tag="image-classification",
        tags=tags,
    )
    return str(card.to_yaml())


def _introduction(facts: CardFacts) -> list[str]:
    spec, classes = facts.record.spec, facts.manifest.classes
    labels = f"{sum(facts.training_images.values()):,} labelled"
    pool = "" if spec.pool_images is None else f" and {spec.pool_images:,} unlabelled"
    method = {"finetune": "trained on labels", "semi": "trained semi-supervised (Semi-ViT's way)"}
    lines = [
        f"An image classifier of {len(classes)} classes, `{spec.backbone}`, "
        f"{method[spec.method]} on {labels}{pool} images of {escape(facts.manifest.name)}.",
        "",
        f"It puts **{summary(facts.predictions)}** into their class.",
        "",
    ]
    weights = facts.record.weights
    if weights is not None and is_non_commercial(weights.license):
        lines += [f"**Not for commercial use:** {_weights_words(weights)}.", ""]
    return lines


def _usage(facts: CardFacts) -> list[str]:
    lines = [
        "## How to use it",
        "",
        "With [timm](https://github.com/huggingface/pytorch-image-models), in this folder:",
        "",
        f"```python\n{TIMM_CODE}```",
        "",
    ]
    if facts.onnx:
        lines += [
            "Without PyTorch, by [ONNX Runtime](https://onnxruntime.ai), NumPy and Pillow:",
            "",
            f"```python\n{ONNX_CODE}```",
            "",
            "`model.onnx` takes `images`, float32 (N, 3, H, W) of any N, normalised, and gives "
            "`logits` and `probabilities`, (N, classes). Class names, size, mean and standard "
            "deviation are in its metadata.",
            "",
        ]
    return lines


def _data(facts: CardFacts) -> list[str]:
    manifest, spec = facts.manifest, facts.record.spec
    counts = {split: sum(by_class.values()) for split, by_class in manifest.counts.items()}
    used = sum(facts.training_images.values())
    pool = f"{manifest.pool:,}"
    if spec.pool_images is not None:
        pool += f", of which {spec.pool_images:,} were used"
    rows = [
        ["dataset", escape(manifest.name)],
        ["source", _source(manifest.source)],
        ["licence", escape(manifest.license)],
        ["fingerprint", f"`{manifest.fingerprint}`"],
        ["classes", str(len(manifest.classes))],
        [
            "training images",
            f"{counts['train']:,} with labels, of which {used:,} were used "
            f"({show_percent(Fraction(spec.labels))} of each class)",
        ],
        ["validation images", f"{counts['val']:,}, which chose the model"],
        ["test images", f"{counts['test']:,}, looked at once, for this card"],
        ["images without labels", pool],
    ]
    return ["## Data", "", *table(["", ""], rows, "ll"), ""]


def _scores(facts: CardFacts) -> list[str]:
    lines = [
        "## How good it is",
        "",
        "On the dataset's test images; the intervals say what another sample of such images might "
        "have given.",
        "",
        *score_table(facts.predictions),
        "",
    ]
    if len(facts.seeds) > 1:
        lines += [*_seed_lines(facts), ""]
    lines += ["### By class, the weakest first", "", *class_table(facts.classes), ""]
    if facts.predictions.slices:
        lines += ["### By slice", "", *slice_tables(facts.predictions), ""]
    return lines


def _seed_lines(facts: CardFacts) -> list[str]:
    tests = {seed: record.test["acc1"] for seed, record in facts.seeds.items() if record.test}
    each = ", ".join(f"seed {seed} {acc1:.2f} %" for seed, acc1 in tests.items())
    average, spread = mean(list(tests.values())), std(list(tests.values()))
    found = f"{average:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")
    return [
        f"The same recipe was trained on {len(facts.seeds)} seeds. This is seed "
        f"{facts.record.spec.seed}, the best of them on validation. Acc@1 on test: {each}; "
        f"{found} % (mean ± standard deviation) is what to expect of another training."
    ]


def _training(facts: CardFacts) -> list[str]:
    weights, record = facts.record.weights, facts.record
    start = "random weights" if weights is None else _weights_words(weights)
    lines = [
        "## How it was trained",
        "",
        f"Started from {start}. The recipe won among {facts.trials} trials on validation; exported "
        f"are the {_WEIGHTS_NAMES[record.best_weights]} at step {record.best_step:,} of "
        f"{record.spec.recipe.total_steps:,}, the best ones on validation.",
        "",
    ]
    for number, stage in enumerate(facts.chain, 1):
        spec, recipe = stage.spec, stage.spec.recipe
        lines += [
            f"### Stage {number} of {len(facts.chain)}: `{spec.method}`",
            "",
            f"Seed {spec.seed}, precision `{spec.precision}`, {recipe.total_steps:,} steps, "
            f"{_duration(stage)}, trial `{stage.id}`"
            + ("" if number == 1 else f", from the weights of stage {number - 1}")
            + ". Hyper-parameters that act in it:",
            "",
        ]
        values = [
            [f"`{name}`", f"`{value}`"]
            for name, value in recipe.model_dump(mode="json").items()
            if value is not None and why_unused(name, recipe, spec.method) is None
        ]
        lines += [*table(["hyper-parameter", "value"], values, "ll"), ""]
    return lines


_WEIGHTS_NAMES = {
    "student": "student's weights",
    "ema": "averaged weights of the teacher (EMA)",
}


def _licences(facts: CardFacts) -> list[str]:
    weights, manifest = facts.record.weights, facts.manifest
    if weights is None:
        text = (
            "No pretrained weights are in this model: training began from random ones. Nobody has "
            "chosen a licence for it yet; whoever publishes it has to."
        )
    elif weights.license == UNSTATED:
        text = (
            f"Training began from {_weights_words(weights)}. Find out under which licence those "
            "are before using or publishing this model."
        )
    elif is_non_commercial(weights.license):
        text = (
            f"Training began from {_weights_words(weights)}: this model, made from them, is "
            "**not for commercial use** either."
        )
    else:
        text = (
            f"Training began from {_weights_words(weights)}: this model is made from them, and "
            "that licence's terms go with it."
        )
    lines = ["## Licences", "", f"- {text}"]
    note = " **(not for commercial use)**" if is_non_commercial(manifest.license) else ""
    lines.append(
        f"- The images of {escape(manifest.name)} are under: {escape(manifest.license)}{note}. "
        "They are not in this folder."
    )
    return [*lines, ""]


def _weights_words(weights: Weights) -> str:
    terms = f"licence {escape(weights.license)}"
    if is_non_commercial(weights.license):
        terms += " (not for commercial use)"
    known = f", SHA-256 `{weights.sha256}`" if weights.sha256 else ""
    return f"{_source(weights.source)}, {terms}{known}"


def _limitations(facts: CardFacts) -> list[str]:
    lines = [
        f"Measured on {len(facts.predictions.labels):,} test images of the dataset above and on "
        "nothing else. On images from another place, camera or time it may do worse: measure it on "
        "some of yours first.",
        f"Whatever the image shows, it answers with one of its {len(facts.manifest.classes)} "
        "classes; what is none of them is not told apart.",
        *_weak_classes(facts.classes),
        *_weak_slices(facts.predictions),
        _calibration(facts.predictions),
    ]
    skipped = sum(len(record.broken_images) for record in facts.chain)
    if skipped:
        lines.append(f"{skipped:,} broken images were skipped in training.")
    return ["## Limitations", "", *(f"- {line}" for line in lines), ""]


def _weak_classes(classes: Sequence[ClassScore]) -> list[str]:
    measured = [each for each in classes if each.images]
    imperfect = [each for each in measured if each.right < each.images][:3]
    lines = []
    if imperfect:
        named = ", ".join(
            f"{escape(each.name)} ({each.right} of {each.images} right, "
            f"{each.training:,} training images)"
            for each in imperfect
        )
        lines.append(f"Weakest classes: {named}.")
    few = [each for each in measured if each.images < FEW_IMAGES]
    if few:
        which = "All" if len(few) == len(classes) else f"{len(few)} of {len(classes)}"
        lines.append(
            f"{which} classes have fewer than {FEW_IMAGES} test images: of each alone, the "
            "accuracy is uncertain, and the order of the weakest may be chance."
        )
    if missing := [escape(each.name) for each in classes if not each.images]:
        lines.append(f"Nothing is known of classes without test images: {', '.join(missing)}.")
    return lines


def _weak_slices(predictions: Predictions) -> list[str]:
    lines = []
    for name in predictions.slices:
        tallies = tally(predictions, name)
        if len(tallies) > 1:
            worst, found = min(tallies.items(), key=lambda item: item[1].acc1)
            lines.append(
                f"Weakest {escape(name)}: {escape(worst)} ({found.right} of {found.images} right)."
            )
        few = [f"{escape(v)} ({t.images})" for v, t in tallies.items() if t.images < FEW_IMAGES]
        if few:
            lines.append(
                f"Too few test images to judge it by {escape(name)} for: {', '.join(few)}."
            )
    return lines


def _calibration(predictions: Predictions) -> str:
    gap = confidence_gap(predictions)
    error = calibration_error(predictions.right, predictions.probabilities.max(axis=1))
    tends = "surer" if gap > 0 else "less sure"
    return (
        f"Its probabilities are {100 * error:.1f} points off on average (expected calibration "
        f"error); over all, it is {100 * abs(gap):.1f} points {tends} than it is right."
    )


def _provenance(facts: CardFacts) -> list[str]:
    record, check = facts.record, facts.check
    versions = ", ".join(f"{name} {escape(v)}" for name, v in sorted(record.versions.items()))
    images = "test images" if check.real_images else "random images"
    checked = f"Checked on {check.images} {images}: the model as timm opens it differs from the "
    checked += f"trained one by at most {check.timm:.1e} in logits and probabilities"
    if check.onnx is not None:
        checked += f", the ONNX file in ONNX Runtime by {check.onnx:.1e}"
    if check.measured is not None:
        checked += f"; the probabilities differ by {check.measured:.1e} from those measured on test"
    rows = [
        ["made by", "semigrid"],
        ["cell", escape(facts.cell.name)],
        ["trial", f"`{record.id}`"],
        ["finished", _date(record.finished_at)],
        ["versions", versions or "not recorded"],
        ["machine", escape(record.machine)],
        ["devices", _devices(facts.chain)],
    ]
    return ["## How it was made", "", *table(["", ""], rows, "ll"), "", f"{checked}.", ""]


def _devices(chain: Sequence[Record]) -> str:
    total: dict[str, float] = {}
    for record in chain:
        for kind, seconds in record.device_seconds.items():
            total[kind] = total.get(kind, 0.0) + seconds
    shown = [
        f"{show_seconds(seconds)} of {'a CPU core' if kind == 'cpu' else escape(kind)}"
        for kind, seconds in total.items()
    ]
    return ", ".join(shown) or "not recorded"


def _duration(record: Record) -> str:
    return f"{show_seconds(record.seconds)} (minutes:seconds)" if record.seconds else "no time"


def _date(seconds: float | None) -> str:
    return "not recorded" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def _source(source: str) -> str:
    """Where something is from. Of a path on the maker's machine only the end is told."""
    path = source.removeprefix("file://")
    if path.startswith("/"):
        return f"{escape(path.rstrip('/').rpartition('/')[2])} (a local file or folder)"
    return escape(source)


def _slug(text: str) -> str:
    """Letters, digits, dots and dashes: what the hub takes for a name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "unnamed"
