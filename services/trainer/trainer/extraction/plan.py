"""Plan an extraction: its steps as a kind of run, and the shards of its labelled images.

An extraction plans shards of images, embeds each in a job, and merges them. An import of the original's
embeddings and a regrouping have one step each.
"""

import json
import math
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, ClassVar

import structlog
from agegender.errors import Problem
from agegender.files import atomic_file, read_json, write_json
from agegender.labels import Gender

from trainer.datasets.catalog import dataset_folder
from trainer.datasets.embedding_set import is_dataset_name
from trainer.datasets.formats import require_format
from trainer.datasets.labels import (
    NO_FOLD,
    REPEATED,
    UNKNOWN_AGE,
    DatasetFormat,
    LabelledImage,
    Outcome,
    Removals,
    Removed,
    checked_rows,
)
from trainer.datasets.original import FORMAT as ORIGINAL
from trainer.extraction.extraction import (
    ACTIVE,
    Extraction,
    ExtractionStatus,
    advance,
    extraction_names,
    extraction_status,
    load_extraction,
    record_path,
    removed_path,
    save_extraction,
    shard_is_done,
    shard_path,
    work_dir,
)
from trainer.runs.attempt import Attempt, TooManyAttempts
from trainer.runs.run import Kind, Step

log = structlog.get_logger(__name__)

_PLAN_SECONDS, _MERGE_SECONDS = 3600, 6 * 3600
_SHARD_SECONDS, _IMAGE_SECONDS = 1800, 20
_DECIDES_FACES = ("label_format", "mirrored", "varied", "min_det_score", "which_faces", "genders")
_OPTIONS = (*_DECIDES_FACES, "shard_size", "near_duplicates", "subjects_from", "regroup")
_OUTCOME = tuple(field.name for field in fields(Outcome))


@dataclass(frozen=True)
class Extractions(Kind[Extraction, ExtractionStatus]):
    """The kind of run, with the jobs of its steps. A run's name is `<data set>/<space>/<image set>`."""

    plan: Callable[[str, str], None]
    embed_shard: Callable[[str, str, int], None]
    merge: Callable[[str, str], None]
    regroup: Callable[[str, str], None]
    import_original: Callable[[str, str], None]

    name: ClassVar[str] = "extraction"
    has_trash: ClassVar[bool] = False  # the faces stay
    path: ClassVar[str] = "extractions"
    active: ClassVar[frozenset[str]] = ACTIVE

    def names(self, data_dir: Path) -> list[str]:
        if not data_dir.is_dir():
            return []
        folders = sorted(path for path in data_dir.iterdir() if path.is_dir() and is_dataset_name(path.name))
        return [name for folder in folders for name in extraction_names(folder)]

    def name_of(self, run: Extraction) -> str:
        return run.name

    def record_path(self, data_dir: Path, name: str) -> Path:
        return record_path(data_dir, *name.split("/"))

    def load(self, data_dir: Path, name: str) -> Extraction:
        return load_extraction(data_dir, name)

    def save(self, data_dir: Path, run: Extraction) -> None:
        save_extraction(data_dir, run)

    def steps(self, data_dir: Path, run: Extraction) -> Iterator[Step]:
        """Yield the plan, then the missing shards, then the merge; or the one step of another task."""
        if run.state not in ACTIVE:
            return
        names = (run.name, run.attempt_id)
        if run.regroup:
            yield Step(run.job_id("regroup"), self.regroup, names, _MERGE_SECONDS)
        elif run.label_format == ORIGINAL:
            yield Step(run.job_id("import"), self.import_original, names, _MERGE_SECONDS)
        elif run.state == "planning":
            yield Step(run.job_id("plan"), self.plan, names, _PLAN_SECONDS)
        else:
            missing = [shard for shard in range(run.shards) if not shard_is_done(data_dir, run, shard)]
            seconds = _SHARD_SECONDS + _IMAGE_SECONDS * run.shard_size
            for shard in missing if run.state == "extracting" else []:
                yield Step(run.job_id(f"shard-{shard}"), self.embed_shard, (*names, shard), seconds)
            if not missing or run.state == "merging":
                yield Step(run.job_id("merge"), self.merge, names, _MERGE_SECONDS)

    def status(self, data_dir: Path, run: Extraction) -> ExtractionStatus:
        return extraction_status(data_dir, run)

    def cancelled(self, data_dir: Path, run: Extraction) -> Extraction:
        return run.model_copy(update={"state": "cancelled", "cancelled": True})

    def resumed(self, data_dir: Path, run: Extraction) -> Extraction:
        """Return the record of the next attempt, which continues from the chunks on disk."""
        return next_attempt(data_dir, run, run.attempt + 1)

    def remove_files(self, data_dir: Path, run: Extraction) -> None:
        """Remove the work in progress; extracted faces stay."""
        shutil.rmtree(work_dir(data_dir, run), ignore_errors=True)

    def start(self, data_dir: Path, extraction: Extraction, *, replace: bool = False) -> Extraction:
        """Begin an extraction's next attempt, or return the one that runs.

        Raises ``extraction-running`` 409 if one with other options runs, and ``extraction-exists`` 409 if one
        that finished has other faces, unless `replace` is true.
        """

        def again(last: Extraction) -> Extraction:
            if last.state in ACTIVE:
                if any(getattr(last, name) != getattr(extraction, name) for name in _OPTIONS):
                    raise Problem(
                        "extraction-running",
                        409,
                        f"An extraction of {extraction.dataset}/{extraction.image_set} with other options is "
                        "running; cancel it or wait until it has ended.",
                    )
                return last
            if last.state == "finished" and not replace:
                _require_same_faces(last, extraction)
            return next_attempt(data_dir, extraction, last.attempt + 1)

        self.create(data_dir, extraction.name, lambda: next_attempt(data_dir, extraction, 1))
        return self.change(data_dir, extraction.name, again)


def next_attempt(data_dir: Path, extraction: Extraction, attempt: int) -> Extraction:
    """Return the record of a new attempt, and remove what earlier attempts said of their steps."""
    for earlier in work_dir(data_dir, extraction).glob("attempt-*"):
        shutil.rmtree(earlier, ignore_errors=True)
    return extraction.model_copy(
        update={
            "attempt": attempt,
            "run": secrets.token_hex(4),
            "state": "planning",
            "cancelled": False,
            "problem": None,
        }
    )


def fail(data_dir: Path, extraction: Extraction, problem: Problem) -> None:
    """End an extraction with a problem. Raises `Cancelled` if this attempt is over by now."""
    outcome = {name: problem.extra[name] for name in _OUTCOME if name in problem.extra}
    document = problem.document()
    if isinstance(problem, TooManyAttempts) and extraction.problem is not None:
        document = extraction.problem  # what the attempts waited for
    advance(data_dir, extraction, state="failed", problem=document, **outcome)


def _require_same_faces(last: Extraction, extraction: Extraction) -> None:
    changes = [
        f"{name} was {getattr(last, name)} and is {getattr(extraction, name)} here"
        for name in _DECIDES_FACES
        if getattr(last, name) != getattr(extraction, name)
    ]
    if changes:
        raise Problem(
            "extraction-exists",
            409,
            f"{extraction.dataset}/{extraction.image_set} was extracted in {extraction.space.id} with other "
            f"options: {'; '.join(changes)}. Experiments that were trained on it need its faces as they are. "
            'To replace them, send "replace": true (agegender extract --replace).',
        )


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
                plan.removals.add(row.reason.value, row.file, row.cell)
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
    cell = {"cell": row.cell} if row.cell else {}
    line = json.dumps({"file": row.file, "reason": row.reason.value, **cell}, ensure_ascii=False)
    file.write(line.encode(errors="backslashreplace") + b"\n")  # a name on disk may not be valid Unicode
