"""What an extraction removed, and why, in one sentence for everybody who reads of it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from trainer.datasets.labels import ADVICE, removal_summary

_LONGEST_EXAMPLE = 120


@dataclass(frozen=True)
class Outcome:
    """Members of an extraction's state, of its meta-data and of the problem that ends it without a face."""

    faces: int
    removed: dict[str, int]
    removed_examples: dict[str, str]
    summary: str


@dataclass
class Removals:
    """Rows or images removed: how many by reason, and the first of each reason."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, file: str) -> None:
        self.counts[reason] += 1
        self.examples.setdefault(reason, _shown(file))

    def __add__(self, later: "Removals") -> "Removals":
        """Both; the examples of the first come first."""
        return Removals(self.counts + later.counts, {**later.examples, **self.examples})

    def outcome(self, faces: int, remarks: Iterable[str] = (), noun: str = "faces") -> "Outcome":
        """With so many faces kept, and whatever else a user must hear of them."""
        return Outcome(
            faces=faces,
            removed=dict(sorted(self.counts.items())),
            removed_examples=dict(sorted(self.examples.items())),
            summary="; ".join([removal_summary(faces, self.counts, self.examples, noun), *remarks]),
        )

    def advice(self) -> str:
        """What to do about the reasons, each sentence with a blank before it."""
        return "".join(f" {ADVICE[reason]}" for reason in sorted(self.counts) if reason in ADVICE)


def _shown(file: str) -> str:
    """A name as a terminal may show it."""
    text = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in file
    )
    return text if len(text) <= _LONGEST_EXAMPLE else f"{text[:_LONGEST_EXAMPLE]}…"
