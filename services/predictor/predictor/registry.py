"""Find heads on the volume, check and swap them while requests run, and run them in batches."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import structlog
from agegender.errors import Problem
from agegender.heads.head import (
    BadHead,
    Head,
    Task,
    current_lock,
    load_head,
    over_years,
    read_current,
    step_back,
)
from agegender.predictions import HeadStatus
from agegender.spaces import NAME, Space
from agegender_service.batching import Batcher, Queued
from prometheus_client import Counter, Gauge, Histogram

log = structlog.get_logger(__name__)

HEAD_VERSION = Gauge("predictor_head", "1 for each head that is served", ["task", "space", "version"])
HEAD_SWAPS = Counter("predictor_head_swaps_total", "New heads found, by outcome", ["task", "outcome"])
BATCH_FACES = Histogram(
    "predictor_batch_faces", "Faces per batch of the heads", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)

Array = npt.NDArray[np.float32]
Key = tuple[Task, str]  # a task and a space's id
Source = Literal["promoted", "shipped"]
Signature = tuple[tuple[str, int, int, int] | None, ...]


@dataclass(frozen=True, eq=False)
class Heads:
    """The two heads of a space. Compared by identity: a swap creates a new pair."""

    age: Head
    gender: Head

    def prepare(self) -> None:
        """Prepare both for their first prediction."""
        self.age.prepare()
        self.gender.prepare()


@dataclass(frozen=True)
class Candidate:
    """A directory that may contain the head to serve."""

    directory: Path
    source: Source


@dataclass(frozen=True)
class Served:
    """State of one task and space. `head` is None if none can be served."""

    head: Head | None
    source: Source | None
    previous: str | None
    problem: str | None
    signature: Signature


class HeadRegistry:
    """Serve heads from `models`, or else from `shipped`, both laid out as `<task>/<space>/<version>`.

    `refresh` and `rollback` access files: call them in a thread. The other methods only read memory.
    """

    def __init__(self, models: Path, shipped: Path) -> None:
        self._models = models
        self._shipped = shipped
        self._served: dict[Key, Served] = {}
        self._pairs: dict[str, Heads] = {}
        self._writing = threading.Lock()

    def heads(self, space: Space) -> Heads:
        """Return the heads of a space. Raises ``no-head`` 409, which lists the spaces that have heads."""
        pair = self._pairs.get(space.id)
        if pair is None or pair.age.manifest.space != space:
            raise self._no_head(space)
        return pair

    def heads_of(self, space: str) -> Heads:
        """Return the heads of a space by its id. Raises ``no-head`` 409."""
        pair = self._pairs.get(space)
        if pair is None:
            raise self._no_head(space)
        return pair

    @property
    def spaces(self) -> list[Space]:
        """The spaces that have both heads."""
        return [pair.age.manifest.space for _, pair in sorted(self._pairs.items())]

    @property
    def warnings(self) -> list[str]:
        """Describe heads that should be served but are not."""
        return [
            f"{task.value} head for {space}: {served.problem}"
            for (task, space), served in sorted(self._served.items())
            if served.problem
        ]

    def status(self) -> list[HeadStatus]:
        """Describe the head of each task and space."""
        return [
            HeadStatus(
                task=task,
                space=space,
                version=served.head.manifest.version if served.head else None,
                source=served.source,
                previous=served.previous,
                problem=served.problem,
                card=served.head.manifest.card if served.head else None,
            )
            for (task, space), served in sorted(self._served.items())
        ]

    def refresh(self) -> None:
        """Load and check new heads of the volume, and swap them in. A bad head leaves the old one serving."""
        with self._writing:
            served = dict(self._served)
            for key in sorted(set(self._keys()) | set(served)):
                signature = self._signature(key)
                if key not in served or served[key].signature != signature:
                    served[key] = self._load(key, served.get(key), signature)
            self._served = served
            self._pairs = _pairs(served)

    def rollback(self, task: Task, space: str) -> None:
        """Serve the previous version. Raises ``no-previous-head`` or ``bad-head`` 409.

        Repeated calls go further back. None serves a newer version.
        """
        key = task, space
        directory = _of(self._models, key)
        try:
            self._require_previous(key)  # an answer that needs no lock
            with current_lock(directory):
                version = self._require_previous(key)
                load_head(self._directory(key, version).directory)
                step_back(directory, version)
        except BadHead as error:
            raise Problem("bad-head", 409, f"The previous version cannot be served: {error}") from error
        except OSError as error:
            raise Problem(
                "volume-not-writable", 503, f"{directory} cannot be written: {error.strerror}."
            ) from error
        self.refresh()

    def _require_previous(self, key: Key) -> str:
        current = read_current(_of(self._models, key))
        version = self._previous(key) if current else None
        if version is None:
            task, space = key
            newer = " Promote an experiment to serve a newer one." if current else ""
            raise Problem(
                "no-previous-head",
                409,
                f"Space {space!r} has no previous {task.value} head to serve.{newer}",
            )
        return version

    def _keys(self) -> Iterator[Key]:
        for root in (self._shipped, self._models):
            for task in Task:
                for path in (root / task.value).glob("*/current.json"):
                    if NAME.fullmatch(path.parent.name):
                        yield task, path.parent.name

    def _load(self, key: Key, before: Served | None, signature: Signature) -> Served:
        problems: list[str] = []
        for candidate in self._candidates(key, problems):
            try:
                head = _checked(candidate.directory, key)
            except BadHead as error:
                problems.append(str(error))
                if before and before.head:
                    break
                continue
            problem = problems[0] if problems else None
            if before and before.head and before.head.prepared:
                head.prepare()
            self._report(key, before, head, problem)
            return Served(head, candidate.source, self._previous(key), problem, signature)
        problem = problems[0] if problems else "its files are missing"
        self._report(key, before, None, problem)
        if before is None:
            return Served(None, None, None, problem, signature)
        return replace(before, problem=problem, signature=signature)

    def _candidates(self, key: Key, problems: list[str]) -> Iterator[Candidate]:
        """Yield the head that should be served, then the fallbacks while none is served."""
        for root in (self._models, self._shipped):
            try:
                current = read_current(_of(root, key))
            except BadHead as error:
                problems.append(str(error))
                continue
            for version in (current.version, current.previous) if current else ():
                if version is not None:
                    yield self._directory(key, version)

    def _directory(self, key: Key, version: str) -> Candidate:
        promoted = _of(self._models, key) / version
        # A promoted head may have been rolled back to one that was shipped with the program.
        if promoted.is_dir() or not (_of(self._shipped, key) / version).is_dir():
            return Candidate(promoted, "promoted")
        return Candidate(_of(self._shipped, key) / version, "shipped")

    def _previous(self, key: Key) -> str | None:
        try:
            current = read_current(_of(self._models, key))
            if current is None:
                return None
            shipped = read_current(_of(self._shipped, key))
        except BadHead:
            return None
        previous = current.previous or (shipped.version if shipped else None)
        return None if previous == current.version else previous

    def _signature(self, key: Key) -> Signature:
        """Return a value that changes whenever a relevant file changes."""
        paths = [_of(root, key) / "current.json" for root in (self._models, self._shipped)]
        for candidate in self._candidates(key, []):
            paths += [candidate.directory / name for name in ("head.json", "head.safetensors")]
        return tuple(_file_signature(path) for path in paths)

    def _no_head(self, space: Space | str) -> Problem:
        known = [str(known) for known in self.spaces]
        return Problem(
            "no-head",
            409,
            f"There are no heads for the space {space}. Spaces with heads: {', '.join(known) or 'none'}. "
            "Train and promote heads for it, or serve another pack.",
            space=str(space),
            spaces=known,
        )

    @staticmethod
    def _report(key: Key, before: Served | None, head: Head | None, problem: str | None) -> None:
        task, space = key
        if problem is not None:
            HEAD_SWAPS.labels(task.value, "bad").inc()
            log.warning("bad head", task=task.value, space=space, reason=problem)
        if head is None:
            return
        version = head.manifest.version
        if before and before.head:
            HEAD_VERSION.labels(task.value, space, before.head.manifest.version).set(0)
        HEAD_VERSION.labels(task.value, space, version).set(1)
        HEAD_SWAPS.labels(task.value, "served").inc()
        log.info("head served", task=task.value, space=space, version=version)


def _of(root: Path, key: Key) -> Path:
    task, space = key
    return root / task.value / space


def _checked(directory: Path, key: Key) -> Head:
    head = load_head(directory)
    manifest = head.manifest
    if (manifest.task, manifest.space.id, manifest.version) != (*key, directory.name):
        raise BadHead(f"{directory} contains {manifest.task.value} {manifest.version} for {manifest.space}")
    if manifest.task is Task.AGE and manifest.conformal is None:
        raise BadHead(f"{directory} lacks conformal intervals")
    return head


def _pairs(served: dict[Key, Served]) -> dict[str, Heads]:
    found = {key: entry.head for key, entry in served.items() if entry.head}
    return {
        space: Heads(age=head, gender=gender)
        for (task, space), head in found.items()
        if task is Task.AGE
        and (gender := found.get((Task.GENDER, space))) is not None
        and gender.manifest.space == head.manifest.space
    }


def _file_signature(path: Path) -> tuple[str, int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return str(path), stat.st_ino, stat.st_mtime_ns, stat.st_size


@dataclass(frozen=True)
class Probabilities:
    """Calibrated: age [faces, 101] over years, gender [faces, 2]; and the seconds it took."""

    age: Array
    gender: Array
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


@dataclass(frozen=True)
class _Dropout:
    embeddings: Array
    passes: int


class HeadBatches:
    """Run heads in `threads` threads, at most `max_faces` faces at a time; one request is never split.

    Parameters
    ----------
    max_waiting_faces : of all requests that wait for a thread; one request alone may have more.
    max_waiting : requests that wait for Monte-Carlo dropout, which has one thread.
    """

    def __init__(
        self, threads: int, max_faces: int, *, max_waiting_faces: int = 4096, max_waiting: int = 32
    ) -> None:
        self._ensembles: Batcher[Heads, Array, Probabilities] = Batcher(
            _run_ensemble,
            name="heads",
            cost=len,
            max_cost=max_faces,
            max_waiting=max_waiting_faces,
            workers=threads,
        )
        self._dropouts: Batcher[Heads, _Dropout, Probabilities] = Batcher(
            _run_dropout, name="mc-dropout", max_waiting=max_waiting
        )

    async def ensemble(self, heads: Heads, embeddings: Array) -> Probabilities:
        """Return the mean over the members of each bank, for embeddings [faces, dimension].

        Raises ``busy`` 429.
        """
        return await self._ensembles.submit(heads, embeddings)

    async def mc_dropout(self, heads: Heads, embeddings: Array, passes: int) -> Probabilities:
        """Return the mean over passes of Monte-Carlo dropout, for embeddings [faces, dimension].

        Requests are not batched: the dropout masks, and so the result, would depend on the other requests.
        Ends after its current pass if the caller leaves. Raises ``busy`` 429.
        """
        return await self._dropouts.submit(heads, _Dropout(embeddings, passes))

    def close(self) -> None:
        """Wait for the batches that run."""
        self._ensembles.close()
        self._dropouts.close()


def _run_ensemble(heads: Heads, batch: Sequence[Queued[Array, Probabilities]]) -> list[Probabilities]:
    started = time.perf_counter()
    mean = _ensemble(heads, np.concatenate([request.item for request in batch]))
    seconds = time.perf_counter() - started
    results: list[Probabilities] = []
    first = 0
    for request in batch:
        rows = slice(first, first + len(request.item))
        first = rows.stop
        results.append(Probabilities(mean.age[rows], mean.gender[rows], request.queue_seconds, seconds))
    return results


def _ensemble(heads: Heads, embeddings: Array) -> Probabilities:
    BATCH_FACES.observe(len(embeddings))
    age, gender = (head.probabilities(embeddings) for head in (heads.age, heads.gender))
    return Probabilities(over_years(age, heads.age.manifest.classes), gender)


def _run_dropout(heads: Heads, batch: Sequence[Queued[_Dropout, Probabilities]]) -> list[Probabilities]:
    return [_mc_dropout(heads, request) for request in batch]


def _mc_dropout(heads: Heads, request: Queued[_Dropout, Probabilities]) -> Probabilities:
    started = time.perf_counter()
    age, gender = (
        head.probabilities_mc_dropout(
            request.item.embeddings, request.item.passes, seed=0, unwanted=lambda: request.abandoned
        )
        for head in (heads.age, heads.gender)
    )
    seconds = time.perf_counter() - started
    return Probabilities(over_years(age, heads.age.manifest.classes), gender, request.queue_seconds, seconds)
