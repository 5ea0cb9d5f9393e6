"""From labels to shards of images: the work list of an extraction, and its count of what labels removed."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from agegender.errors import Problem
from agegender.files import atomic_file, read_json, write_json
from agegender.labels import Gender

from trainer.extraction.state import removed_path, shard_path
from trainer.labels.labelled import (
    NO_FOLD,
    UNKNOWN_AGE,
    DatasetKind,
    LabelledImage,
    Reason,
    Removed,
    checked_rows,
)


@dataclass
class Plan:
    """What the labels say. Repeated rows count among the removed, not among the rows of a fold."""

    shards: int = 0
    images: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    rows_of_fold: Counter[int] = field(default_factory=Counter)


def write_plan(kind: DatasetKind, folder: Path, variant: str, shard_size: int, work: Path) -> Plan:
    """Divide the images to be embedded into shard files, in their order; write down the removed rows.

    Memory: one shard, and the file names. Raises ``bad-labels``, ``missing-images``, ``some-folds`` 422.
    """
    if not kind.image_dir(folder, variant).is_dir():
        raise Problem("missing-images", 422, f"There is no folder of images {folder.name}/{variant}.")
    plan = Plan()
    shard: list[LabelledImage] = []
    own_folds = 0
    with atomic_file(removed_path(work)) as removed:
        for row in checked_rows(kind.read(folder, variant)):
            if not (isinstance(row, Removed) and row.reason is Reason.REPEATED_ROW):
                plan.rows_of_fold[row.fold] += 1
            if isinstance(row, Removed):
                plan.removed[row.reason.value] += 1
                _write_line(removed, row)
                continue
            plan.images += 1
            own_folds += row.fold != NO_FOLD
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
            f"{own_folds} of {plan.images} images have a fold; give all of them one, or none.",
        )
    if plan.images == 0:
        raise Problem(
            "no-images", 422, f"The labels of {folder.name!r} leave no image.", removed={**plan.removed}
        )
    write_json(plan_path(work), vars(plan))
    return plan


def plan_path(work: Path) -> Path:
    return work / "plan.json"


def read_plan(work: Path) -> Plan:
    stored = read_json(plan_path(work))
    return Plan(
        stored["shards"],
        stored["images"],
        Counter(stored["removed"]),
        Counter({int(fold): rows for fold, rows in stored["rows_of_fold"].items()}),
    )


def read_shard(work: Path, shard: int) -> list[LabelledImage]:
    return [
        LabelledImage(
            row["file"],
            UNKNOWN_AGE if row["age_low"] is None else row["age_low"],
            UNKNOWN_AGE if row["age_high"] is None else row["age_high"],
            Gender(row["gender"]),
            row["subject"],
            row["fold"],
        )
        for row in read_json(shard_path(work, shard))
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
    file.write(line.encode() + b"\n")
