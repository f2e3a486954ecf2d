"""How evaluations and trials are compared. Imports nothing, so that a plan is quick."""


def is_better(metrics: dict[str, float], than: dict[str, float]) -> bool:
    """Higher Acc@1 on val, and of equal ones the lower cross-entropy."""
    if not than:
        return True
    return (metrics["acc1"], -metrics["ce"]) > (than["acc1"], -than["ce"])
