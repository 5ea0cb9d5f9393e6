"""Find the faces of images: check limits, read the cache, and ask the embedders for the rest."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple

from agegender.errors import Problem, not_ready
from agegender.faces import EVERY_FACE, FaceSelection, ImageFaces
from agegender.images import ImageLimits, read_header
from agegender.spaces import Space
from agegender_service.deadlines import Deadline
from agegender_service.observability import Stopwatch
from prometheus_client import Counter

from embedder_proxy.cache import FaceCache, PackedFaces
from embedder_proxy.pool import Pool, Slots

IMAGES = Counter("proxy_images_total", "Images answered, by source", ["source"])
FACES = Counter("proxy_faces_total", "Faces answered")

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

_EXAMINED_AT_ONCE = 256 * 1024  # bytes of images; a thread costs more, and more blocks the event loop
_STAGES = ("queue", "decode", "detect", "embed")  # of images that an embedder searched


@dataclass(frozen=True)
class FoundFaces:
    """One entry per image, in the order sent, and the seconds spent by stage, as far as they are known."""

    space: Space
    images: list[PackedFaces | Problem]
    seconds: Mapping[str, float]


class FaceFinder:
    """Find faces with the cache and the pool of embedders."""

    def __init__(self, pool: Pool, cache: FaceCache, slots: Slots, limits: ImageLimits) -> None:
        self._pool = pool
        self._cache = cache
        self._slots = slots
        self._limits = limits

    async def find(
        self,
        images: Sequence[bytes],
        selection: FaceSelection,
        deadline: Deadline,
    ) -> FoundFaces:
        """Return the selected faces of each image, or the image's problem.

        Raises problems of the whole request: ``busy`` 429, ``not-ready`` or ``embedder-unavailable`` 503,
        ``deadline-exceeded`` 504.
        """
        spent = Stopwatch()
        with spent.stage("check"):
            keys = await _for_bytes(images, _digests, images, self._limits)
        files = dict(zip(keys, images, strict=True))
        space = self._pool.space
        with spent.stage("cache"):
            cached = {} if space is None else await self._cached(space, list(files), selection)
        answers: dict[str, PackedFaces | Problem] = {**cached}
        asked = 0
        if missing := {key: image for key, image in files.items() if key not in cached}:
            # A cached file passed these checks before, so only the others are examined.
            with spent.stage("check"):
                problems = await _for_bytes(list(missing.values()), _problems, missing, self._limits)
            answers |= problems
            missing = {key: image for key, image in missing.items() if key not in problems}
            asked = len(missing)
        if missing:
            new_space, found = await self._ask(missing, selection, deadline, spent)
            if cached and new_space != space:  # the embedders were replaced meanwhile
                valid = {key: image for key, image in files.items() if key not in problems}
                new_space, found = await self._ask(valid, selection, deadline, spent)
            space = new_space
            answers |= found
        else:
            spent.add(dict.fromkeys(_STAGES, 0.0))
        entries = [answers[key] for key in keys]
        _count(entries, cached=len(cached), asked=asked)
        return FoundFaces(space or self._any_space(), entries, spent.seconds)

    async def _cached(
        self, space: Space, digests: Sequence[str], selection: FaceSelection
    ) -> dict[str, PackedFaces]:
        """Return cache entries of this selection, or selected from an entry of all faces, by digest."""
        if selection == EVERY_FACE:
            return await self._cache.read(space, digests)
        own = {digest: _entry_name(digest, selection) for digest in digests}
        entries = await self._cache.read(space, [*own.values(), *digests])
        cached = {digest: entries[name] for digest, name in own.items() if name in entries}
        for digest in digests:
            found = entries.get(digest)
            if digest not in cached and found is not None and not selection.takes_whole(found.count):
                selected = _selected(found, selection)
                if selected is not None:
                    cached[digest] = selected
        return cached

    async def _ask(
        self,
        images: Mapping[str, bytes],
        selection: FaceSelection,
        deadline: Deadline,
        spent: Stopwatch,
    ) -> tuple[Space, dict[str, PackedFaces | Problem]]:
        async with self._slots.slot(deadline) as waited:
            embedded = await self._pool.embed(list(images.values()), selection, deadline)
        spent.add({**embedded.seconds, "queue": waited + embedded.seconds.get("queue", 0.0)})
        with spent.stage("cache"):
            answers = await asyncio.to_thread(_packed, dict(zip(images, embedded.images, strict=True)))
            entries = {
                key if answer.complete else _entry_name(key, selection): answer
                for key, answer in answers.items()
                if isinstance(answer, PackedFaces)
            }
            await self._cache.write(embedded.space, entries)
        return embedded.space, answers

    def _any_space(self) -> Space:
        if self._pool.space is None:
            raise not_ready(self._pool.why_none_ready() or "No embedding container was ready yet.")
        return self._pool.space


def _entry_name(digest: str, selection: FaceSelection) -> str:
    """Return the cache name of an image's selected faces; the digest alone names all of its faces."""
    options = "&".join(f"{name}={value}" for name, value in selection.parameters.items())
    return f"{digest}?{options}" if options else digest


def _selected(entry: PackedFaces, selection: FaceSelection) -> PackedFaces | None:
    """Select from an entry of all faces; None if the container's limit omitted faces that are selected."""
    selected = selection.apply(entry.image)
    if entry.image.truncated and len(selected.faces) != selection.max_faces:
        return None
    return PackedFaces.of(selected)


def _packed(images: Mapping[str, ImageFaces | Problem]) -> dict[str, PackedFaces | Problem]:
    return {
        key: image if isinstance(image, Problem) else PackedFaces.of(image) for key, image in images.items()
    }


async def _for_bytes(
    images: Sequence[bytes], function: Callable[[*Arguments], Result], *arguments: *Arguments
) -> Result:
    """Call a function whose time grows with the images' bytes: at once for few, in a thread for many."""
    if sum(map(len, images)) <= _EXAMINED_AT_ONCE:
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)


def _digests(images: Sequence[bytes], limits: ImageLimits) -> list[str]:
    """Return the SHA-256 of each image; of one that is too large, that of its beginning and its length."""
    return [
        hashlib.sha256(image).hexdigest()
        if len(image) <= limits.max_bytes
        else f"{hashlib.sha256(image[:_EXAMINED_AT_ONCE]).hexdigest()}+{len(image)}"
        for image in images
    ]


def _problems(images: Mapping[str, bytes], limits: ImageLimits) -> dict[str, Problem]:
    """Return the problems that the headers of images show."""
    found = {}
    for key, image in images.items():
        try:
            read_header(image, limits)
        except Problem as problem:
            found[key] = problem.as_value()
    return found


def _count(entries: Sequence[PackedFaces | Problem], *, cached: int, asked: int) -> None:
    IMAGES.labels("cache").inc(cached)
    IMAGES.labels("embedder").inc(asked)
    IMAGES.labels("refused").inc(sum(isinstance(entry, Problem) for entry in entries))
    FACES.inc(sum(entry.count for entry in entries if isinstance(entry, PackedFaces)))
