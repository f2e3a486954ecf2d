"""What a model card says a model is not good for, from the data alone."""

from collections.abc import Sequence

from semigrid.grid.analysis.results import FEW_IMAGES
from semigrid.grid.analysis.slices import tally
from semigrid.grid.export.card_facts import CardFacts
from semigrid.grid.export.card_scores import ClassScore, confidence_gap
from semigrid.grid.tables.markdown import escape
from semigrid.trainers.predictions import Predictions
from semigrid.trainers.scores import calibration_error


def limitations(facts: CardFacts) -> list[str]:
    lines = [
        f"Measured on {len(facts.predictions.labels):,} test images of the dataset above and on "
        "nothing else. On images from another place, camera or time it may do worse: measure it on "
        "some of yours first. Give it images as the dataset has them: upright, in "
        "RGB, what is transparent on white.",
        f"Whatever the image shows, it answers with one of its {len(facts.manifest.classes)} "
        "classes; what is none of them is not told apart.",
        *_weak_classes(facts.classes),
        *_weak_slices(facts.predictions),
        _calibration(facts.predictions),
        "Whoever takes this cell out of a grid for its score on test has chosen by luck, too: the "
        "score of such a choice is too good, the more so the more cells there were.",
    ]
    skipped = sum(len(record.broken_images) for record in facts.chain)
    if skipped:
        lines.append(f"{skipped:,} broken images were skipped in training.")
    return ["## Limitations", "", *(f"- {line}" for line in lines), ""]


def _weak_classes(classes: Sequence[ClassScore]) -> list[str]:
    measured = [each for each in classes if each.images]
    average = sum(each.right for each in measured) / sum(each.images for each in measured)
    weak = [each for each in measured if each.accuracy < average][:3]
    lines = []
    if weak:
        named = ", ".join(
            f"{escape(each.name)} ({each.right} of {each.images} right, "
            f"{each.training:,} training images)"
            for each in weak
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
        tallies = tally(predictions.slices[name], predictions.right)
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
