"""Predict age and gender: the proxy finds the faces, the heads estimate, for many requests in one batch."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, TypeVarTuple

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem
from agegender.faces import Face, FaceGeometry, FacesAnswer, ImageFaces, ImageProblem
from agegender.heads.calibration import added_years
from agegender.heads.head import over_years
from agegender.predictions import (
    AgeGenderAnswer,
    EmbeddingsAnswer,
    FaceAnswer,
    FaceEstimate,
    ImageAnswer,
    Quality,
    age_answers,
    gender_answers,
)
from agegender.spaces import Space
from agegender_service.batching import Batcher, Queued
from agegender_service.deadlines import Deadline
from agegender_service.faces_client import FacesClient
from agegender_service.observability import Stopwatch, request_id
from prometheus_client import Counter, Histogram
from starlette.concurrency import run_in_threadpool

from predictor.prediction_request import FaceOptions, HeadOptions, SentEmbeddings, SentImages, Uncertainty
from predictor.quality import face_quality, scaled
from predictor.registry import HeadRegistry, Heads

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")
Array = npt.NDArray[np.float32]
_Upright = tuple[FaceGeometry, tuple[int, int]]  # a face in its image turned upright, and that image's size

_FEW_FACES = 8  # computed in less time than two changes of threads take

FACES = Counter("predictor_faces_total", "Faces answered")
IMAGES = Counter("predictor_images_total", "Images answered, by outcome", ["outcome"])
BATCH_FACES = Histogram(
    "predictor_batch_faces", "Faces per batch of the heads", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)


@dataclass(frozen=True)
class Probabilities:
    """Calibrated: age [faces, 101] over years, gender [faces, 2]; and the seconds it took."""

    age: Array
    gender: Array
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


@dataclass(frozen=True)
class _Dropout:
    embeddings: Array
    passes: int


class HeadBatches:
    """Run heads in `threads` threads, at most `max_faces` faces at a time; one request is never split.

    Parameters
    ----------
    max_waiting_faces : of all requests that wait for a thread; one request alone may have more.
    max_waiting : requests that wait for Monte-Carlo dropout, which has one thread.
    """

    def __init__(
        self, threads: int, max_faces: int, *, max_waiting_faces: int = 4096, max_waiting: int = 32
    ) -> None:
        self._ensembles: Batcher[Heads, Array, Probabilities] = Batcher(
            _run_ensemble,
            name="heads",
            cost=len,
            max_cost=max_faces,
            max_waiting=max_waiting_faces,
            workers=threads,
        )
        self._dropouts: Batcher[Heads, _Dropout, Probabilities] = Batcher(
            _run_dropout, name="mc-dropout", max_waiting=max_waiting
        )

    async def ensemble(self, heads: Heads, embeddings: Array) -> Probabilities:
        """Return the mean over the members of each bank, for embeddings [faces, dimension].

        Raises ``busy`` 429.
        """
        return await self._ensembles.submit(heads, embeddings)

    async def mc_dropout(self, heads: Heads, embeddings: Array, passes: int) -> Probabilities:
        """Return the mean over passes of Monte-Carlo dropout, for embeddings [faces, dimension].

        Requests are not batched: the dropout masks, and so the result, would depend on the other requests.
        Ends after its current pass if the caller leaves. Raises ``busy`` 429.
        """
        return await self._dropouts.submit(heads, _Dropout(embeddings, passes))

    def close(self) -> None:
        """Wait for the batches that run."""
        self._ensembles.close()
        self._dropouts.close()


def _run_ensemble(heads: Heads, batch: Sequence[Queued[Array, Probabilities]]) -> list[Probabilities]:
    started = time.perf_counter()
    mean = _ensemble(heads, np.concatenate([request.item for request in batch]))
    seconds = time.perf_counter() - started
    results: list[Probabilities] = []
    first = 0
    for request in batch:
        rows = slice(first, first + len(request.item))
        first = rows.stop
        results.append(Probabilities(mean.age[rows], mean.gender[rows], request.queue_seconds, seconds))
    return results


def _ensemble(heads: Heads, embeddings: Array) -> Probabilities:
    BATCH_FACES.observe(len(embeddings))
    age, gender = (head.probabilities(embeddings) for head in (heads.age, heads.gender))
    return Probabilities(over_years(age, heads.age.manifest.classes), gender)


def _run_dropout(heads: Heads, batch: Sequence[Queued[_Dropout, Probabilities]]) -> list[Probabilities]:
    return [_mc_dropout(heads, request) for request in batch]


def _mc_dropout(heads: Heads, request: Queued[_Dropout, Probabilities]) -> Probabilities:
    started = time.perf_counter()
    age, gender = (
        head.probabilities_mc_dropout(
            request.item.embeddings, request.item.passes, seed=0, unwanted=lambda: request.abandoned
        )
        for head in (heads.age, heads.gender)
    )
    seconds = time.perf_counter() - started
    return Probabilities(over_years(age, heads.age.manifest.classes), gender, request.queue_seconds, seconds)


class Predictor:
    """Predict for the routes. Computations for many faces never run on the event loop."""

    def __init__(
        self, proxy: FacesClient, registry: HeadRegistry, batches: HeadBatches, mc_passes: int
    ) -> None:
        self._proxy = proxy
        self._registry = registry
        self._batches = batches
        self._mc_passes = mc_passes

    async def images(self, sent: SentImages, deadline: Deadline, stopwatch: Stopwatch) -> AgeGenderAnswer:
        """Predict for each face of each image; an image that has a problem gets it as its entry.

        Raises the proxy's problems with the request as a whole, and ``no-head`` 409.
        """
        options = sent.options
        with stopwatch.stage("proxy"):
            found = await self._find(sent, deadline, stopwatch)
        heads = self._registry.heads(found.space)
        faces = [face for image in found.images if isinstance(image, ImageFaces) for face in image.faces]
        upright = _upright(found)
        embeddings = await for_faces(len(faces), _matrix, faces, found.space)
        probabilities = await self._probabilities(heads, embeddings, options, stopwatch)
        entries = await for_faces(
            len(faces), _face_answers, heads, faces, upright, embeddings, probabilities, options
        )
        _count(found, len(faces))
        return AgeGenderAnswer(
            space=found.space,
            models=self._versions(heads),
            images=_by_image(found, entries),
            timings=stopwatch.milliseconds(),
            request_id=request_id(),
        )

    async def image(
        self, content: bytes, options: FaceOptions, deadline: Deadline, stopwatch: Stopwatch
    ) -> ImageAnswer:
        """Predict for each face of one image. Raises what `images` raises, and the image's problem."""
        answer = await self.images(SentImages([content], options), deadline, stopwatch)
        raise_problem_of_lone_image(answer)
        (entry,) = answer.images
        assert isinstance(entry, ImageAnswer)
        return entry

    async def embeddings(self, sent: SentEmbeddings, stopwatch: Stopwatch) -> EmbeddingsAnswer:
        """Predict for each embedding."""
        heads = sent.heads
        probabilities = await self._probabilities(heads, sent.rows, sent.options, stopwatch)
        estimates = await for_faces(len(sent.rows), _estimates, heads, sent.rows, probabilities, sent.options)
        FACES.inc(len(sent.rows))
        return EmbeddingsAnswer(
            space=heads.age.manifest.space,
            models=self._versions(heads),
            faces=estimates,
            timings=stopwatch.milliseconds(),
            request_id=request_id(),
        )

    async def probabilities(self, embeddings: Array, stopwatch: Stopwatch) -> Probabilities:
        """Predict for embeddings [faces, dimension] of the proxy's current space, of any length but 0."""
        heads = self._registry.heads(await self._proxy.space())
        points = await run_in_threadpool(_normalised, embeddings)
        FACES.inc(len(embeddings))
        return await self._probabilities(heads, points, HeadOptions(), stopwatch)

    async def _find(self, sent: SentImages, deadline: Deadline, stopwatch: Stopwatch) -> FacesAnswer:
        """Return one entry per image that was sent: the proxy's, or the problem of decoding it."""
        readable = [image for image in sent.images if isinstance(image, bytes)]
        if readable:
            found = await self._proxy.faces(readable, sent.options.selection, deadline)
            stopwatch.add(found.seconds)
            space, entries = found.space, iter(found.answer.images)
        else:
            space, entries = await self._proxy.space(), iter(())
        images: list[Any] = [
            ImageProblem(problem=image.document()) if isinstance(image, Problem) else next(entries)
            for image in sent.images
        ]
        return FacesAnswer.model_construct(space=space, images=images)

    async def _probabilities(
        self, heads: Heads, embeddings: Array, options: HeadOptions, stopwatch: Stopwatch
    ) -> Probabilities:
        if not len(embeddings):
            return Probabilities(np.zeros((0, 1), np.float32), np.zeros((0, 2), np.float32))
        if options.uncertainty is Uncertainty.MC_DROPOUT:
            probabilities = await self._batches.mc_dropout(heads, embeddings, self._mc_passes)
        else:
            probabilities = await self._batches.ensemble(heads, embeddings)
        stopwatch.note("queue", probabilities.queue_seconds)
        stopwatch.note("heads", probabilities.compute_seconds)
        return probabilities

    @staticmethod
    def _versions(heads: Heads) -> dict[Any, str]:
        return {head.manifest.task: head.manifest.version for head in (heads.age, heads.gender)}


async def for_faces(count: int, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
    """Call a function whose time grows with the number of faces: at once for few, in a thread for many."""
    if count <= _FEW_FACES:
        return function(*arguments)
    return await run_in_threadpool(function, *arguments)


def raise_problem_of_lone_image(answer: AgeGenderAnswer) -> None:
    """Turn the problem of a request's only image into the response.

    Internal services return it as the image's entry; only clients of the predictor see it as the response.
    """
    if len(answer.images) == 1 and isinstance(answer.images[0], ImageProblem):
        raise Problem.from_document(answer.images[0].problem)


def _upright(found: FacesAnswer) -> list[_Upright]:
    """Return each face in its image turned upright, and that image's size."""
    return [
        (image.upright(face), image.upright_size)
        for image in found.images
        if isinstance(image, ImageFaces)
        for face in image.faces
    ]


def _matrix(faces: Sequence[Face], space: Space) -> Array:
    if any(len(face.embedding) != space.dimension for face in faces):
        raise Problem(
            "bad-answer", 502, f"The embedder-proxy returned an embedding without the dimension of {space}."
        )
    return np.array([face.embedding for face in faces], dtype=np.float32).reshape(len(faces), space.dimension)


def _normalised(embeddings: Array) -> Array:
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.maximum(norms, 1e-12))


def _estimates(
    heads: Heads,
    embeddings: Array,
    probabilities: Probabilities,
    options: HeadOptions,
    scales: Sequence[float] | None = None,
) -> list[FaceEstimate]:
    """Estimate each face, with an interval that its familiarity and its scale extend.

    scales : of the interval because of the face's quality; None if the quality is unknown.
    """
    conformal = heads.age.manifest.conformal
    assert conformal is not None  # the registry rejects age heads without
    ages = age_answers(probabilities.age, conformal, options.coverage)
    genders = gender_answers(probabilities.gender)
    familiarity = heads.age.familiarity(embeddings)
    years = np.zeros(len(ages)) if familiarity is None else added_years(familiarity, options.coverage)
    return [
        FaceEstimate(
            age=scaled(age, 1 if scales is None else scales[face], float(years[face])),
            gender=gender,
            familiarity=None if familiarity is None else round(float(familiarity[face]), 3),
        )
        for face, (age, gender) in enumerate(zip(ages, genders, strict=True))
    ]


def _face_answers(
    heads: Heads,
    faces: Sequence[Face],
    upright: Sequence[_Upright],
    embeddings: Array,
    probabilities: Probabilities,
    options: FaceOptions,
) -> list[FaceAnswer]:
    qualities = [face_quality(*geometry) for geometry in upright]
    scales = [quality.interval_scale for quality in qualities]
    estimates = _estimates(heads, embeddings, probabilities, options, scales)
    return [
        _face_answer(face, quality, estimate, options)
        for face, quality, estimate in zip(faces, qualities, estimates, strict=True)
    ]


def _face_answer(face: Face, quality: Quality, estimate: FaceEstimate, options: FaceOptions) -> FaceAnswer:
    return FaceAnswer(
        bbox=face.bbox,
        det_score=face.det_score,
        landmarks=face.landmarks,
        whole=face.whole,
        quality=quality,
        age=estimate.age,
        gender=estimate.gender,
        familiarity=estimate.familiarity,
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
