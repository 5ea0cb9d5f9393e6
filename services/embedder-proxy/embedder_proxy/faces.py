"""Images in, faces out: limits, then the cache, then the embedders for what the cache does not know."""

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

from embedder_proxy.cache import FaceCache
from embedder_proxy.encoded import EncodedFaces, encode_each
from embedder_proxy.pool import Pool
from embedder_proxy.slots import Slots

IMAGES = Counter("proxy_images_total", "Images answered, by source", ["source"])
FACES = Counter("proxy_faces_total", "Faces answered")

_STAGES = ("queue", "decode", "detect", "embed")


@dataclass(frozen=True)
class FoundFaces:
    """One entry an image, in the order sent; and the seconds spent by stage, as far as they are known."""

    space: Space
    images: list[EncodedFaces | Problem]
    seconds: Mapping[str, float]


class FaceFinder:
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
        headers: Mapping[str, str],
    ) -> FoundFaces:
        """Return the selected faces of each image.

        One image's problem stands in its place, a lone image's is raised.

        Raises `Problem` where nothing can be answered: ``busy`` 429, ``embedder-unavailable`` 503,
        ``deadline-exceeded`` 504.
        """
        keys = await asyncio.to_thread(_examine, images, self._limits)
        if len(keys) == 1 and isinstance(keys[0], Problem):
            raise keys[0]
        wanted = {key: image for key, image in zip(keys, images, strict=True) if isinstance(key, str)}
        space = self._pool.space
        known = {} if space is None else await self._known(space, list(wanted), selection)
        missing = {key: image for key, image in wanted.items() if key not in known}
        answers: dict[str, EncodedFaces | Problem] = {**known}
        seconds = dict.fromkeys(_STAGES, 0.0)  # of a cache hit
        if missing:
            answered_space, asked, seconds = await self._ask(missing, selection, deadline, headers)
            if known and answered_space != space:  # the embedders were exchanged meanwhile
                answered_space, asked, seconds = await self._ask(wanted, selection, deadline, headers)
            space = answered_space
            answers |= asked
        entries = [answers[key] if isinstance(key, str) else key for key in keys]
        _count(entries, known=len(known), asked=len(missing))
        if len(entries) == 1 and isinstance(entries[0], Problem):
            raise entries[0]
        return FoundFaces(space or self._any_space(), entries, seconds)

    async def _known(
        self, space: Space, digests: Sequence[str], selection: FaceSelection
    ) -> dict[str, EncodedFaces]:
        """Return what the cache has, by digest: an entry of this selection, or of all faces."""
        if selection == EVERY_FACE:
            return await self._cache.read(space, digests)
        own = {digest: _entry_name(digest, selection) for digest in digests}
        entries = await self._cache.read(space, [*own.values(), *digests])
        known = {digest: entries[name] for digest, name in own.items() if name in entries}
        for digest in digests:
            if digest not in known and digest in entries:
                chosen = await asyncio.to_thread(_selected, entries[digest], selection)
                if chosen is not None:
                    known[digest] = chosen
        return known

    async def _ask(
        self,
        images: Mapping[str, bytes],
        selection: FaceSelection,
        deadline: Deadline,
        headers: Mapping[str, str],
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
    """Name the cache entry of an image's selected faces; all of its faces have the digest's own name."""
    options = "&".join(f"{name}={value}" for name, value in selection.parameters.items())
    return f"{digest}?{options}" if options else digest


def _selected(entry: EncodedFaces, selection: FaceSelection) -> EncodedFaces | None:
    """Select from an entry of all faces; None if the container's limit left out faces that are wanted."""
    image = entry.decoded()
    chosen = selection.apply(image)
    if image.truncated and len(chosen.faces) != selection.max_faces:
        return None
    return EncodedFaces.of(chosen)


def _examine(images: Sequence[bytes], limits: ImageLimits) -> list[str | Problem]:
    """The SHA-256 of each image, or what its header already says against it."""
    return [_digest(image, limits) for image in images]


def _digest(image: bytes, limits: ImageLimits) -> str | Problem:
    try:
        read_header(image, limits)
    except Problem as problem:
        return problem
    return hashlib.sha256(image).hexdigest()


def _count(entries: Sequence[EncodedFaces | Problem], *, known: int, asked: int) -> None:
    IMAGES.labels("cache").inc(known)
    IMAGES.labels("embedder").inc(asked)
    IMAGES.labels("refused").inc(sum(isinstance(entry, Problem) for entry in entries))
    FACES.inc(sum(entry.count for entry in entries if isinstance(entry, EncodedFaces)))
