"""`POST /prune`: delete old runs and heads that nothing needs any more."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from agegender.errors import Problem
from agegender.heads.head import BadHead, Task, read_current
from agegender.keys import Scope
from agegender_service.guards import needs
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from trainer.experiments.promote import head_versions
from trainer.jobs import EVALUATIONS, EXPERIMENTS, SEARCHES, VIDEOS
from trainer.routes.runs import Settings, delete_run
from trainer.runs.run import DELETED, TRASH, Kind, R, S, each
from trainer.settings import TrainerSettings

_KINDS: dict[str, Kind[Any, Any]] = {kind.name: kind for kind in (EXPERIMENTS, SEARCHES, EVALUATIONS, VIDEOS)}
TRASH_DAYS = 7  # for which a deleted run can be restored
KEPT_HEADS = 3  # of a task and space: the served one, and those that a rollback may want

router = APIRouter(tags=["prune"])


PrunedKind = Literal["experiment", "search", "evaluation", "video", "head", "trash"]


class Pruned(BaseModel):
    """Something that was unchanged for longer than requested."""

    kind: PrunedKind
    id: str = Field(description="of a head: task, space and version; of a deleted run: its kind and id")
    changed: datetime
    size: int = Field(description="bytes on the volume")
    kept: str | None = Field(description="why it is not deleted; null if it is")


class Pruning(BaseModel):
    dry_run: bool
    freed: int = Field(description="bytes")
    found: list[Pruned]


@router.post(
    "/prune",
    summary="Delete what is old and not in use",
    dependencies=[Depends(needs(Scope.ADMIN))],
)
def prune(
    settings: Settings,
    older_than_days: Annotated[int, Query(ge=1, le=10_000, description="days without a change")],
    dry_run: Annotated[bool, Query(description="only return what would be deleted")] = False,
) -> Pruning:
    """Deletes experiments, searches, evaluations and videos that are over, and heads.

    Empties the trash of what was deleted more than seven days ago. Keeps, per task and space, the served head
    and the two before it, the experiments that these come from, their evaluations, and experiments that
    another one was trained from. With a video's answer goes the upload, but no file that the user put into
    `videos`. Data sets are never deleted.
    """
    data_dir = settings.data_dir
    before = datetime.now(UTC) - timedelta(days=older_than_days)
    kept = {directory: kept_versions(directory) for directory in _head_directories(data_dir)}
    found: list[Pruned] = []
    listed = [*_old_runs(data_dir, before, kept), *_old_heads(data_dir, before, kept), *_trash(data_dir)]
    for record, one in listed:
        found.append(one if dry_run or one.kept is not None else _deleted(settings, record, one))
    freed = sum(one.size for one in found if one.kept is None)
    return Pruning(dry_run=dry_run, freed=freed, found=sorted(found, key=_changed))


def _deleted(settings: TrainerSettings, record: Path, one: Pruned) -> Pruned:
    """Delete it by the rules of DELETE. If it is in use by now, return it with the reason why it is kept."""
    try:
        if one.kind in _KINDS:
            kind = _KINDS[one.kind]
            delete_run(kind, settings, one.id, f"/{kind.path}/{one.id}", restorable=False)
        else:
            record.unlink(missing_ok=True)  # first: a folder without it is no head and no deleted run
            shutil.rmtree(record.parent, ignore_errors=True)
    except Problem as problem:
        return one.model_copy(update={"kept": problem.detail})
    return one


def kept_versions(directory: Path) -> set[str] | None:
    """Return the versions in `models/<task>/<space>/` that are kept; None, for all, if that is uncertain.

    They are the served version, the one that a rollback serves, and the newest others.
    """
    try:
        current = read_current(directory)
    except BadHead:
        return None
    named = [] if current is None else [current.version, current.previous]
    newest = sorted(directory.glob("*/head.json"), key=_modified, reverse=True)
    versions = dict.fromkeys([*(name for name in named if name), *(path.parent.name for path in newest)])
    return set(list(versions)[:KEPT_HEADS])


def _old_runs(
    data_dir: Path, before: datetime, kept: dict[Path, set[str] | None]
) -> Iterator[tuple[Path, Pruned]]:
    experiments = list(each(EXPERIMENTS, data_dir, lambda run: run))
    sources = {run.warm_start: run.id for run in experiments if run.warm_start is not None}
    needed: dict[str, str] = {}
    for run in experiments:
        for directory, versions in kept.items():
            if directory.name != run.space.id:
                continue
            own = {version for task, _ in run.options.tasks for version in head_versions(run, task)}
            if versions is None or own & versions:
                needed[run.id] = f"its heads are among the {KEPT_HEADS} newest of a task in {run.space.id}"
        if run.id in sources:
            needed.setdefault(run.id, f"experiment {sources[run.id]} started from its weights")
    yield from _old(EXPERIMENTS, "experiment", data_dir, before, needed)
    yield from _old(SEARCHES, "search", data_dir, before, {})
    judging = {}
    for evaluation in each(EVALUATIONS, data_dir, lambda run: run):
        judged = set(evaluation.versions.values())
        for directory, versions in kept.items():
            if directory.name == evaluation.space.id and (versions is None or judged & versions):
                judging[evaluation.id] = f"it judged a head that is kept, for {evaluation.dataset}"
    yield from _old(EVALUATIONS, "evaluation", data_dir, before, judging)
    yield from _old(VIDEOS, "video", data_dir, before, {})


def _old(
    kind: Kind[R, S],
    name: PrunedKind,
    data_dir: Path,
    before: datetime,
    needed: dict[str, str],
) -> Iterator[tuple[Path, Pruned]]:
    """Yield the record and the description of each run of a kind that is old."""

    def described(run: R) -> tuple[Path, Pruned]:
        record = kind.record_path(data_dir, kind.name_of(run))
        active = "it is running" if kind.is_active(kind.status(data_dir, run)) else None
        return record, _described(name, run.id, record, active or needed.get(run.id))

    yield from (one for one in each(kind, data_dir, described) if one[1].changed < before)


def _old_heads(
    data_dir: Path, before: datetime, kept: dict[Path, set[str] | None]
) -> Iterator[tuple[Path, Pruned]]:
    for directory, versions in kept.items():
        for record in sorted(directory.glob("*/head.json")):
            place = record.parent.relative_to(data_dir / "models")
            reason = None
            if versions is None or record.parent.name in versions:
                reason = f"it is among the {KEPT_HEADS} newest of {place.parent}"
            one = _described("head", str(place), record, reason)
            if one.changed < before:
                yield record, one


def _trash(data_dir: Path) -> Iterator[tuple[Path, Pruned]]:
    """Yield the deleted runs, however old they are."""
    for record in sorted((data_dir / TRASH).glob(f"*/*/{DELETED}")):
        deleted = datetime.fromtimestamp(_modified(record), UTC)
        end = deleted + timedelta(days=TRASH_DAYS)
        reason = f"it can be restored until {end:%Y-%m-%d %H:%M} UTC" if end > datetime.now(UTC) else None
        place = str(record.parent.relative_to(data_dir / TRASH))
        yield record, _described("trash", place, record, reason).model_copy(update={"changed": deleted})


def _described(kind: PrunedKind, name: str, record: Path, kept: str | None) -> Pruned:
    files = [path for path in record.parent.rglob("*") if path.is_file()]
    changed = max((_modified(path) for path in files), default=0.0)
    size = sum(path.stat().st_size for path in files)
    return Pruned(kind=kind, id=name, changed=datetime.fromtimestamp(changed, UTC), size=size, kept=kept)


def _head_directories(data_dir: Path) -> Iterator[Path]:
    for task in Task:
        yield from sorted(path for path in (data_dir / "models" / task.value).glob("*") if path.is_dir())


def _modified(path: Path) -> float:
    return path.stat().st_mtime


def _changed(one: Pruned) -> datetime:
    return one.changed
