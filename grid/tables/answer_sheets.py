"""The answer as tables and as data."""

from dataclasses import asdict
from typing import Any

import pandas as pd

from semigrid.grid.analysis import sentences
from semigrid.grid.analysis.answer import Answer, Saving
from semigrid.grid.analysis.claims import Claim
from semigrid.grid.analysis.statistics import LEVEL
from semigrid.grid.tables.cells import show_interval, typed
from semigrid.grid.tables.sheet import NONE, Column, Sheet, frame_records


def as_facts(found: Answer) -> dict[str, Any]:
    """For programs."""
    return {
        "headlines": [
            {
                "dataset": each.dataset,
                "model": each.model,
                "text": each.text,
                "cell": None if each.saving is None else each.saving.cell.name,
            }
            for each in found.headlines
        ],
        "savings": frame_records(savings_sheet(found).frame),
        "pools": [
            {"dataset": pool.dataset, "name": pool.name, "text": pool.text, **asdict(pool.curve)}
            for pool in found.pools
        ],
        "claims": [asdict(claim) for claim in found.claims],
    }


def savings_sheet(found: Answer) -> Sheet[Saving]:
    """How many labels the baseline would need for what each semi-supervised cell reaches."""
    columns: list[Column[Saving]] = [
        Column("cell", lambda saving: saving.cell.name, is_name=True),
        Column("labels", lambda saving: f"{saving.labels:,}"),
        Column("pool", lambda saving: f"{saving.pool:,}"),
        Column("Acc@1", lambda saving: f"{100 * saving.acc1:.2f}"),
        Column(f"{LEVEL:.0%}", lambda saving: show_interval(saving.interval)),
        Column("baseline", lambda saving: saving.baseline, is_name=True),
        Column("needs", _show_needed),
        Column(f"{LEVEL:.0%}", _show_needed_range),
        Column("saved", lambda s: NONE if s.saved is None else f"{s.saved:,.0f}".replace("-", "−")),
    ]
    records = [
        {
            "dataset": saving.cell.dataset,
            "cell": saving.cell.name,
            "labeled_images": saving.labels,
            "pool_images": saving.pool,
            "acc1": 100 * saving.acc1,
            "acc1_low": 100 * saving.interval.low,
            "acc1_high": 100 * saving.interval.high,
            "baseline": saving.baseline,
            "labels_needed": None if saving.needed is None else saving.needed.labels,
            "labels_needed_low": None if saving.needed is None else saving.needed.low,
            "labels_needed_high": None if saving.needed is None else saving.needed.high,
            "extrapolated": None if saving.needed is None else saving.needed.extrapolated,
            "labels_saved": saving.saved,
        }
        for saving in found.savings
    ]
    names = ["dataset", "cell", "labeled_images", "pool_images", "acc1", "acc1_low", "acc1_high"]
    names += ["baseline", "labels_needed", "labels_needed_low", "labels_needed_high"]
    names += ["extrapolated", "labels_saved"]
    notes = []
    if any(saving.needed is not None and saving.needed.extrapolated for saving in found.savings):
        notes.append("* extrapolated beyond the numbers of labels that were tried")
    return Sheet(
        title="Labels saved",
        columns=columns,
        rows=found.savings,
        frame=typed(pd.DataFrame.from_records(records, columns=names)),
        notes=notes,
    )


def _show_needed(saving: Saving) -> str:
    if saving.needed is None or saving.needed.labels is None:
        return NONE
    return f"{saving.needed.labels:,.0f}" + ("*" if saving.needed.extrapolated else "")


def _show_needed_range(saving: Saving) -> str:
    return (saving.needed and sentences.labels_range(saving.needed)) or NONE


def claims_sheet(found: Answer) -> Sheet[Claim]:
    """What the paper claims, and what these results say of it."""
    columns: list[Column[Claim]] = [
        Column("dataset", lambda claim: claim.dataset, is_name=True),
        Column("the paper's claim", lambda claim: claim.text, is_name=True, may_break=True),
        Column("here", lambda claim: claim.verdict, is_name=True),
        Column("because", lambda claim: ";\n".join(claim.evidence), is_name=True, may_break=True),
    ]
    records = [
        {
            "dataset": claim.dataset,
            "claim": claim.text,
            "verdict": claim.verdict,
            "evidence": "; ".join(claim.evidence),
        }
        for claim in found.claims
    ]
    return Sheet(
        title="The paper's claims",
        columns=columns,
        rows=found.claims,
        frame=pd.DataFrame.from_records(
            records, columns=["dataset", "claim", "verdict", "evidence"]
        ),
    )
