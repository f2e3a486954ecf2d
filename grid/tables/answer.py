"""The answer as tables and as data."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from semigrid.grid.analysis.answer import Answer, Saving
from semigrid.grid.analysis.claims import Claim
from semigrid.grid.analysis.labels_saved import Needed
from semigrid.grid.analysis.numbers import NONE, show_interval, show_number
from semigrid.grid.analysis.sentences import labels_range
from semigrid.grid.analysis.statistics import LEVEL, Interval
from semigrid.grid.tables.table import Column, Table, frame_of, frame_records


def answer_facts(answer: Answer) -> dict[str, Any]:
    """The answer for programs."""
    return {
        "headlines": [
            {
                "dataset": each.dataset,
                "model": each.model,
                "text": each.text,
                "cell": None if each.saving is None else each.saving.row.cell.name,
            }
            for each in answer.headlines
        ],
        "savings": frame_records(savings_table(answer).frame),
        "pools": [
            {"dataset": pool.dataset, "name": pool.name, "text": pool.text, **asdict(pool.curve)}
            for pool in answer.pools
        ],
        "claims": [asdict(claim) for claim in answer.claims],
    }


def savings_table(answer: Answer) -> Table[Saving]:
    """How many labels the baseline would need to reach each semi-supervised cell."""
    columns: list[Column[Saving]] = [
        Column("cell", lambda saving: saving.row.cell.name, is_name=True),
        Column("labels", lambda saving: f"{saving.labels:,}"),
        Column("pool", lambda saving: f"{saving.row.pool_images:,}"),
        Column("Acc@1", lambda saving: show_number(100 * saving.acc1)),
        Column(f"{LEVEL:.0%}", lambda saving: show_interval(saving.row.interval)),
        Column("baseline", lambda saving: saving.baseline, is_name=True),
        Column("needs", _show_needed),
        Column(f"{LEVEL:.0%}", lambda s: (s.needed and labels_range(s.needed)) or NONE),
        Column("saved", lambda s: NONE if s.saved is None else f"{s.saved:,.0f}".replace("-", "−")),
    ]
    extrapolated = any(each.needed and each.needed.extrapolated for each in answer.savings)
    return Table(
        title="Labels saved",
        columns=columns,
        rows=answer.savings,
        frame=frame_of(
            answer.savings,
            {
                "dataset": lambda saving: saving.row.cell.dataset,
                "cell": lambda saving: saving.row.cell.name,
                "labeled_images": lambda saving: saving.labels,
                "pool_images": lambda saving: saving.row.pool_images,
                "acc1": lambda saving: 100 * saving.acc1,
                "acc1_low": lambda saving: 100 * _interval(saving).low,
                "acc1_high": lambda saving: 100 * _interval(saving).high,
                "baseline": lambda saving: saving.baseline,
                "labels_needed": _of_needed(lambda needed: needed.labels),
                "labels_needed_low": _of_needed(lambda needed: needed.low),
                "labels_needed_high": _of_needed(lambda needed: needed.high),
                "extrapolated": _of_needed(lambda needed: needed.extrapolated),
                "labels_saved": lambda saving: saving.saved,
            },
        ),
        notes=["* extrapolated beyond the numbers of labels that were tried"]
        if extrapolated
        else [],
    )


def _interval(saving: Saving) -> Interval:
    assert saving.row.interval is not None  # only cells with predictions have savings
    return saving.row.interval


def _of_needed(get: Callable[[Needed], Any]) -> Callable[[Saving], Any]:
    return lambda saving: None if saving.needed is None else get(saving.needed)


def _show_needed(saving: Saving) -> str:
    if saving.needed is None or saving.needed.labels is None:
        return NONE
    return f"{saving.needed.labels:,.0f}" + ("*" if saving.needed.extrapolated else "")


def claims_table(answer: Answer) -> Table[Claim]:
    """The paper's claims, and the verdict of these results."""
    columns: list[Column[Claim]] = [
        Column("dataset", lambda claim: claim.dataset, is_name=True),
        Column("the paper's claim", lambda claim: claim.text, is_name=True, may_break=True),
        Column("here", lambda claim: claim.verdict, is_name=True),
        Column("because", lambda claim: ";\n".join(claim.evidence), is_name=True, may_break=True),
    ]
    return Table(
        title="The paper's claims",
        columns=columns,
        rows=answer.claims,
        frame=frame_of(
            answer.claims,
            {
                "dataset": lambda claim: claim.dataset,
                "claim": lambda claim: claim.text,
                "verdict": lambda claim: claim.verdict,
                "evidence": lambda claim: "; ".join(claim.evidence),
            },
        ),
    )
