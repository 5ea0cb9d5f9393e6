"""What an extraction removed, and why, in one sentence for everybody who reads of it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from trainer.labels.labelled import ADVICE

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
            summary="; ".join([summary(faces, self.counts, self.examples, noun), *remarks]),
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


def summary(
    kept: int, removed: Mapping[str, int], examples: Mapping[str, str] | None = None, noun: str = "faces"
) -> str:
    """Return one sentence with the counts, most frequent reason first.

    >>> summary(295, {"bad-fold": 1, "no-face": 4}, {"no-face": "a/b.jpg", "bad-fold": "c.jpg"})
    '295 of 300 faces (4 no-face, e.g. a/b.jpg; 1 bad-fold, e.g. c.jpg)'
    """
    reasons = [
        f"{count:,} {reason}" + (f", e.g. {examples[reason]}" if examples and reason in examples else "")
        for reason, count in sorted(removed.items(), key=lambda item: (-item[1], item[0]))
        if count
    ]
    whole = f"{kept:,} of {kept + sum(removed.values()):,} {noun}"
    return f"{whole} ({'; '.join(reasons)})" if reasons else whole
