"""Plan an extraction: divide its labelled images into shards, and count what is removed and why."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import structlog
from agegender.errors import Problem
from agegender.files import atomic_file, read_json, write_json
from agegender.labels import Gender

from trainer.datasets.catalog import dataset_folder
from trainer.datasets.formats import require_format
from trainer.datasets.labels import (
    ADVICE,
    NO_FOLD,
    REPEATED,
    UNKNOWN_AGE,
    DatasetFormat,
    LabelledImage,
    Removed,
    checked_rows,
    removal_summary,
)
from trainer.extraction.extraction import Extraction, advance, removed_path, shard_path, work_dir
from trainer.runs.attempt import Attempt

log = structlog.get_logger(__name__)

_LONGEST_EXAMPLE = 120


@dataclass(frozen=True)
class Outcome:
    """Rows kept and removed by an extraction: part of its record, meta-data and problems."""

    faces: int
    removed: dict[str, int]
    removed_examples: dict[str, str]
    summary: str


@dataclass
class Removals:
    """Count removed rows or images by reason, and keep the first of each reason."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, file: str) -> None:
        self.counts[reason] += 1
        self.examples.setdefault(reason, _shown(file))

    def __add__(self, later: "Removals") -> "Removals":
        """Add the counts; the examples of the first operand win."""
        return Removals(self.counts + later.counts, {**later.examples, **self.examples})

    def outcome(self, faces: int, remarks: Iterable[str] = (), noun: str = "faces") -> Outcome:
        """Return the outcome if `faces` were kept.

        remarks : sentences about the kept faces, for the summary. noun : of what is counted.
        """
        return Outcome(
            faces=faces,
            removed=dict(sorted(self.counts.items())),
            removed_examples=dict(sorted(self.examples.items())),
            summary="; ".join([removal_summary(faces, self.counts, self.examples, noun), *remarks]),
        )

    def advice(self) -> str:
        """Return advice for the reasons, each sentence preceded by a blank."""
        return "".join(f" {ADVICE[reason]}" for reason in sorted(self.counts) if reason in ADVICE)


def _shown(file: str) -> str:
    """Make a file name safe and short enough to show in a terminal."""
    text = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in file
    )
    return text if len(text) <= _LONGEST_EXAMPLE else f"{text[:_LONGEST_EXAMPLE]}…"


@dataclass
class Plan:
    """Result of planning. Repeated rows count as removed, but not as rows of a fold."""

    shards: int = 0
    images: int = 0
    removals: Removals = field(default_factory=Removals)
    rows_of_fold: Counter[int] = field(default_factory=Counter)

    @property
    def removed(self) -> Counter[str]:
        return self.removals.counts


def run_plan(data_dir: Path, extraction: Extraction, attempt: Attempt) -> None:
    """Divide the images of an extraction into shards, and store the counts.

    Raises `GivenUp` if the attempt must stop, and the problems of `write_plan`.
    """
    folder = dataset_folder(data_dir, extraction.dataset)
    label_format = require_format(folder).with_gender_map(extraction.genders)
    if label_format.unpack is not None:
        label_format.unpack(folder, extraction.image_set, attempt.check)
    shards_dir = work_dir(data_dir, extraction)
    plan = write_plan(label_format, folder, extraction.image_set, extraction.shard_size, shards_dir)
    attempt.check()
    labels = {**vars(plan.removals.outcome(plan.images, noun="rows can be read")), "faces": None}
    advance(data_dir, extraction, state="extracting", images=plan.images, shards=plan.shards, **labels)
    log.info("labels read", extraction=extraction.name, summary=labels["summary"])


def write_plan(kind: DatasetFormat, folder: Path, image_set: str, shard_size: int, work: Path) -> Plan:
    """Divide the images to embed into shard files, in their order, and list the removed rows in a file.

    Needs memory for one shard and all file names. Raises ``bad-labels``, ``missing-images``, ``some-folds``
    and ``no-images`` 422.
    """
    image_dir = kind.image_dir(folder, image_set)
    if not image_dir.is_dir():
        raise Problem("missing-images", 422, f"There is no image folder {folder.name}/{image_set}.")
    plan = Plan()
    shard: list[LabelledImage] = []
    own_folds = 0
    without_fold = ""
    with atomic_file(removed_path(work)) as removed:
        for row in checked_rows(kind.read(folder, image_set), image_dir):
            if not (isinstance(row, Removed) and row.reason in REPEATED):
                plan.rows_of_fold[row.fold] += 1
            if isinstance(row, Removed):
                plan.removals.add(row.reason.value, row.file)
                _write_line(removed, row)
                continue
            plan.images += 1
            own_folds += row.fold != NO_FOLD
            without_fold = without_fold or (row.file if row.fold == NO_FOLD else "")
            shard.append(row)
            if len(shard) == shard_size:
                _write_shard(shard_path(work, plan.shards), shard)
                plan.shards += 1
                shard = []
    if shard:
        _write_shard(shard_path(work, plan.shards), shard)
        plan.shards += 1
    if 0 < own_folds < plan.images:
        raise Problem(
            "some-folds",
            422,
            f"{own_folds} of {plan.images} images have a fold, but others, such as {without_fold!r}, have "
            "none; give a fold to all images or to none.",
        )
    if plan.images == 0:
        outcome = plan.removals.outcome(0)
        raise Problem(
            "no-images",
            422,
            f"No row of the labels of {folder.name!r} can be used: {outcome.summary}.{plan.removals.advice()}"
            if plan.removed
            else f"The labels of {folder.name!r} have no rows; write one per image.",
            **vars(outcome),
        )
    write_json(
        plan_path(work),
        {
            "shards": plan.shards,
            "images": plan.images,
            "removed": plan.removed,
            "removed_examples": plan.removals.examples,
            "rows_of_fold": plan.rows_of_fold,
        },
    )
    return plan


def plan_path(work: Path) -> Path:
    return work / "plan.json"


def read_plan(work: Path) -> Plan:
    stored = read_json(plan_path(work))
    return Plan(
        stored["shards"],
        stored["images"],
        Removals(Counter(stored["removed"]), stored.get("removed_examples", {})),
        Counter({int(fold): rows for fold, rows in stored["rows_of_fold"].items()}),
    )


def read_shard(work: Path, shard: int) -> list[LabelledImage]:
    return shard_images(shard_path(work, shard).read_bytes())


def shard_images(content: bytes) -> list[LabelledImage]:
    """Parse the content of a shard file."""
    return [
        LabelledImage(
            row["file"],
            UNKNOWN_AGE if row["age_low"] is None else row["age_low"],
            UNKNOWN_AGE if row["age_high"] is None else row["age_high"],
            Gender(row["gender"]),
            row["subject"],
            row["fold"],
        )
        for row in json.loads(content)
    ]


def read_removed(work: Path) -> Iterator[dict[str, str]]:
    with removed_path(work).open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _write_shard(path: Path, images: list[LabelledImage]) -> None:
    rows = [asdict(image) for image in images]
    for row in rows:
        row.update({name: None for name in ("age_low", "age_high") if math.isnan(row[name])})
    write_json(path, rows)


def _write_line(file: IO[bytes], row: Removed) -> None:
    line = json.dumps({"file": row.file, "reason": row.reason.value}, ensure_ascii=False)
    file.write(line.encode(errors="backslashreplace") + b"\n")  # a name on disk may not be valid Unicode
