"""The report of a build as sentences."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from semigrid.data.builder.curate import RANKS
from semigrid.data.builder.rare import spelling_lines
from semigrid.data.crowd.consensus import spellings_of
from semigrid.data.precision import few_names, precision_line, val_lines
from semigrid.data.schema import Dataset

MOST_SPELLINGS = 5  # that are listed


def problem_kind(problem: str) -> str:
    """Why an image cannot be used, without what concerns this image alone."""
    return re.split(r"[:(]", problem)[0].strip()


def report_lines(dataset: Dataset, report: dict[str, Any]) -> list[str]:
    """Sentences about images kept and left out, from the report of ``build_dataset``."""
    splits = ", ".join(f"{count:,} {split}" for split, count in report["splits"].items())
    lines = [f"{report['kept']:,} of {report['images']:,} images kept: {splits}"]
    lines += _given_lines(report["given_splits"])
    lines += [precision_line(report["test"]), *val_lines(dataset.manifest.counts)]
    if missed := report["test"]["missed"]:
        name, of = next(iter(missed.items()))
        lines.append(
            f"groups, which stay together, gave test more or fewer images than it should have in "
            f"{len(missed):,} of {len(dataset.manifest.classes):,} classes: {name} "
            f"{of['images']:,} instead of {of['quota']:,}" + (", …" if len(missed) > 1 else "")
        )
    if rare := report["rare"]["classes"]:
        pooled = report["rare"]["what"] == "pool"
        became = ", and their images joined the pool" if pooled else " with their images"
        numbers = few_names({name: len(images) for name, images in rare.items()})
        lines.append(f"{len(rare):,} rare classes are left out{became}: {numbers}")
    lines += report["left_out"]
    if report["quarantined"]:
        image_id, reason = next(iter(report["quarantined"].items()))
        kinds = Counter(map(problem_kind, report["quarantined"].values())).most_common()
        lines.append(
            f"{len(report['quarantined']):,} files are not usable images "
            f"({', '.join(f'{count:,} {kind}' for kind, count in kinds)}), the first is "
            f"{image_id}: {reason}"
        )
    if report["duplicates"]:
        lines.append(f"{len(report['duplicates']):,} exact duplicates left out")
    if report["conflicts"]:
        lines += _conflict_lines(report["conflicts"])
    if beside := report["beside_labeled"]:
        # what would leak into test is named before the others
        first = max(beside, key=lambda each: RANKS[each["in"]])
        lines.append(
            f"{len(beside):,} pool images share a group with labelled ones and are left out: "
            f"{first['left_out']} is in the group of {first['stays']} ({first['in']})"
            + (", …" if len(beside) > 1 else "")
        )
    if report["changed"]:
        changed = ", ".join(f"{count:,} {why}" for why, count in report["changed"].items())
        lines.append(f"re-encoded: {changed}")
    if report["answers"]:
        lines += answer_lines(report["answers"])
    else:
        spellings = spellings_of(dataset.manifest.classes)[:MOST_SPELLINGS]
        lines += spelling_lines(spellings, "write them alike")
    return [
        *lines,
        f"made from {dataset.manifest.source}",
        f"per-image details: {dataset.storage.location('report.json')}",
        f"dataset: {dataset.storage.uri}, fingerprint {dataset.manifest.fingerprint[:12]}",
    ]


def _conflict_lines(conflicts: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences about copies whose labels differ, by what became of their labels."""
    lines = []
    for what, those in (
        ("keep none", [each for each in conflicts if each["keeps"] is None]),
        ("keep that of val or test", [each for each in conflicts if each["keeps"] is not None]),
    ):
        if those:
            pair = ", ".join(f"{name} ({label})" for name, label in those[0]["labels"].items())
            lines.append(f"{len(those):,} images have two labels and {what}, the first: {pair}")
    return lines


def _given_lines(given: dict[str, Any]) -> list[str]:
    """Sentences about the splits that the source came with."""
    parts = [f"{count:,} {split}" for split, count in given["images"].items()]
    parts += [f"{' and '.join(given['drawn'])} drawn from train"] if given["drawn"] else []
    kept = f"splits kept as the source gives them: {', '.join(parts)} (--splits new draws all anew)"
    lines = [kept] if given["images"] else []
    lines += [
        f"{count:,} images of the given {split} have no label and join the pool"
        for split, count in given["unlabeled"].items()
    ]
    if given["labels_unused"]:
        lines.append(
            f"{given['labels_unused']:,} images that are given as unlabeled have a label, which is "
            "not used (--splits new uses it)"
        )
    if across := given["across"]:
        first = across[0]
        same = "shows the same as" if first["why"] == "duplicate" else "is in the group of"
        lines.append(
            f"{len(across):,} images lay across given splits and are left out: {first['left_out']} "
            f"({first['of'] or 'without a split'}) {same} {first['stays']} ({first['in']})"
            + (", …" if len(across) > 1 else "")
        )
    return lines


def answer_lines(audit: dict[str, Any]) -> list[str]:
    """Sentences about a crowd's answers, from their audit."""
    dropped = ", ".join(f"{count:,} {why}" for why, count in audit["dropped"].items())
    missing = ", ".join(f"{count:,} {why}" for why, count in audit["unlabeled"].items())
    kappa = "—" if audit["kappa"] is None else f"{audit['kappa']:.3f}"
    return [
        f"{audit['used']:,} of {audit['answers']:,} answers from {len(audit['workers']):,} workers "
        f"count{f' ({dropped})' if dropped else ''}; Fleiss' κ {kappa}",
        f"{audit['labeled']:,} of {audit['tasks']:,} tasks have a label"
        + (f" ({missing})" if missing else ""),
        *spelling_lines(audit["spellings"][:MOST_SPELLINGS], "--normalize makes them one"),
    ]
