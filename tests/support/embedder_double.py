"""An embedding container that fails on purpose: the HTTP of ours, faces made from the image's bytes."""

import asyncio
import hashlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from agegender.errors import Problem
from agegender.faces import (
    Face,
    FacesAnswer,
    FaceSelection,
    ImageFaces,
    ImageProblem,
    Rotation,
    turned_box,
    turned_points,
)
from agegender.spaces import Space
from agegender_service.request_body import read_images
from agegender_service.settings import BodyLimits
from fastapi import FastAPI, Request, Response
from PIL import Image as Picture
from PIL import UnidentifiedImageError

from tests.support.serving import serving

SPACE = Space(id="double-1", dimension=512)


def faces_of(
    image: bytes, space: Space = SPACE, count: int = 1, sharpness: float | None = None
) -> ImageFaces:
    """Return faces that depend on the bytes of the image only."""
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(image).digest()[:8]))
    embeddings = generator.normal(size=(count, space.dimension)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    points = [(30.0, 30.0), (60.0, 30.0), (45.0, 50.0), (35.0, 70.0), (55.0, 70.0)]
    return ImageFaces(
        width=100,
        height=100,
        faces=[
            Face(
                bbox=(10, 10, 90, 90),
                det_score=0.9,
                landmarks=points,
                sharpness=sharpness,
                embedding=row.tolist(),
            )
            for row in embeddings
        ],
    )


def whole(found: ImageFaces, one: ImageFaces, size: tuple[int, int]) -> ImageFaces:
    """Return the image of this size as one face, that of `one`, whether or not faces were found in it."""
    width, height = size
    score = found.faces[0].det_score if found.faces else 0.0
    changes = {"whole": True, "bbox": (0.0, 0.0, width, height), "det_score": score}
    face = one.faces[0].model_copy(update=changes)
    return found.model_copy(update={"width": width, "height": height, "faces": [face]})


def size_of(image: bytes) -> tuple[int, int]:
    """Return the size of an image; that of `faces_of` for bytes that are none, for which it has faces too."""
    try:
        return Picture.open(io.BytesIO(image)).size
    except UnidentifiedImageError:
        return 100, 100


def delivered(upright: ImageFaces, rotation: Rotation) -> ImageFaces:
    """Return the faces in the square image that a clockwise turn by `rotation` makes upright."""
    back = (360 - rotation) % 360, upright.width, upright.height
    moved = [
        {"bbox": turned_box(face.bbox, *back), "landmarks": turned_points(face.landmarks, *back)}
        for face in upright.faces
    ]
    faces = [face.model_copy(update=one) for face, one in zip(upright.faces, moved, strict=True)]
    return upright.model_copy(update={"rotation": rotation, "faces": faces})


@dataclass
class EmbedderDouble:
    """`fault` names what it does wrong; None for nothing.

    step : seconds after which its work has come one step further, as `/info` reports; None for one that
        does not report it.
    queries : what each request for faces asked. retry_after : seconds that it asks to wait if it is busy.
    """

    space: Space = SPACE
    fault: str | None = None
    retry_after: int = 7
    seconds: float = 0.0
    timing: str = "queue;dur=1.000, decode;dur=2.000, detect;dur=3.000, embed;dur=4.000"
    faces: int = 1
    takes_whole: bool = True  # otherwise it ignores the option `faces`, as release 0.1.0 does
    faces_found: int = 0  # with more than `faces`, it reports that the others are omitted
    sharpness: float | None = None
    rotation: Rotation = 0
    broken: Callable[[bytes], bool] = lambda image: False
    batches: list[int] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    queries: list[dict[str, str]] = field(default_factory=list)
    step: float | None = None
    working: int = 0
    most_working: int = 0
    hung_up: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @contextmanager
    def served(self, port: int = 0) -> Iterator["EmbedderDouble"]:
        with serving(self._app(), port) as self.url:
            yield self

    def reset(self) -> None:
        """Forget its faults and what it was asked; it stays where it is served."""
        vars(self).update(vars(EmbedderDouble(space=self.space, url=self.url)))

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/health/ready")
        async def ready() -> Response:
            if self.fault == "not ready":
                return self._problem(503, "loading weights")
            return Response("{}")

        @app.get("/info")
        async def info() -> dict[str, Any]:
            progress = None if self.step is None else int(time.monotonic() / self.step)
            return {"space": self.space.model_dump(), "progress": progress}

        @app.post("/faces")
        async def faces(request: Request) -> Response:
            images = await read_images(request, BodyLimits(max_images=1000))
            self.batches.append(len(images))
            self.headers.append(dict(request.headers))
            self.queries.append(dict(request.query_params))
            self.working += 1
            self.most_working = max(self.most_working, self.working)
            try:
                return await self._answer(request, images)
            finally:
                self.working -= 1

        return app

    async def _answer(self, request: Request, images: list[bytes]) -> Response:
        await asyncio.sleep(self.seconds)
        if self.fault == "hang":
            while not await request.is_disconnected() and not self.released.is_set():
                await asyncio.sleep(0.01)
            self.hung_up += await request.is_disconnected()
        if self.fault == "busy":
            return Response(
                '{"status": 429, "type": "urn:age-gender:problem:busy", "detail": "full"}',
                429,
                {"Retry-After": str(self.retry_after)},
            )
        if self.fault in ("500", "503", "504"):
            return self._problem(int(self.fault), "on purpose")
        if self.fault == "404":
            return self._problem(404, "another service")
        return self._content(images, FaceSelection(faces=request.query_params.get("faces", "found")))

    def _content(self, images: list[bytes], selection: FaceSelection) -> Response:
        entries: list[ImageFaces | ImageProblem] = []
        for image in images:
            if self.broken(image):
                problem = Problem("damaged-image", 422, "on purpose")
                entries.append(ImageProblem(problem=problem.document()))
            else:
                upright = faces_of(image, self.space, self.faces, self.sharpness)
                if self.takes_whole and selection.takes_whole(self.faces):
                    upright = whole(upright, faces_of(image, self.space, 1, self.sharpness), size_of(image))
                if self.faces_found > self.faces:
                    upright = upright.model_copy(update={"faces_found": self.faces_found, "truncated": True})
                entries.append(delivered(upright, self.rotation))
        answer = FacesAnswer(space=self.space, images=entries)
        text = answer.model_dump_json()
        match self.fault:
            case "html":
                text = "<html>It works!</html>"
            case "empty":
                text = ""
            case "cut":
                text = text[: len(text) // 2]
            case "too few":
                answer.images.pop()
                text = answer.model_dump_json()
            case "nan":
                entries[0].faces[0].embedding = [float("nan"), *entries[0].faces[0].embedding[1:]]
                text = answer.model_dump_json().replace("null,", "NaN,", 1)
            case "short":
                entries[0].faces[0].embedding = entries[0].faces[0].embedding[:-1]
                text = answer.model_dump_json()
            case "long vectors":
                entries[0].faces[0].embedding = [1.0] * self.space.dimension
                text = answer.model_dump_json()
            case "another space":
                text = text.replace(self.space.id, "surprise-9")
            case "redirect":
                return Response(status_code=307, headers={"Location": "http://127.0.0.1:1/"})
        return Response(text, media_type="application/json", headers={"Server-Timing": self.timing})

    @staticmethod
    def _problem(status: int, detail: str) -> Response:
        problem = Problem("double-failed", status, detail)
        return Response(json.dumps(problem.document()), status, media_type="application/problem+json")
