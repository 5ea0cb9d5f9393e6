"""Runs the pack off the event loop: one worker thread owns the models, requests queue for it."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import structlog
from agegender.cpus import available_cpus
from agegender.errors import Problem, not_ready
from agegender.faces import FacesAnswer, ImageFaces, ImageProblem
from agegender.images import ImageLimits, decode
from agegender.web.deadlines import Deadline
from agegender.web.timings import StageSeconds
from prometheus_client import Counter, Histogram

from embedder.packs.load import load_pack
from embedder.packs.pack import Pack
from embedder.settings import EmbedderSettings

log = structlog.get_logger(__name__)

FACES = Counter("embedder_faces_total", "Faces embedded")
QUEUED = Histogram("embedder_queue_seconds", "Waiting for the models")
INFERENCE = Histogram("embedder_inference_seconds", "Decoding, detecting and embedding")
STAGES = Histogram("embedder_stage_seconds", "Time that one request spends in a stage", ["stage"])


class EmbeddingService:
    """Loads the pack in the background, then answers."""

    def __init__(self, settings: EmbedderSettings) -> None:
        self._settings = settings
        self._limits = ImageLimits(settings.max_bytes, settings.max_pixels)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="pack")
        self.pack: Pack | None = None
        self.failure: str | None = None

    async def load(self) -> None:
        """Load the pack; what goes wrong is told by `/health/ready`."""
        settings = self._settings
        try:
            self.pack = await asyncio.get_running_loop().run_in_executor(
                self._worker,
                load_pack,
                settings.pack,
                settings.packs_dir,
                settings.pack_dir,
                settings.human_dir,
                settings.threads or available_cpus(),
            )
        except Exception as error:
            self.failure = f"The pack {settings.pack!r} could not be loaded: {error}"
            log.error("pack not loaded", pack=settings.pack, exc_info=error)
        else:
            log.info("pack loaded", pack=settings.pack, space=str(self.pack.space))

    def close(self) -> None:
        self._worker.shutdown(cancel_futures=True)

    def why_not_ready(self) -> str | None:
        if self.pack is None:
            return self.failure or f"The pack {self._settings.pack!r} is being loaded."
        return None

    async def faces(self, images: list[bytes], deadline: Deadline) -> tuple[FacesAnswer, dict[str, float]]:
        """The faces of each image, and the seconds spent in queue, decode, detect and embed.

        A problem of the only image is raised, of one among several it is told. What is cancelled or too late
        leaves the queue, or ends after the stage that it is in. Raises ``deadline-exceeded`` 504.
        """
        pack = self.pack
        if pack is None:
            raise not_ready(self.why_not_ready() or "")
        loop = asyncio.get_running_loop()
        asked = loop.time()
        spent = StageSeconds()
        given_up = threading.Event()

        def work() -> list[ImageFaces | ImageProblem | Problem]:
            spent.seconds["queue"] = loop.time() - asked
            QUEUED.observe(spent.seconds["queue"])
            with INFERENCE.time():
                return _faces_of(pack, images, self._limits, spent, given_up)

        try:
            async with asyncio.timeout(deadline.remaining):
                answers = await loop.run_in_executor(self._worker, work)
        except TimeoutError:
            raise deadline.exceeded() from None
        finally:
            given_up.set()
        for stage in ("decode", "detect", "embed"):
            STAGES.labels(stage).observe(spent.seconds[stage])
        if len(answers) == 1 and isinstance(answers[0], Problem):
            raise answers[0]
        answer = FacesAnswer(
            space=pack.space,
            images=[
                ImageProblem(problem=answer.document()) if isinstance(answer, Problem) else answer
                for answer in answers
            ],
        )
        return answer, dict(spent.seconds)


def _faces_of(
    pack: Pack, images: list[bytes], limits: ImageLimits, spent: StageSeconds, given_up: threading.Event
) -> list[ImageFaces | ImageProblem | Problem]:
    answers: list[ImageFaces | ImageProblem | Problem] = []
    for content in images:  # one decoded picture in memory at a time
        if given_up.is_set():
            break  # nobody reads these answers
        try:
            with spent.stage("decode"):
                pixels = decode(content, limits)
        except Problem as problem:
            answers.append(problem)
            continue
        with spent.stage("detect"):
            found = pack.detect([pixels])
        if given_up.is_set():
            break
        with spent.stage("embed"):
            faces = pack.embed([pixels], found)[0]
        FACES.inc(len(faces))
        answers.append(ImageFaces(width=pixels.shape[1], height=pixels.shape[0], faces=faces))
    return answers
