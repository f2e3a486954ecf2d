"""What an answer says, held against the figures that it says it of."""

import re

import pytest

from semigrid.grid.analysis.answer import Answer


def check_what_is_said(answered: Answer) -> str:
    """Sentences promise no more than their figures; returns which verdict they give."""
    (headline,), (recommendation,) = answered.headlines, answered.recommendations
    evidence = [each for claim in answered.claims for each in claim.evidence]
    for text in [
        *answered.to_use(headline.dataset),
        *answered.of_pools(headline.dataset),
        *evidence,
    ]:
        assert not re.search(r"−(9\d|1\d\d)\.\d+ to \+(9\d|1\d\d)\.", text), text
        assert "nan" not in text and "inf" not in text and "None" not in text
        assert not (
            "saved" in text and re.search("excluded|enough.* undecided|cannot be said", text)
        ), text
        assert text.strip() and "  " not in text and ".." not in text and ": ." not in text
    against, margin = headline.against, answered.margin
    if headline.is_answer:
        row, full = headline.saving.row, headline.full
        assert against.difference == pytest.approx(row.balanced.mean() - full.balanced.mean())
    if headline.verdict == "enough":
        assert against.interval.low >= -margin and "are enough" in headline.text
    elif headline.verdict == "not enough":
        assert against.interval.high < -margin
        assert "not enough" in headline.text
    elif headline.verdict == "open":
        assert -margin <= against.interval.high
        # within a wide margin of labels alone there is even chance
        assert against.interval.low < -margin or "not certainly above chance" in headline.text
        assert "saved" not in headline.text
        assert re.search("can be excluded|is undecided|cannot be said", headline.text)
    starts = {
        "use": "Use ",
        "only one": "The only finished model",
        "cannot be said": "Which of ",
        "nothing learnt": "No model has demonstrably",
    }
    assert recommendation.text.startswith(starts[recommendation.verdict])
    assert (recommendation.row is None) == (
        recommendation.verdict in ("cannot be said", "nothing learnt")
    )
    if recommendation.against is not None:
        assert recommendation.against.difference >= -margin
        assert not recommendation.against.is_vague
    return headline.verdict
