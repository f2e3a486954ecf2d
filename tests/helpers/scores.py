"""Scores of trainings that were never run."""

from collections.abc import Mapping


def alike(metrics: Mapping[str, float]) -> dict[str, float]:
    """The same natural scores as the balanced ones."""
    scores = {name for name in metrics if name.endswith(("acc1", "acc5", "ce"))}
    return {**metrics, **{f"{name}_natural": metrics[name] for name in sorted(scores)}}
