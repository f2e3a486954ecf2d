"""The answer as tables and as data."""

from dataclasses import asdict
from typing import Any

from semigrid.grid.analysis.answer import Answer
from semigrid.grid.analysis.claims import Claim, Verdict
from semigrid.grid.analysis.families import THE_IMAGES
from semigrid.grid.analysis.headline import Headline, Saving
from semigrid.grid.analysis.labels_saved import Needed
from semigrid.grid.analysis.numbers import (
    NONE,
    show_count,
    show_interval,
    show_margin,
    show_number,
    show_points,
    show_points_range,
)
from semigrid.grid.analysis.statistics import LEVEL, Comparison
from semigrid.grid.experiment.schema import show_percent
from semigrid.grid.tables.cells import label_count_columns, label_notes
from semigrid.grid.tables.table import Column, Table, frame_records


def answer_facts(answer: Answer) -> dict[str, Any]:
    """The answer for programs: in per cent and points, but for ``pools``, whose are shares."""
    return {
        "margin": 100 * answer.margin,
        "unfinished": answer.unfinished,
        "frontiers": [
            {
                "dataset": each.dataset,
                "labeled_images": each.rows[0].labeled_images,
                "models": each.models,
                "text": each.text,
                "cells": [
                    {
                        "cell": step.row.cell.name,
                        "acc1": 100 * step.row.balanced.mean(),
                        "device_seconds": step.row.with_parents,
                        **_difference(step.gain),
                    }
                    for step in each.steps
                ],
            }
            for each in answer.frontiers
        ],
        "headlines": [
            {
                "dataset": each.dataset,
                "model": each.model,
                "text": each.text,
                "verdict": each.verdict,
                "cell": None if each.saving is None else each.saving.row.cell.name,
                "baseline": None if each.full is None else each.full.cell.name,
                **_difference(each.against),
                "pool_helps": each.worth.verdict,
                "control": each.control,
                **{f"worth_{k}": v for k, v in _difference(each.worth.mean).items()},
                "worth_by_labels": {
                    show_percent(fraction): _difference(part)
                    for fraction, part in each.worth.parts.items()
                },
            }
            for each in answer.headlines
        ],
        "recommendations": [
            {
                "dataset": each.dataset,
                "text": each.text,
                "verdict": each.verdict,
                "cell": each.row and each.row.cell.name,
                "labeled_images": each.row and each.row.labeled_images,
                "device_seconds": each.row and each.row.with_parents,
                "price": each.price,
                "best": each.best and each.best.cell.name,
                **_difference(each.against),
                "possible": each.possible and each.possible.cell.name,
                **{f"possible_{k}": v for k, v in _difference(each.possibly).items()},
            }
            for each in answer.recommendations
        ],
        "savings": frame_records(savings_table(answer).frame),
        "pools": [
            {"dataset": pool.dataset, "name": pool.name, "text": pool.text, **asdict(pool.curve)}
            for pool in answer.pools
        ],
        "claims": [
            {
                "dataset": claim.dataset,
                "text": claim.text,
                "verdict": claim.verdict,
                "evidence": claim.evidence,
                **_difference(claim.mean),
            }
            for claim in answer.claims
        ],
    }


def _difference(comparison: Comparison | None) -> dict[str, float | None]:
    """A difference in points, with its interval."""
    if comparison is None:
        return dict.fromkeys(("difference", "difference_low", "difference_high"))
    return {
        "difference": 100 * comparison.difference,
        "difference_low": 100 * comparison.interval.low,
        "difference_high": 100 * comparison.interval.high,
    }


def _show_needed(needed: Needed) -> str:
    if needed.labels is None:
        return NONE
    return show_count(needed.labels) + ("*" if needed.extrapolated else "")


def _saving_columns(answer: Answer, baselines: int) -> list[Column[Saving]]:
    """People see the baseline where there are several; otherwise it is named below the table."""
    sure = {(each.dataset, each.model) for each in answer.headlines if each.may_save}

    def saved(saving: Saving) -> float | None:
        """Nothing where the sentence about the model says that a loss cannot be excluded."""
        cell = saving.row.cell
        return saving.saved if (cell.dataset, cell.model) in sure else None

    return [
        Column("dataset", lambda saving: saving.row.cell.dataset),
        Column("cell", lambda saving: saving.row.cell.name, "cell", is_name=True),
        *label_count_columns("labels", lambda saving: saving.row.label_count, show_count),
        Column("pool_images", lambda s: s.row.pool_images, "pool", show_count, is_spare=True),
        Column("acc1", lambda saving: 100 * saving.acc1, "Acc@1", show_number),
        Column("acc1_low", lambda saving: saving.row.interval and 100 * saving.row.interval.low),
        Column("acc1_high", lambda saving: saving.row.interval and 100 * saving.row.interval.high),
        Column(None, lambda s: s.row.interval, f"{LEVEL:.0%}", show_interval, is_spare=True),
        Column(
            "baseline", lambda s: s.baseline, "baseline" if baselines > 1 else None, is_name=True
        ),
        Column("labels_needed", lambda saving: saving.needed and saving.needed.labels),
        Column("labels_needed_low", lambda saving: saving.needed and saving.needed.low),
        Column("labels_needed_high", lambda saving: saving.needed and saving.needed.high),
        Column("extrapolated", lambda saving: saving.needed and saving.needed.extrapolated),
        Column(None, lambda saving: saving.needed, "needs", _show_needed),
        Column(None, lambda saving: saving.needed and saving.needed.range_text, f"{LEVEL:.0%}"),
        Column("labels_saved", saved, "saved", show_count),
    ]


_HELPS: dict[Verdict, str] = {
    "held": "yes",
    "refuted": "no",
    "undecided": "undecided",
    "not tested": NONE,
}


def _show_enough(headline: Headline, margin: float) -> str:
    """``75%``, ``75%?`` where that is open, ``?`` where it is and even that one scores less."""
    if headline.saving is None or headline.verdict not in ("enough", "open", "not enough"):
        return NONE
    if headline.verdict == "not enough":
        return "no fewer"
    share = show_percent(headline.saving.row.cell.labels)
    if headline.verdict == "enough":
        return share
    is_less = headline.against is None or headline.against.difference < -margin
    return "?" if is_less else f"{share}?"


def _mean(headline: Headline) -> Comparison | None:
    """What the pool adds on average; None where that is not known, or says nothing."""
    mean = headline.worth.mean
    return None if mean is None or mean.is_vague else mean


def worth_table(answer: Answer, dataset: str | None = None) -> Table[Headline]:
    """What the unlabelled images add to each model with a pool, and what labels are enough with it.

    Args:
        dataset: the only one that is shown, None for all.
    """
    rows = [each for each in answer.headlines if dataset in (None, each.dataset)]
    several = len({each.dataset for each in rows}) > 1
    columns: list[Column[Headline]] = [
        Column(None, lambda h: h.dataset, "dataset" if several else None, is_name=True),
        Column(None, lambda h: h.model, "model", is_name=True),
        Column(None, lambda h: (m := _mean(h)) and 100 * m.difference, "points", show_points),
        Column(None, lambda h: (m := _mean(h)) and m.interval, f"{LEVEL:.0%}", show_points_range),
        Column(None, lambda h: _HELPS[h.worth.verdict], "helps", is_name=True),
        Column(None, lambda h: _show_enough(h, answer.margin), "enough labels", is_name=True),
        Column(None, lambda h: h.control, "control", is_name=True, may_break=True),
    ]
    notes = [
        "points of Acc@1 above the same start trained for as long without the pool, a mean over "
        f"label fractions, with its {LEVEL:.0%} interval"
    ]
    learnt = {each.model: each.helps for each in rows if each.helps != THE_IMAGES}
    notes += [f"{model}: not the images alone, but {helps}" for model, helps in learnt.items()]
    if any(each.worth.mean is None for each in rows):
        lacking = [(e.model, e.worth.evidence[-1]) for e in rows if e.worth.mean is None]
        notes += [f"{model}: {why}" for model, why in dict(lacking).items()]
    if any(each.saving is not None for each in rows):
        notes.append(
            "enough labels: the fewest, of those to train, that match labels alone with all of "
            f"them, {show_margin(answer.margin)} aside; ?: neither that nor a loss is certain, and "
            "without a number all score less"
        )
    return Table("What the pool is worth", columns, rows, notes)


def savings_table(answer: Answer) -> Table[Saving]:
    """How many labels the baseline would need to reach each semi-supervised cell."""
    extrapolated = any(each.needed and each.needed.extrapolated for each in answer.savings)
    notes = label_notes("labels, needs and saved", [each.row for each in answer.savings])
    if extrapolated:
        notes.append("* extrapolated beyond the numbers of labels that were tried")
    if any(each.needed and each.saved is None for each in answer.savings):
        notes.append("saved: only where it is certain that any are, or that it takes more")
    names = list(dict.fromkeys(each.baseline for each in answer.savings))
    if len(names) == 1:
        notes.insert(0, f"needs: the labels that {names[0]} would need, with its 95% interval")
    return Table("Labels saved", _saving_columns(answer, len(names)), answer.savings, notes)


_CLAIM_COLUMNS: list[Column[Claim]] = [
    Column("dataset", lambda claim: claim.dataset, "dataset", is_name=True),
    Column("claim", lambda claim: claim.text, "claim", is_name=True, may_break=True),
    Column("verdict", lambda claim: claim.verdict, "here", is_name=True),
    Column("evidence", lambda claim: "; ".join(claim.evidence)),
    Column(None, lambda claim: ";\n".join(claim.evidence), "because", is_name=True, may_break=True),
]


def claims_table(answer: Answer) -> Table[Claim]:
    """Claims, the paper's and that the pool helps, and the verdict of these results."""
    return Table("Claims", _CLAIM_COLUMNS, answer.claims)
