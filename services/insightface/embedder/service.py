"""Loads the pack, and answers images by it, off the event loop."""

import asyncio

import structlog
from agegender.cpus import available_cpus
from agegender.errors import Problem, not_ready
from agegender.faces import EVERY_FACE, FacesAnswer, FaceSelection, ImageProblem
from agegender.images import ImageLimits
from agegender.web.deadlines import Deadline
from agegender.web.timings import StageSeconds
from prometheus_client import Histogram

from embedder.batching import FaceBatches
from embedder.packs.load import load_pack
from embedder.packs.pack import Pack
from embedder.settings import EmbedderSettings

log = structlog.get_logger(__name__)

_STAGES = ("decode", "detect", "embed")

INFERENCE = Histogram("embedder_inference_seconds", "Decoding, detecting and embedding")
STAGES = Histogram("embedder_stage_seconds", "Time that one request spends in a stage", ["stage"])


class EmbeddingService:
    """Loads the pack in the background, then answers."""

    def __init__(self, settings: EmbedderSettings) -> None:
        self._settings = settings
        limits = ImageLimits(settings.max_bytes, settings.max_pixels)
        self._batches = FaceBatches(limits, settings.batch_images, settings.max_faces)
        self.pack: Pack | None = None
        self.failure: str | None = None

    async def load(self) -> None:
        """Load the pack; what goes wrong is told by `/health/ready`."""
        settings = self._settings
        try:
            self.pack = await asyncio.get_running_loop().run_in_executor(
                self._batches.thread,
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

    @property
    def progress(self) -> int:
        """Return the number of steps finished since the start; it stands still when idle or hung."""
        return self._batches.progress.steps

    def close(self) -> None:
        self._batches.close()

    def why_not_ready(self) -> str | None:
        if self.pack is None:
            return self.failure or f"The pack {self._settings.pack!r} is being loaded."
        return None

    async def faces(
        self, images: list[bytes], deadline: Deadline, selection: FaceSelection = EVERY_FACE
    ) -> tuple[FacesAnswer, dict[str, float]]:
        """The faces of each image, and the seconds spent in queue, decode, detect and embed.

        A problem of the only image is raised, of one among several it is told. What is cancelled or too late
        leaves the queue, or ends after the stage that it is in. Raises ``deadline-exceeded`` 504.
        """
        pack = self.pack
        if pack is None:
            raise not_ready(self.why_not_ready() or "")
        spent = StageSeconds()
        try:
            async with asyncio.timeout(deadline.remaining):
                answers = await self._batches.faces(pack, images, selection, spent)
        except TimeoutError:
            raise deadline.exceeded() from None
        for stage in _STAGES:
            STAGES.labels(stage).observe(spent.seconds[stage])
        INFERENCE.observe(sum(spent.seconds[stage] for stage in _STAGES))
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
