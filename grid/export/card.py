"""The model card of an export: what the model is, how to use it, how good it is, what it is not.

Pure: facts in, Markdown out, with the front matter that the Hugging Face hub reads. All text that
comes from data is escaped.
"""

import re
from fractions import Fraction

from huggingface_hub import EvalResult, ModelCardData

from semigrid.grid.analysis.results import mean, std
from semigrid.grid.experiment import show_percent
from semigrid.grid.export.card_code import ONNX_CODE, TIMM_CODE
from semigrid.grid.export.card_facts import (
    OTHER,
    CardFacts,
    card_license,
    source_words,
    weights_words,
)
from semigrid.grid.export.card_limits import limitations
from semigrid.grid.export.card_origin import licences, provenance, training
from semigrid.grid.export.card_scores import class_table, score_table, slice_tables, summary
from semigrid.grid.tables.markdown import escape, table
from semigrid.trainers.methods import METHODS
from semigrid.trainers.weights import is_non_commercial

CARD = "README.md"


def model_card(facts: CardFacts) -> str:
    parts = [
        [f"---\n{_front_matter(facts)}\n---", "", f"# {escape(facts.cell.name)}", ""],
        _introduction(facts),
        _usage(facts),
        _data(facts),
        _scores(facts),
        training(facts),
        licences(facts),
        limitations(facts),
        provenance(facts),
    ]
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def _front_matter(facts: CardFacts) -> str:
    spec, weights = facts.record.spec, facts.record.weights
    license = card_license(weights, facts.manifest.license)
    own_name = None
    if license == OTHER and is_non_commercial(facts.manifest.license):
        own_name = "non-commercial-data"
    elif license == OTHER:
        own_name = "not-chosen" if weights is None else _slug(weights.license)
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
    if METHODS[spec.method].needs_pool:
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
    method = METHODS[spec.method]
    labels = f"{sum(facts.training_images.values()):,} labelled"
    pool = "" if spec.pool_images is None else f" and {spec.pool_images:,} unlabelled"
    lines = [
        f"An image classifier of {len(classes)} classes, `{spec.backbone}`, "
        f"{method.summary} on {labels}{pool} images of {escape(facts.manifest.name)}.",
        "",
        f"It puts {summary(facts.predictions)} into their class. It has {facts.parameters:,} "
        f"parameters and sees {spec.recipe.img_size}×{spec.recipe.img_size} pixels.",
        "",
    ]
    weights = facts.record.weights
    if weights is not None and is_non_commercial(weights.license):
        lines += [f"**Not for commercial use:** {weights_words(weights)}.", ""]
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
        ["source", source_words(manifest.source)],
        ["licence", escape(manifest.license)],
        ["fingerprint", f"`{manifest.fingerprint}`"],
        ["classes", str(len(manifest.classes))],
        [
            "training images",
            f"{counts['train']:,} with labels, of which {used:,} were used "
            f"({show_percent(Fraction(spec.labels))} of each class)",
        ],
        ["validation images", f"{counts['val']:,}, which chose the model"],
        ["test images", f"{counts['test']:,}, which had no part in the choice"],
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


def _slug(text: str) -> str:
    """Letters, digits, dots and dashes: what the hub takes for a name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "unnamed"
