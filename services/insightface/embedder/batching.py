"""One thread owns the models; the faces of requests that waited for it are embedded together.

An idle container never waits for company: what is there is begun at once, and what arrives meanwhile makes up
the next batch.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from agegender.errors import Problem
from agegender.faces import Face, FaceSelection, ImageFaces
from agegender.images import ImageLimits, decode
from agegender_service.timings import StageSeconds
from prometheus_client import Counter, Histogram

from embedder.detection.search import Detections
from embedder.packs.pack import Image, Pack
from embedder.sessions import PROGRESS

FACES = Counter("embedder_faces_total", "Faces embedded")
QUEUED = Histogram("embedder_queue_seconds", "Waiting for the models")
BATCH_FACES = Histogram(
    "embedder_batch_faces", "Faces that were embedded together", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)

_PIXELS = 16_000_000  # of pictures whose faces wait to be embedded; 48 MB

_TOGETHER = 64  # faces; between two such portions it is seen whether anybody still waits

Answer = ImageFaces | Problem


@dataclass(eq=False)
class _Request:
    images: Sequence[bytes]
    selection: FaceSelection
    future: asyncio.Future[list[Answer]]
    since: float
    spent: StageSeconds
    left: threading.Event = field(default_factory=threading.Event)
    answers: dict[int, Answer] = field(default_factory=dict)
    failure: Exception | None = None  # a defect: this request's alone, whoever shares its batch

    @property
    def given_up(self) -> bool:
        return self.left.is_set() or self.failure is not None


@dataclass(frozen=True)
class _Picture:
    """One that was searched, and is to be embedded."""

    request: _Request
    number: int
    pixels: Image
    found: Detections


class FaceBatches:
    """
    Parameters
    ----------
    limits : of one image.
    images : of requests that are taken together; one request is never split.
    max_faces : embedded per image, the largest first.
    """

    def __init__(self, limits: ImageLimits, images: int, max_faces: int) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="pack")
        self._limits = limits
        self._images = images
        self._max_faces = max_faces
        self._waiting: deque[_Request] = deque()
        self._at_work = False

    async def faces(
        self, pack: Pack, images: Sequence[bytes], selection: FaceSelection, spent: StageSeconds
    ) -> list[Answer]:
        """The faces of each image, or its problem. Who is cancelled costs no more than the stage they are in.

        spent : gets the seconds in queue, decode and detect, and in embed of the whole batch.
        """
        loop = asyncio.get_running_loop()
        request = _Request(images, selection, loop.create_future(), loop.time(), spent)
        self._waiting.append(request)
        self._begin(pack)
        try:
            return await request.future
        finally:
            request.left.set()

    def close(self) -> None:
        self.thread.shutdown(cancel_futures=True)

    def _begin(self, pack: Pack) -> None:
        batch = [] if self._at_work else self._next()
        if not batch:
            return
        self._at_work = True
        loop = asyncio.get_running_loop()
        for request in batch:
            request.spent.seconds["queue"] = loop.time() - request.since
            QUEUED.observe(request.spent.seconds["queue"])
        work = loop.run_in_executor(self.thread, self._answer, pack, batch, loop)
        work.add_done_callback(lambda done: self._ended(pack, batch, done))

    def _next(self) -> list[_Request]:
        batch: list[_Request] = []
        images = 0
        while self._waiting:
            request = self._waiting[0]
            if not request.given_up:
                images += len(request.images)
                if batch and images > self._images:
                    break
                batch.append(request)
            self._waiting.popleft()
        return batch

    def _ended(self, pack: Pack, batch: Sequence[_Request], work: asyncio.Future[None]) -> None:
        self._at_work = False
        for request in batch:  # that were given up, or were not come to before the service ended
            request.future.cancel()
        if not work.cancelled():
            self._begin(pack)

    def _answer(self, pack: Pack, batch: Sequence[_Request], loop: asyncio.AbstractEventLoop) -> None:
        """Search the images one by one, then embed their faces at once, or earlier if memory runs short."""
        searched: list[_Picture] = []
        for request in batch:
            try:
                for picture in self._searched(pack, request):
                    searched.append(picture)
                    if sum(one.pixels.size for one in searched) > 3 * _PIXELS:
                        _embed(pack, searched)
                        searched = []
            except Exception as error:
                request.failure = error
        _embed(pack, searched)
        for request in batch:
            loop.call_soon_threadsafe(_hand_out, request)

    def _searched(self, pack: Pack, request: _Request) -> Iterator[_Picture]:
        for number, content in enumerate(request.images):
            if request.given_up:
                return  # nobody reads these answers
            try:
                with request.spent.stage("decode"):
                    pixels = decode(content, self._limits)
            except Problem as problem:
                request.answers[number] = problem
                continue
            PROGRESS.step()
            with request.spent.stage("detect"):
                found = pack.detect([pixels], lambda: not request.given_up)[0]
                found = found.selected(request.selection, self._max_faces)
            PROGRESS.step()
            yield _Picture(request, number, pixels, found)


def _embed(pack: Pack, searched: Sequence[_Picture]) -> None:
    wanted = [picture for picture in searched if not picture.request.given_up]
    requests = {picture.request for picture in wanted}
    if not wanted:
        return
    together = StageSeconds()
    try:
        with together.stage("embed"):
            faces = _faces_in_portions(pack, wanted)
    except Exception as error:
        if len(requests) == 1:
            requests.pop().failure = error
        for request in requests:
            _embed(pack, [picture for picture in wanted if picture.request is request])
        return
    for request in requests:
        request.spent.seconds["embed"] += together.seconds["embed"]
    for picture, of_picture in zip(wanted, faces, strict=True):
        if not picture.request.given_up:
            picture.request.answers[picture.number] = _image_faces(picture, of_picture)
    FACES.inc(sum(map(len, faces)))


def _faces_in_portions(pack: Pack, wanted: Sequence[_Picture]) -> list[list[Face]]:
    """The faces of each picture; not all of one that is given up: a crowd takes minutes."""
    faces: list[list[Face]] = [[] for _ in wanted]
    for portion in _portions(wanted):
        alive = [(number, part) for number, part in portion if not wanted[number].request.given_up]
        if not alive:
            continue
        pixels = [wanted[number].pixels for number, _ in alive]
        found = pack.embed(pixels, [part for _, part in alive])
        PROGRESS.step()
        BATCH_FACES.observe(sum(map(len, found)))
        for (number, _), more in zip(alive, found, strict=True):
            faces[number] += more
    return faces


def _portions(wanted: Sequence[_Picture]) -> Iterator[list[tuple[int, Detections]]]:
    """Parts of pictures, by the pictures' positions, with `_TOGETHER` faces or fewer in all."""
    portion: list[tuple[int, Detections]] = []
    room = _TOGETHER
    for number, picture in enumerate(wanted):
        for part in picture.found.portions(_TOGETHER):
            if len(part.score) > room:
                yield portion
                portion, room = [], _TOGETHER
            portion.append((number, part))
            room -= len(part.score)
    if portion:
        yield portion


def _image_faces(picture: _Picture, faces: list[Face]) -> ImageFaces:
    height, width = picture.pixels.shape[:2]
    found = picture.found
    return ImageFaces(
        width=width,
        height=height,
        rotation=found.rotation,
        faces=faces,
        faces_found=found.found,
        truncated=found.truncated,
    )


def _hand_out(request: _Request) -> None:
    if request.future.done():
        return
    if request.failure is not None:
        request.future.set_exception(request.failure)
    elif len(request.answers) == len(request.images):
        request.future.set_result([answer for _, answer in sorted(request.answers.items())])
