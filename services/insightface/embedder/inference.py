"""Find and embed the faces of concurrent requests in one thread, which owns the models.

The images of a batch are searched one by one; then all their faces are embedded together.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agegender.errors import Problem
from agegender.faces import Face, FaceSelection, ImageFaces
from agegender.images import ImageLimits, decode
from agegender_service.batching import Batcher, Queued
from agegender_service.observability import Stopwatch
from prometheus_client import Counter, Histogram

from embedder.detection.search import Detections
from embedder.packs.pack import Image, Pack
from embedder.sessions import PROGRESS

FACES = Counter("embedder_faces_total", "Faces embedded")
QUEUED = Histogram("embedder_queue_seconds", "Wait for the models")
BATCH_FACES = Histogram(
    "embedder_batch_faces", "Faces embedded together", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)

_MAX_PIXELS = 16_000_000  # of images whose faces wait to be embedded; 48 MB
_MAX_FACES = 64  # embedded at once; between two such parts abandoned requests are dropped

Entry = ImageFaces | Problem


@dataclass(frozen=True)
class _Images:
    """The images and options of one request."""

    images: Sequence[bytes]
    selection: FaceSelection
    seconds: Stopwatch


@dataclass(eq=False)
class _Work:
    """One request of a batch, and what is known of its images so far.

    failure : a defect, which fails this request alone.
    """

    queued: Queued[_Images, list[Entry]]
    entries: dict[int, Entry] = field(default_factory=dict)
    failure: Exception | None = None

    @property
    def stopped(self) -> bool:
        """Return whether its faces are of no use any more."""
        return self.queued.abandoned or self.failure is not None

    @property
    def seconds(self) -> Stopwatch:
        return self.queued.item.seconds


@dataclass(frozen=True)
class _Searched:
    """An image whose faces are found and not embedded yet."""

    work: _Work
    number: int
    pixels: Image
    found: Detections


class FaceBatches:
    """Batch requests for faces.

    Parameters
    ----------
    limits : of one image.
    images : of requests that are batched together; one request is never split.
    max_faces : embedded per image, the largest first.
    """

    def __init__(self, limits: ImageLimits, images: int, max_faces: int) -> None:
        self._limits = limits
        self._max_faces = max_faces
        # The proxy in front bounds the requests that wait.
        self._batcher: Batcher[Pack, _Images, list[Entry]] = Batcher(
            self._run, name="pack", cost=lambda item: len(item.images), max_cost=images
        )
        self.executor = self._batcher.executor

    async def faces(
        self, pack: Pack, images: Sequence[bytes], selection: FaceSelection, seconds: Stopwatch
    ) -> list[Entry]:
        """Return the faces of each image, or its problem.

        A request that is cancelled ends after its current stage.

        seconds : receives the time in queue, decode and detect, and that of the whole batch in embed.
        """
        return await self._batcher.submit(pack, _Images(images, selection, seconds))

    def close(self) -> None:
        """Wait for the batch that runs."""
        self._batcher.close()

    def _run(
        self, pack: Pack, batch: Sequence[Queued[_Images, list[Entry]]]
    ) -> list[list[Entry] | Exception]:
        """Search the images one by one, then embed their faces at once, or earlier if memory runs short."""
        started = time.perf_counter()
        works = [_Work(queued) for queued in batch]
        for work in works:
            work.seconds.seconds["queue"] = work.queued.queue_seconds
            QUEUED.observe(work.queued.queue_seconds)
        searched: list[_Searched] = []
        for work in works:
            try:
                for image in self._search(pack, work):
                    searched.append(image)
                    if sum(one.pixels.size for one in searched) > 3 * _MAX_PIXELS:
                        _embed(pack, searched)
                        searched = []
            except Exception as error:
                work.failure = error
        _embed(pack, searched)
        seconds = time.perf_counter() - started
        for work in works:  # it waited while the others of its batch were searched
            spent = work.seconds.seconds
            spent["queue"] += max(0.0, work.queued.queue_seconds + seconds - sum(spent.values()))
        return [work.failure or [entry for _, entry in sorted(work.entries.items())] for work in works]

    def _search(self, pack: Pack, work: _Work) -> Iterator[_Searched]:
        for number, content in enumerate(work.queued.item.images):
            if work.stopped:
                return
            try:
                with work.seconds.stage("decode"):
                    pixels = decode(content, self._limits)
            except Problem as problem:
                work.entries[number] = problem.as_value()
                continue
            PROGRESS.step()
            with work.seconds.stage("detect"):
                found = pack.detect([pixels], lambda: not work.stopped)[0]
                selection = work.queued.item.selection
                if selection.takes_whole(len(found.score)):
                    found = pack.whole(pixels, found)
                else:
                    found = found.selected(selection, self._max_faces)
            PROGRESS.step()
            yield _Searched(work, number, pixels, found)


def _embed(pack: Pack, searched: Sequence[_Searched]) -> None:
    images = [image for image in searched if not image.work.stopped]
    works = {image.work for image in images}
    if not images:
        return
    spent = Stopwatch()
    try:
        with spent.stage("embed"):
            faces = _embed_in_parts(pack, images)
    except Exception as error:
        if len(works) == 1:
            works.pop().failure = error
        for work in works:  # one by one, which shows whose defect it is
            _embed(pack, [image for image in images if image.work is work])
        return
    for work in works:
        work.seconds.seconds["embed"] += spent.seconds["embed"]
    for image, of_image in zip(images, faces, strict=True):
        if not image.work.stopped:
            image.work.entries[image.number] = _image_faces(image, of_image)
    FACES.inc(sum(map(len, faces)))


def _embed_in_parts(pack: Pack, images: Sequence[_Searched]) -> list[list[Face]]:
    """Return the faces of each image; incomplete for a request that is abandoned meanwhile.

    A crowd takes minutes, so that abandoned requests are dropped between two parts.
    """
    faces: list[list[Face]] = [[] for _ in images]
    for part in _parts(images):
        alive = [(number, found) for number, found in part if not images[number].work.stopped]
        if not alive:
            continue
        pixels = [images[number].pixels for number, _ in alive]
        embedded = pack.embed(pixels, [found for _, found in alive])
        PROGRESS.step()
        BATCH_FACES.observe(sum(map(len, embedded)))
        for (number, _), more in zip(alive, embedded, strict=True):
            faces[number] += more
    return faces


def _parts(images: Sequence[_Searched]) -> Iterator[list[tuple[int, Detections]]]:
    """Split the images' faces into parts of at most `_MAX_FACES`, with the positions of their images."""
    part: list[tuple[int, Detections]] = []
    room = _MAX_FACES
    for number, image in enumerate(images):
        for found in image.found.groups(_MAX_FACES):
            if len(found.score) > room:
                yield part
                part, room = [], _MAX_FACES
            part.append((number, found))
            room -= len(found.score)
    if part:
        yield part


def _image_faces(image: _Searched, faces: list[Face]) -> ImageFaces:
    height, width = image.pixels.shape[:2]
    found = image.found
    return ImageFaces(
        width=width,
        height=height,
        rotation=found.rotation,
        faces=faces,
        faces_found=found.found,
        truncated=found.truncated,
    )
