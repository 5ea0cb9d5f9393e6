"""From images to answers: the proxy finds the faces, the heads say what they think of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem
from agegender.faces import Face, FaceGeometry, FacesAnswer, FaceSelection, ImageFaces, ImageProblem
from agegender.heads.answers import age_answers, gender_answers
from agegender.predictions import (
    AgeGenderAnswer,
    EmbeddingsAnswer,
    FaceAnswer,
    FaceEstimate,
    ImageAnswer,
    Quality,
)
from agegender.spaces import Space
from agegender_service.deadlines import Deadline
from agegender_service.faces_client import FacesClient
from agegender_service.requests import request_id
from agegender_service.timings import StageSeconds
from starlette.concurrency import run_in_threadpool

from predictor.batching import HeadBatches, Probabilities
from predictor.metrics import FACES, IMAGES
from predictor.options import EmbeddingsRequest, FaceOptions, HeadOptions, Uncertainty
from predictor.quality import face_quality
from predictor.registry import HeadRegistry, Heads
from predictor.widening import widened

Array = npt.NDArray[np.float32]
_Upright = tuple[FaceGeometry, tuple[int, int]]  # a face in its image turned upright, and that image's size

_UNIT_NORM_TOLERANCE = 0.01  # embeddings are often sent with few digits


class Predictor:
    """What the routes call. Numbers are crunched in threads, never on the event loop."""

    def __init__(
        self, proxy: FacesClient, registry: HeadRegistry, batches: HeadBatches, mc_passes: int
    ) -> None:
        self._proxy = proxy
        self._registry = registry
        self._batches = batches
        self._mc_passes = mc_passes

    async def images(
        self,
        images: Sequence[bytes | Problem],
        options: FaceOptions,
        deadline: Deadline,
        watch: StageSeconds,
    ) -> AgeGenderAnswer:
        """Raises the proxy's problems, ``no-head`` 409, and the problem of the only image."""
        with watch.stage("proxy"):
            found = await self._faces(images, options.selection, deadline, watch)
        heads = self._registry.heads(found.space)
        faces = [face for image in found.images if isinstance(image, ImageFaces) for face in image.faces]
        upright = _upright(found)
        embeddings = await run_in_threadpool(_matrix, faces, found.space)
        probabilities = await self._ask(heads, embeddings, options, watch)
        entries = await run_in_threadpool(_face_answers, heads, faces, upright, probabilities, options)
        _count(found, len(faces))
        return AgeGenderAnswer(
            space=found.space,
            models=self._versions(heads),
            images=_by_image(found, entries),
            timings=watch.milliseconds(),
            request_id=request_id(),
        )

    def checked(self, request: EmbeddingsRequest) -> tuple[Heads, Array]:
        """The heads and the rows [faces, dimension]; call it in a thread.

        Raises ``no-head`` 409 for an unknown space, ``bad-embeddings`` 422.
        """
        heads = self._registry.heads_of(request.space)
        return heads, _checked(request.embeddings, heads.age.manifest.space)

    async def embeddings(
        self, heads: Heads, embeddings: Array, options: HeadOptions, watch: StageSeconds
    ) -> EmbeddingsAnswer:
        """For what `checked` gave."""
        probabilities = await self._ask(heads, embeddings, options, watch)
        estimates = await run_in_threadpool(_estimates, heads, probabilities, options)
        FACES.inc(len(embeddings))
        return EmbeddingsAnswer(
            space=heads.age.manifest.space,
            models=self._versions(heads),
            faces=estimates,
            timings=watch.milliseconds(),
            request_id=request_id(),
        )

    async def probabilities(self, embeddings: Array, watch: StageSeconds) -> Probabilities:
        """For the space that the proxy serves now; embeddings [faces, dimension] of any length but 0."""
        heads = self._registry.heads(await self._proxy.space())
        points = await run_in_threadpool(_normalised, embeddings)
        FACES.inc(len(embeddings))
        return await self._ask(heads, points, HeadOptions(), watch)

    async def _faces(
        self,
        images: Sequence[bytes | Problem],
        selection: FaceSelection,
        deadline: Deadline,
        watch: StageSeconds,
    ) -> FacesAnswer:
        readable = [image for image in images if not isinstance(image, Problem)]
        if not readable:
            raise next(image for image in images if isinstance(image, Problem))
        found = await self._proxy.faces(readable, selection, deadline)
        watch.add(found.seconds)
        answered = iter(found.answer.images)
        entries: list[Any] = [
            ImageProblem(problem=image.document()) if isinstance(image, Problem) else next(answered)
            for image in images
        ]
        if len(entries) == 1 and isinstance(entries[0], ImageProblem):
            raise Problem.from_document(entries[0].problem)  # a lone image's problem is the request's
        return FacesAnswer.model_construct(space=found.space, images=entries)

    async def _ask(
        self, heads: Heads, embeddings: Array, options: HeadOptions, watch: StageSeconds
    ) -> Probabilities:
        if not len(embeddings):
            return Probabilities(np.zeros((0, 1), np.float32), np.zeros((0, 2), np.float32))
        if options.uncertainty is Uncertainty.MC_DROPOUT:
            answered = await self._batches.mc_dropout(heads, embeddings, self._mc_passes)
        else:
            answered = await self._batches.ensemble(heads, embeddings)
        watch.note("queue", answered.queue_seconds)
        watch.note("heads", answered.compute_seconds)
        return answered

    @staticmethod
    def _versions(heads: Heads) -> dict[Any, str]:
        return {head.manifest.task: head.manifest.version for head in (heads.age, heads.gender)}


def _upright(found: FacesAnswer) -> list[_Upright]:
    """Return where the faces are in their images turned upright, and the images' sizes, in order."""
    return [
        (image.upright(face), image.upright_size)
        for image in found.images
        if isinstance(image, ImageFaces)
        for face in image.faces
    ]


def _matrix(faces: Sequence[Face], space: Space) -> Array:
    if any(len(face.embedding) != space.dimension for face in faces):
        raise Problem("bad-answer", 502, f"The embedder-proxy answered an embedding that is not of {space}.")
    return np.array([face.embedding for face in faces], dtype=np.float32).reshape(len(faces), space.dimension)


def _normalised(embeddings: Array) -> Array:
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.maximum(norms, 1e-12))


def _checked(rows: Sequence[Sequence[float]], space: Space) -> Array:
    wrong = [index for index, row in enumerate(rows) if len(row) != space.dimension]
    if wrong:
        raise _bad_embeddings(
            wrong, f"has {len(rows[wrong[0]])} numbers, and the space {space} has {space.dimension}"
        )
    embeddings = np.array(rows, dtype=np.float64).reshape(len(rows), space.dimension)
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(embeddings, axis=1)
    # Written so that a norm that overflows is refused too.
    off = np.flatnonzero(~(np.abs(norms - 1) <= _UNIT_NORM_TOLERANCE)).tolist()
    if off:
        raise _bad_embeddings(off, f"has the length {norms[off[0]]:.4g}, and not 1: send it normalised")
    return embeddings.astype(np.float32)


def _bad_embeddings(rows: list[int], what: str) -> Problem:
    return Problem("bad-embeddings", 422, f"Embedding {rows[0]} {what}.", rows=rows[:50])


def _estimates(heads: Heads, probabilities: Probabilities, options: HeadOptions) -> list[FaceEstimate]:
    conformal = heads.age.manifest.conformal
    assert conformal is not None  # the registry serves no age head without
    ages = age_answers(probabilities.age, conformal, options.coverage)
    genders = gender_answers(probabilities.gender)
    return [FaceEstimate(age=age, gender=gender) for age, gender in zip(ages, genders, strict=True)]


def _face_answers(
    heads: Heads,
    faces: Sequence[Face],
    upright: Sequence[_Upright],
    probabilities: Probabilities,
    options: FaceOptions,
) -> list[FaceAnswer]:
    estimates = _estimates(heads, probabilities, options)
    return [
        _face_answer(face, face_quality(*placed), estimate, options)
        for face, placed, estimate in zip(faces, upright, estimates, strict=True)
    ]


def _face_answer(face: Face, quality: Quality, estimate: FaceEstimate, options: FaceOptions) -> FaceAnswer:
    return FaceAnswer(
        bbox=face.bbox,
        det_score=face.det_score,
        landmarks=face.landmarks,
        quality=quality,
        age=widened(estimate.age, quality.widening),
        gender=estimate.gender,
        embedding=face.embedding if options.embeddings else None,
    )


def _by_image(found: FacesAnswer, answers: Sequence[FaceAnswer]) -> list[ImageAnswer | ImageProblem]:
    following = iter(answers)
    return [
        ImageAnswer(
            width=image.width,
            height=image.height,
            rotation=image.rotation,
            faces=[next(following) for _ in image.faces],
            faces_found=image.faces_found,
            truncated=image.truncated,
        )
        if isinstance(image, ImageFaces)
        else image
        for image in found.images
    ]


def _count(found: FacesAnswer, faces: int) -> None:
    FACES.inc(faces)
    problems = sum(isinstance(image, ImageProblem) for image in found.images)
    IMAGES.labels("problem").inc(problems)
    IMAGES.labels("answered").inc(len(found.images) - problems)
