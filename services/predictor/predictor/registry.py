"""The heads that are served now: found on the volume, proved, and swapped while requests run."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import structlog
from agegender.errors import Problem
from agegender.heads.checkpoints import BadHead, load_head, read_current, set_current
from agegender.heads.head import Head, Task
from agegender.predictions import HeadStatus
from agegender.spaces import NAME, Space

from predictor.metrics import HEAD_SWAPS, HEAD_VERSION

log = structlog.get_logger(__name__)

Key = tuple[Task, str]  # a task and a space's id
Source = Literal["promoted", "shipped"]
Signature = tuple[tuple[str, int, int, int] | None, ...]


@dataclass(frozen=True, eq=False)
class Heads:
    """The two heads that answer for a space. Compared by identity: a swap makes a new pair."""

    age: Head
    gender: Head


@dataclass(frozen=True)
class Candidate:
    directory: Path
    source: Source


@dataclass(frozen=True)
class Served:
    """What is known of one task and space. `head` is None where nothing there can be served."""

    head: Head | None
    source: Source | None
    previous: str | None
    problem: str | None
    signature: Signature


class HeadRegistry:
    """Finds heads in `models` first and in `shipped` second, both laid out as `<task>/<space>/<version>`.

    `refresh` and `rollback` read and write files: call them in a thread. The others only read memory.
    """

    def __init__(self, models: Path, shipped: Path) -> None:
        self._models = models
        self._shipped = shipped
        self._served: dict[Key, Served] = {}
        self._pairs: dict[str, Heads] = {}
        self._writing = threading.Lock()

    def heads(self, space: Space) -> Heads:
        """The heads of a space. Raises ``no-head`` 409, which names it and the spaces that have heads."""
        pair = self._pairs.get(space.id)
        if pair is None or pair.age.manifest.space != space:
            raise self._no_head(space)
        return pair

    def heads_of(self, space: str) -> Heads:
        """The same by a space's id alone."""
        pair = self._pairs.get(space)
        if pair is None:
            raise self._no_head(space)
        return pair

    @property
    def spaces(self) -> list[Space]:
        """That have both heads."""
        return [pair.age.manifest.space for _, pair in sorted(self._pairs.items())]

    @property
    def warnings(self) -> list[str]:
        return [
            f"{task.value} head for {space}: {served.problem}"
            for (task, space), served in sorted(self._served.items())
            if served.problem
        ]

    def status(self) -> list[HeadStatus]:
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
        """Load aside what is new on the volume, prove it, and swap. A bad head leaves the old one serving."""
        with self._writing:
            served = dict(self._served)
            for key in sorted(set(self._keys()) | set(served)):
                signature = self._signature(key)
                if key not in served or served[key].signature != signature:
                    served[key] = self._load(key, served.get(key), signature)
            self._served = served
            self._pairs = _pairs(served)

    def rollback(self, task: Task, space: str) -> None:
        """Serve the version before the current one again. Raises ``no-previous-head`` or ``bad-head`` 409."""
        directory = self._models / task.value / space
        try:
            current = read_current(directory)
            version = self._previous((task, space)) if current else None
            if version is None:
                raise Problem(
                    "no-previous-head", 409, f"No other {task.value} head was served for {space!r} before."
                )
            load_head(self._directory((task, space), version).directory)
            set_current(directory, version)
        except BadHead as error:
            raise Problem("bad-head", 409, f"The version before cannot be served: {error}") from error
        except OSError as error:
            raise Problem(
                "volume-not-writable", 503, f"{directory} cannot be written: {error.strerror}."
            ) from error
        self.refresh()

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
                head = _proved(candidate.directory, key)
            except BadHead as error:
                problems.append(str(error))
                if before and before.head:
                    break
                continue
            problem = problems[0] if problems else None
            self._tell(key, before, head, problem)
            return Served(head, candidate.source, self._previous(key), problem, signature)
        problem = problems[0] if problems else "its files are gone"
        self._tell(key, before, None, problem)
        if before is None:
            return Served(None, None, None, problem, signature)
        return replace(before, problem=problem, signature=signature)

    def _candidates(self, key: Key, problems: list[str]) -> Iterator[Candidate]:
        """What should be served, then what may stand in where nothing is served yet."""
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
        # A promoted head may have been rolled back to one that came with the program.
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
        """Changes whenever a file changes that decides what is served."""
        paths = [_of(root, key) / "current.json" for root in (self._models, self._shipped)]
        for candidate in self._candidates(key, []):
            paths += [candidate.directory / name for name in ("head.json", "head.safetensors")]
        return tuple(_file_signature(path) for path in paths)

    def _no_head(self, space: Space | str) -> Problem:
        known = [str(known) for known in self.spaces]
        return Problem(
            "no-head",
            409,
            f"There are no heads for the space {space}; the spaces with heads are "
            f"{', '.join(known) or 'none'}. Train and promote heads for it, or serve another pack.",
            space=str(space),
            spaces=known,
        )

    @staticmethod
    def _tell(key: Key, before: Served | None, head: Head | None, problem: str | None) -> None:
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


def _proved(directory: Path, key: Key) -> Head:
    head = load_head(directory)
    manifest = head.manifest
    if (manifest.task, manifest.space.id, manifest.version) != (*key, directory.name):
        raise BadHead(f"{directory} holds {manifest.task.value} {manifest.version} for {manifest.space}")
    if manifest.task is Task.AGE and manifest.conformal is None:
        raise BadHead(f"{directory} has no conformal intervals")
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
