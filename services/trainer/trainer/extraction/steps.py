"""Extractions as a kind of run: how one starts, and its steps, from the files on disk.

An extraction plans shards of images, embeds each in a job, and merges them. An import of the original's
embeddings and a regrouping have one step each.
"""

import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import structlog
from agegender.errors import Problem

from trainer.datasets.embedding_set import is_dataset_name
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
    save_extraction,
    shard_is_done,
    work_dir,
)
from trainer.extraction.plan import Outcome
from trainer.runs.attempt import TooManyAttempts
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
