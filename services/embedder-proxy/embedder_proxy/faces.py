"""Find the faces of images: check limits, read the cache, and ask the embedders for the rest."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agegender.errors import Problem, not_ready
from agegender.faces import EVERY_FACE, FaceSelection
from agegender.images import ImageLimits, read_header
from agegender.spaces import Space
from agegender_service.deadlines import Deadline
from prometheus_client import Counter

from embedder_proxy.cache import EncodedFaces, FaceCache, encode_each
from embedder_proxy.pool import Pool
from embedder_proxy.slots import Slots

IMAGES = Counter("proxy_images_total", "Images answered, by source", ["source"])
FACES = Counter("proxy_faces_total", "Faces answered")

_STAGES = ("queue", "decode", "detect", "embed")


@dataclass(frozen=True)
class FoundFaces:
    """One entry per image, in the order sent, and the seconds spent by stage, as far as they are known."""

    space: Space
    images: list[EncodedFaces | Problem]
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
        keys = await asyncio.to_thread(_examine, images, self._limits)
        valid = {key: image for key, image in zip(keys, images, strict=True) if isinstance(key, str)}
        space = self._pool.space
        cached = {} if space is None else await self._cached(space, list(valid), selection)
        missing = {key: image for key, image in valid.items() if key not in cached}
        answers: dict[str, EncodedFaces | Problem] = {**cached}
        seconds = dict.fromkeys(_STAGES, 0.0)  # for a cache hit
        if missing:
            new_space, asked, seconds = await self._ask(missing, selection, deadline)
            if cached and new_space != space:  # the embedders were replaced meanwhile
                new_space, asked, seconds = await self._ask(valid, selection, deadline)
            space = new_space
            answers |= asked
        entries = [answers[key] if isinstance(key, str) else key for key in keys]
        _count(entries, cached=len(cached), asked=len(missing))
        return FoundFaces(space or self._any_space(), entries, seconds)

    async def _cached(
        self, space: Space, digests: Sequence[str], selection: FaceSelection
    ) -> dict[str, EncodedFaces]:
        """Return cache entries of this selection, or selected from an entry of all faces, by digest."""
        if selection == EVERY_FACE:
            return await self._cache.read(space, digests)
        own = {digest: _entry_name(digest, selection) for digest in digests}
        entries = await self._cache.read(space, [*own.values(), *digests])
        cached = {digest: entries[name] for digest, name in own.items() if name in entries}
        for digest in digests:
            found = entries.get(digest)
            if digest not in cached and found is not None and not selection.takes_whole(found.count):
                selected = await asyncio.to_thread(_selected, found, selection)
                if selected is not None:
                    cached[digest] = selected
        return cached

    async def _ask(
        self,
        images: Mapping[str, bytes],
        selection: FaceSelection,
        deadline: Deadline,
    ) -> tuple[Space, dict[str, EncodedFaces | Problem], dict[str, float]]:
        async with self._slots.slot(deadline) as waited:
            embedded = await self._pool.embed(list(images.values()), selection, deadline)
        space = embedded.space
        answers = await asyncio.to_thread(encode_each, dict(zip(images, embedded.images, strict=True)))
        entries = {
            key if answer.complete else _entry_name(key, selection): answer
            for key, answer in answers.items()
            if isinstance(answer, EncodedFaces)
        }
        await self._cache.write(space, entries)
        seconds = {**embedded.seconds, "queue": waited + embedded.seconds.get("queue", 0.0)}
        return space, answers, seconds

    def _any_space(self) -> Space:
        if self._pool.space is None:
            raise not_ready(self._pool.why_none_ready() or "No embedding container was ready yet.")
        return self._pool.space


def _entry_name(digest: str, selection: FaceSelection) -> str:
    """Return the cache name of an image's selected faces; the digest alone names all of its faces."""
    options = "&".join(f"{name}={value}" for name, value in selection.parameters.items())
    return f"{digest}?{options}" if options else digest


def _selected(entry: EncodedFaces, selection: FaceSelection) -> EncodedFaces | None:
    """Select from an entry of all faces; None if the container's limit omitted faces that are selected."""
    image = entry.decoded()
    selected = selection.apply(image)
    if image.truncated and len(selected.faces) != selection.max_faces:
        return None
    return EncodedFaces.of(selected)


def _examine(images: Sequence[bytes], limits: ImageLimits) -> list[str | Problem]:
    """Return the SHA-256 of each image, or the problem that its header shows."""
    return [_digest(image, limits) for image in images]


def _digest(image: bytes, limits: ImageLimits) -> str | Problem:
    try:
        read_header(image, limits)
    except Problem as problem:
        return problem
    return hashlib.sha256(image).hexdigest()


def _count(entries: Sequence[EncodedFaces | Problem], *, cached: int, asked: int) -> None:
    IMAGES.labels("cache").inc(cached)
    IMAGES.labels("embedder").inc(asked)
    IMAGES.labels("refused").inc(sum(isinstance(entry, Problem) for entry in entries))
    FACES.inc(sum(entry.count for entry in entries if isinstance(entry, EncodedFaces)))
