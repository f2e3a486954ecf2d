"""What a model card says of how a model came to be, and of the licences that go with it."""

from collections.abc import Sequence
from datetime import UTC, datetime

from semigrid.grid.export.card_facts import CardFacts, weights_words
from semigrid.grid.export.check import show_difference
from semigrid.grid.status.show import show_seconds
from semigrid.grid.study.ledger import Record
from semigrid.grid.tables.markdown import escape, table
from semigrid.trainers.methods import why_unused
from semigrid.trainers.weights import UNSTATED, is_non_commercial


def training(facts: CardFacts) -> list[str]:
    weights, record = facts.record.weights, facts.record
    start = "random weights" if weights is None else weights_words(weights)
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
            [f"`{name}`", "none" if value == "" else f"`{value}`"]
            for name, value in recipe.model_dump(mode="json").items()
            if value is not None and why_unused(name, recipe, spec.method) is None
        ]
        lines += [*table(["hyper-parameter", "value"], values, "ll"), ""]
    return lines


_WEIGHTS_NAMES = {
    "student": "weights",
    "ema": "averaged weights (EMA)",
}


def licences(facts: CardFacts) -> list[str]:
    weights, manifest = facts.record.weights, facts.manifest
    if weights is None:
        text = (
            "No pretrained weights are in this model: training began from random ones. Nobody has "
            "chosen a licence for it yet; whoever publishes it has to."
        )
    elif weights.license == UNSTATED:
        text = (
            f"Training began from {weights_words(weights)}. Find out under which licence those "
            "are before using or publishing this model."
        )
    elif is_non_commercial(weights.license):
        text = (
            f"Training began from {weights_words(weights)}: this model, made from them, is "
            "**not for commercial use** either."
        )
    else:
        text = (
            f"Training began from {weights_words(weights)}: this model is made from them, and "
            "that licence's terms go with it."
        )
    lines = ["## Licences", "", f"- {text}"]
    note = " **(not for commercial use)**" if is_non_commercial(manifest.license) else ""
    lines.append(
        f"- The images of {escape(manifest.name)} are under: {escape(manifest.license)}{note}. "
        "They are not in this folder."
    )
    return [*lines, ""]


def provenance(facts: CardFacts) -> list[str]:
    record, check = facts.record, facts.check
    versions = ", ".join(f"{name} {escape(v)}" for name, v in sorted(record.versions.items()))
    images = "test images" if check.real_images else "random images"
    checked = f"Checked on {check.images} {images}: the model as timm opens it differs from the "
    checked += f"trained one by at most {show_difference(check.timm)} in logits and probabilities"
    if check.onnx is not None:
        checked += f", the ONNX file in ONNX Runtime by {show_difference(check.onnx)}"
    if check.measured is not None:
        measured = show_difference(check.measured)
        checked += f"; the probabilities differ by {measured} from those measured on test"
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
