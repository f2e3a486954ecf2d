"""The model card of an export: what the model is, how to use it, how good it is, what it is not.

Pure: facts in, Markdown out, with the front matter that the Hugging Face hub reads.
"""

import re
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from semigrid.grid.analysis.result_set import FEW_IMAGES
from semigrid.grid.analysis.statistics import Interval, mean, std
from semigrid.grid.experiment import show_percent
from semigrid.grid.export.card_facts import CardFacts
from semigrid.grid.export.check import show_difference
from semigrid.grid.status.show import show_seconds
from semigrid.trainers.models.weights import UNSTATED, Weights, is_non_commercial

CARD = "README.md"
OTHER = "other"
# what begins emphasis, code, links, images, tables, strikethrough, mathematics, headings, addresses
_MARKS = re.compile(r"([\\`*_\[\]|~$#:@])")
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
# control characters, and those that change the direction of the text after them
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
# Licences that the hub knows by these names; any other is `other` there, with a name of its own.
_HUB_LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nd-4.0", "openrail"),
    *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
)


def model_card(facts: CardFacts) -> str:
    """The card of an exported model, from the template ``card.md.j2``."""
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
        code=_code,
        bounds=_bounds,
        date=lambda seconds: f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}",
        difference=show_difference,
        duration=lambda seconds: Markup(show_seconds(seconds)),
        mean=lambda values: mean(list(values)),
        std=lambda values: std(list(values)),
        fraction=lambda text: show_percent(Fraction(text)),
        number=lambda number: f"{number:,}",
        origin=_origin,
        percent=lambda share, digits=1: f"{100 * share:.{digits}f} %",
    )
    environment.tests["non_commercial"] = is_non_commercial
    return environment.get_template("card.md.j2").render(
        facts=facts, front_matter=_front_matter(facts), few_images=FEW_IMAGES, unstated=UNSTATED
    )


def card_license(weights: Weights | None, data_license: str) -> str:
    """The hub's name of the licence of the weights that training began with.

    ``other`` where it has none, where nobody has stated a licence (after random weights it is the
    user's to choose), and where it would promise more than the images allow.
    """
    if weights is None:
        return OTHER
    name = weights.license.split(" ")[0].lower()
    if is_non_commercial(data_license) and not is_non_commercial(name):
        return OTHER
    return name if name in _HUB_LICENSES else OTHER


def _front_matter(facts: CardFacts) -> Markup:
    license = card_license(facts.weights, facts.manifest.license)
    own_name = None
    if license == OTHER and is_non_commercial(facts.manifest.license):
        own_name = "non-commercial-data"
    elif license == OTHER:
        own_name = "not-chosen" if facts.weights is None else _slug(facts.weights.license)
    dataset = _slug(facts.manifest.name)
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset,
            dataset_name=facts.manifest.name,
            dataset_split="test",
            metric_type="accuracy",
            metric_name=name,
            metric_value=round(value, 4),
        )
        for name, value in (("Acc@1", facts.scores.acc1), ("Acc@5", facts.scores.acc5))
    ]
    tags = ["image-classification", "timm", "semigrid"]
    if facts.method.needs_pool:
        tags.append("semi-supervised-learning")
    if facts.onnx:
        tags.append("onnx")
    from_hub = facts.weights is not None and facts.chain[0].spec.weights == "timm"
    data = ModelCardData(
        base_model=facts.weights.source if facts.weights is not None and from_hub else None,
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
    return Markup(data.to_yaml())


def _slug(text: str) -> str:
    """Letters, digits, dots and dashes: what the hub takes for a name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "unnamed"


def _markdown(value: Any) -> Any:
    """How the template writes a value: text is escaped, so that data stays text."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return Markup(escape(value))


def _code(text: object) -> Markup:
    """Text as code, where it can be."""
    return Markup(escape(str(text)) if re.search(r"[`|\n]|^$", str(text)) else f"`{text}`")


def _bounds(interval: Interval | None, scale: float = 100, digits: int = 1) -> str:
    if interval is None:
        return "—"
    return f"{scale * interval.low:.{digits}f}–{scale * interval.high:.{digits}f}"


def _origin(source: str) -> str:
    """Where something is from; of a path on the maker's machine, only its last part."""
    path = source.removeprefix("file://")
    if path.startswith("/"):
        return f"{path.rstrip('/').rpartition('/')[2]} (a local file or folder)"
    return source


def escape(text: str) -> str:
    """The text on one line, for a paragraph, a list or a cell of a table; it stays text."""
    line = _CONTROLS.sub(" ", text).strip()
    # an HTML entity begins with & and contains no mark
    return _MARKS.sub(r"\\\1", line.translate(_HTML)) or "(empty)"
