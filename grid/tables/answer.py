"""The answer as tables and as data."""

from dataclasses import asdict
from typing import Any

from semigrid.grid.analysis.answer import Answer, Saving
from semigrid.grid.analysis.claims import Claim
from semigrid.grid.analysis.labels_saved import Needed
from semigrid.grid.analysis.numbers import NONE, show_count, show_interval, show_number
from semigrid.grid.analysis.statistics import LEVEL
from semigrid.grid.tables.cells import label_count_columns, label_notes
from semigrid.grid.tables.table import Column, Table, frame_records


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


def _show_needed(needed: Needed) -> str:
    if needed.labels is None:
        return NONE
    return show_count(needed.labels) + ("*" if needed.extrapolated else "")


_SAVING_COLUMNS: list[Column[Saving]] = [
    Column("dataset", lambda saving: saving.row.cell.dataset),
    Column("cell", lambda saving: saving.row.cell.name, "cell", is_name=True),
    *label_count_columns("labels", lambda saving: saving.row.label_count, show_count),
    Column("pool_images", lambda saving: saving.row.pool_images, "pool", show_count),
    Column("acc1", lambda saving: 100 * saving.acc1, "Acc@1", show_number),
    Column("acc1_low", lambda saving: saving.row.interval and 100 * saving.row.interval.low),
    Column("acc1_high", lambda saving: saving.row.interval and 100 * saving.row.interval.high),
    Column(None, lambda saving: saving.row.interval, f"{LEVEL:.0%}", show_interval),
    Column("baseline", lambda saving: saving.baseline, "baseline", is_name=True),
    Column("labels_needed", lambda saving: saving.needed and saving.needed.labels),
    Column("labels_needed_low", lambda saving: saving.needed and saving.needed.low),
    Column("labels_needed_high", lambda saving: saving.needed and saving.needed.high),
    Column("extrapolated", lambda saving: saving.needed and saving.needed.extrapolated),
    Column(None, lambda saving: saving.needed, "needs", _show_needed),
    Column(None, lambda saving: saving.needed and saving.needed.range_text, f"{LEVEL:.0%}"),
    Column("labels_saved", lambda saving: saving.saved, "saved", show_count),
]

_CLAIM_COLUMNS: list[Column[Claim]] = [
    Column("dataset", lambda claim: claim.dataset, "dataset", is_name=True),
    Column("claim", lambda claim: claim.text, "the paper's claim", is_name=True, may_break=True),
    Column("verdict", lambda claim: claim.verdict, "here", is_name=True),
    Column("evidence", lambda claim: "; ".join(claim.evidence)),
    Column(None, lambda claim: ";\n".join(claim.evidence), "because", is_name=True, may_break=True),
]


def savings_table(answer: Answer) -> Table[Saving]:
    """How many labels the baseline would need to reach each semi-supervised cell."""
    extrapolated = any(each.needed and each.needed.extrapolated for each in answer.savings)
    notes = label_notes("labels, needs and saved", [each.row for each in answer.savings])
    if extrapolated:
        notes.append("* extrapolated beyond the numbers of labels that were tried")
    return Table("Labels saved", _SAVING_COLUMNS, answer.savings, notes)


def claims_table(answer: Answer) -> Table[Claim]:
    """The paper's claims, and the verdict of these results."""
    return Table("The paper's claims", _CLAIM_COLUMNS, answer.claims)
