"""The embedding container: load the pack, find and embed faces off the event loop, and serve them by HTTP."""

import asyncio
import math
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import structlog
from agegender.environment import available_cpus
from agegender.errors import Problem, not_ready
from agegender.faces import EVERY_FACE, FacesAnswer, FaceSelection, ImageProblem
from agegender.keys import Scope
from agegender_service.app import create_app, running
from agegender_service.deadlines import Deadline
from agegender_service.observability import SERVER_TIMING_HEADER, Stopwatch, server_timing
from agegender_service.packed_faces import PACKED, pack_answer, pack_image
from agegender_service.request_body import (
    FACES_REQUEST_IN_OPENAPI,
    FacesRequestIn,
    FacesRoute,
    RequestBodies,
)
from agegender_service.settings import UNUSABLE_SETTINGS
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from prometheus_client import Histogram

from embedder.inference import FaceBatches
from embedder.packs.pack import BadPack, Pack
from embedder.packs.store import NotFetched, load_pack
from embedder.sessions import PROGRESS
from embedder.settings import EmbedderSettings

log = structlog.get_logger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds between two attempts to load the pack
_STAGES = ("decode", "detect", "embed")

INFERENCE = Histogram("embedder_inference_seconds", "Decoding, detecting and embedding")
STAGES = Histogram("embedder_stage_seconds", "Time that one request spends in a stage", ["stage"])

router = APIRouter(tags=["faces"], route_class=FacesRoute)


class EmbeddingService:
    """Load the pack in the background, then serve requests.

    end : ends the process with a status.
    """

    def __init__(self, settings: EmbedderSettings, end: Callable[[int], object] = os._exit) -> None:
        self.settings = settings
        self._end = end
        self._batches = FaceBatches(settings.image_limits, settings.batch_images, settings.max_faces)
        self._next_try: float | None = None
        self.pack: Pack | None = None
        self.failure: str | None = None

    async def load(self) -> None:
        """Load the pack; on failure try again after growing pauses, which `/health/ready` reports.

        Ends the process if another attempt cannot succeed, or after `load_timeout`; its supervisor then acts.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self.settings.load_timeout
        pause = _FIRST_PAUSE
        while True:
            try:
                async with asyncio.timeout_at(end):
                    self.pack = await self._loaded()
                log.info("pack loaded", pack=self.settings.pack, space=str(self.pack.space))
                return
            except TimeoutError as error:
                self.failure = self.failure or self._sentence(f"it took too long {error}".strip())
            except Exception as error:
                if isinstance(error, BadPack) and not isinstance(error, NotFetched):
                    self._give_up(UNUSABLE_SETTINGS, self._sentence(error))
                    return
                self.failure = self._sentence(error)
                unexpected = None if isinstance(error, BadPack) else error
                log.error("pack not loaded", reason=str(error), next_try=pause, exc_info=unexpected)
            if loop.time() + pause >= end:
                self._give_up(1, self.failure)
                return
            self._next_try = loop.time() + pause
            await asyncio.sleep(pause)
            self._next_try = None
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _loaded(self) -> Pack:
        settings = self.settings
        return await asyncio.get_running_loop().run_in_executor(
            self._batches.executor,
            load_pack,
            settings.pack,
            settings.packs_dir,
            settings.pack_dir,
            settings.human_dir,
            settings.threads or available_cpus(),
        )

    def _sentence(self, reason: object) -> str:
        return f"The pack {self.settings.pack!r} could not be loaded: {str(reason).rstrip('.')}."

    def _give_up(self, status: int, reason: str) -> None:
        """End the process at once; a thread that hangs in a download would block a regular exit."""
        self.failure = reason
        print(f"error: not started. {reason}", file=sys.stderr, flush=True)
        self._end(status)

    def close(self) -> None:
        self._batches.close()

    def why_not_ready(self) -> str | None:
        if self.pack is not None:
            return None
        if self.failure is None:
            return f"The pack {self.settings.pack!r} is being loaded."
        if self._next_try is None:
            return f"{self.failure} Another attempt is running."
        seconds = max(0.0, self._next_try - asyncio.get_running_loop().time())
        return f"{self.failure} The next attempt is in {math.ceil(seconds)} s."

    def info(self) -> dict[str, object]:
        """Return what `GET /info` reports."""
        return {
            "pack": self.settings.pack,
            "space": self.pack.space.model_dump() if self.pack else None,
            "models": self.pack.models if self.pack else [],
            "progress": self.progress,
            "limits": {"max_faces": self.settings.max_faces, "max_images": self.settings.max_images},
        }

    @property
    def progress(self) -> int:
        """Return the number of steps finished since the process started; constant while idle or hung."""
        return PROGRESS.steps

    async def faces(
        self, images: list[bytes], deadline: Deadline, selection: FaceSelection = EVERY_FACE
    ) -> tuple[FacesAnswer, dict[str, float]]:
        """Return one entry per image, and the seconds spent in queue, decode, detect and embed.

        A request that is cancelled or too late leaves the queue, or ends after its current stage.
        Raises ``deadline-exceeded`` 504 and ``not-ready`` 503.
        """
        pack = self.pack
        if pack is None:
            raise not_ready(self.why_not_ready() or "")
        spent = Stopwatch()
        try:
            async with asyncio.timeout(deadline.remaining):
                answers = await self._batches.faces(pack, images, selection, spent)
        except TimeoutError:
            raise deadline.exceeded() from None
        finally:  # failed and late requests took their time too
            entered = [stage for stage in _STAGES if stage in spent.seconds]
            for stage in entered:
                STAGES.labels(stage).observe(spent.seconds[stage])
            INFERENCE.observe(sum(spent.seconds[stage] for stage in entered))
        answer = FacesAnswer(
            space=pack.space,
            images=[
                ImageProblem(problem=answer.document()) if isinstance(answer, Problem) else answer
                for answer in answers
            ],
        )
        return answer, dict(spent.seconds)


async def _service(request: Request) -> EmbeddingService:  # not `def`, which FastAPI would run in a thread
    service: EmbeddingService = request.app.state.services
    return service


@router.post(
    "/faces",
    summary="Detect the faces of one or more images and embed them",
    response_model=FacesAnswer,
    openapi_extra=FACES_REQUEST_IN_OPENAPI,
)
async def faces(request: FacesRequestIn, service: Annotated[EmbeddingService, Depends(_service)]) -> Response:
    """One entry per image: its faces, or its problem.

    `Server-Timing` reports the milliseconds in queue, decode, detect and embed.
    """
    answer, seconds = await service.faces(request.images, request.deadline, request.selection)
    encode = _packed if request.media_type == PACKED else FacesAnswer.model_dump_json
    content = await asyncio.to_thread(encode, answer)
    headers = {SERVER_TIMING_HEADER: server_timing(seconds), "Vary": "Accept"}
    return Response(content, media_type=request.media_type, headers=headers)


def _packed(answer: FacesAnswer) -> bytes:
    return pack_answer(answer.space, [pack_image(image) for image in answer.images])


def create_embedder(settings: EmbedderSettings) -> FastAPI:
    """Create the application. It loads the pack from its start on, and is ready once that is done."""
    service = EmbeddingService(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with running(service.load()):
                yield
        finally:
            service.close()

    async def why_not_ready() -> str | None:
        return service.why_not_ready()

    async def info() -> dict[str, Any]:
        return service.info()

    return create_app(
        # The proxy in front limits its callers; this container may have no access to Redis.
        settings.model_copy(update={"rate_limit": None, "wrong_key_limit": None}),
        name="insightface",
        description="Detects, aligns and embeds faces. Internal: clients use the embedder-proxy.",
        scope=Scope.PREDICT,
        lifespan=lifespan,
        why_not_ready=why_not_ready,
        info=info,
        routers=[router],
        services=service,
        bodies=RequestBodies(settings.body_limits, answer_seconds=settings.timeout),
        examples=Path(__file__).with_name("examples.json"),
    )
