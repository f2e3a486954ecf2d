"""What a source has beside its images and is left out, by reason."""

from dataclasses import dataclass, field


@dataclass
class LeftOut:
    """How many files were left out for each reason, and the first of them.

    ``notes`` are sentences about splits that the source names and that are not kept.
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, reason: str, name: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.first.setdefault(reason, name)

    def lines(self) -> list[str]:
        """A sentence for each reason, after the notes."""
        return [
            *self.notes,
            *(
                f"left out: {count:,} {reason}, the first is {self.first[reason]}"
                for reason, count in self.counts.items()
            ),
        ]
