"""What lies beside the images of a source and is left out, by reason."""

from dataclasses import dataclass, field


@dataclass
class LeftOut:
    """How many files were left out for each reason, and the first of them."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.first.setdefault(reason, name)

    def lines(self) -> list[str]:
        """A sentence for each reason."""
        return [
            f"left out: {count:,} {reason}, the first is {self.first[reason]}"
            for reason, count in self.counts.items()
        ]
