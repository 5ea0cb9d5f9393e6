"""Predict age and gender: the proxy finds the faces, the heads estimate; and the services that routes use."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, TypeVarTuple

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem
from agegender.faces import Face, FaceGeometry, FacesAnswer, ImageFaces, ImageProblem
from agegender.heads.calibration import added_years
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
from agegender_service.batching import BoundedThreads
from agegender_service.deadlines import Deadline
from agegender_service.faces_client import FacesClient
from agegender_service.observability import Stopwatch, request_id
from agegender_service.request_body import RequestBodies
from fastapi import Depends, Request
from prometheus_client import Counter, Histogram
from starlette.concurrency import run_in_threadpool

from predictor.aws_signatures import AwsSignatures
from predictor.prediction_request import FaceOptions, HeadOptions, SentEmbeddings, SentImages, Uncertainty
from predictor.quality import face_quality, scaled
from predictor.registry import HeadBatches, HeadRegistry, Heads, Probabilities
from predictor.settings import PredictorSettings

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")
Array = npt.NDArray[np.float32]
_Upright = tuple[FaceGeometry, tuple[int, int]]  # a face in its image turned upright, and that image's size

_FEW_FACES = 8  # computed in less time than two changes of threads take
_DRAWING_THREADS = 2  # each may need a gigabyte for the pixels of an image and its encoding

FACES = Counter("predictor_faces_total", "Faces answered")
IMAGES = Counter("predictor_images_total", "Images answered, by outcome", ["outcome"])
STAGE_SECONDS = Histogram(
    "predictor_stage_seconds",
    "Time that one request spends in a stage",
    ["stage"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)


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
        embeddings = await for_faces(len(faces), _matrix, faces, found.space)
        probabilities = await self._probabilities(heads, embeddings, options, stopwatch)
        with stopwatch.stage("answer"):
            upright = _upright(found)
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
        with stopwatch.stage("answer"):
            estimates = await for_faces(
                len(sent.rows), _estimates, heads, sent.rows, probabilities, sent.options
            )
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


@dataclass(frozen=True)
class Services:
    """The parts of one predictor."""

    settings: PredictorSettings
    proxy: FacesClient
    registry: HeadRegistry
    batches: HeadBatches
    predictor: Predictor
    bodies: RequestBodies
    drawing: BoundedThreads
    aws_signatures: AwsSignatures

    @classmethod
    def build(cls, settings: PredictorSettings) -> "Services":
        proxy = FacesClient(
            settings.proxy_url, headers=settings.service_headers, connect_timeout=settings.connect_timeout
        )
        registry = HeadRegistry(settings.models_dir, settings.heads_dir)
        batches = HeadBatches(
            settings.threads,
            settings.max_batch_faces,
            max_waiting_faces=settings.max_waiting_faces,
            max_waiting=settings.max_waiting,
        )
        return cls(
            settings=settings,
            proxy=proxy,
            registry=registry,
            batches=batches,
            predictor=Predictor(proxy, registry, batches, settings.mc_passes),
            bodies=RequestBodies(
                settings.body_limits,
                answer_seconds=settings.timeout,
                read_seconds=settings.read_timeout,
                max_memory=settings.max_body_memory,
                stages=STAGE_SECONDS,
            ),
            drawing=BoundedThreads("drawing", _DRAWING_THREADS, settings.max_waiting),
            aws_signatures=AwsSignatures(
                settings.rekognition_credentials, settings.known_keys, service="rekognition"
            ),
        )

    async def require_ready(self) -> None:
        """Raise the `Problem` why no prediction is possible now."""
        await self.proxy.require_ready()
        heads = self.registry.heads(await self.proxy.space())
        await run_in_threadpool(heads.prepare)

    async def close(self) -> None:
        await self.proxy.close()
        self.batches.close()
        self.drawing.close()


async def _services(request: Request) -> Services:  # not `def`, which FastAPI would run in a thread
    services: Services = request.app.state.services
    return services


ServicesIn = Annotated[Services, Depends(_services)]
