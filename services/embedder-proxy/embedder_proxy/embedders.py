"""What the proxy asks of an embedding container, whichever wire format it speaks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import httpx
from agegender.errors import Problem
from agegender.faces import FaceSelection, ImageFaces
from agegender.spaces import Space

MAX_ANSWER_BYTES = 256 * 1024 * 1024
_UNIT_TOLERANCE = 0.01


class EmbedderFailed(Exception):
    """The container cannot be used: unreachable, an error of its own, garbage. It is taken out."""


class EmbedderBusy(Exception):
    """The container has enough to do; another may have room."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


@dataclass(frozen=True)
class Probed:
    """`progress` grows with each step of the container's work; None from one that does not report it."""

    space: Space
    progress: int | None = None


@dataclass(frozen=True)
class Embedded:
    """One entry an image, in the order sent: its faces, or why it has none.

    `space` is None where every image has a problem and the container did not tell it. `seconds` is the
    container's own account of its time by stage; empty where it gives none.
    """

    space: Space | None
    images: list[ImageFaces | Problem]
    seconds: Mapping[str, float] = field(default_factory=dict)


class Wire(Protocol):
    """How to talk to a container. Both raise `EmbedderFailed`; `embed` also `EmbedderBusy`."""

    async def probe(self, url: str) -> Probed:
        """Ask a container that is ready for its space and progress."""

    async def embed(
        self, url: str, images: Sequence[bytes], selection: FaceSelection, headers: Mapping[str, str]
    ) -> Embedded:
        """Return the selected faces of image files. A `Problem` of the whole request is raised.

        Raises `TimeoutError` where the container says itself that the time is over.
        """


async def exchange(
    client: httpx.AsyncClient, request: httpx.Request, *, max_bytes: int = MAX_ANSWER_BYTES
) -> tuple[httpx.Response, bytes]:
    """Send a request and read at most `max_bytes` of the answer. Raises `EmbedderFailed`."""
    try:
        response = await client.send(request, stream=True)
        try:
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > max_bytes:
                    raise EmbedderFailed(f"answered more than {max_bytes} bytes")
            return response, bytes(content)
        finally:
            await response.aclose()
    except httpx.HTTPError as error:
        raise EmbedderFailed(f"{type(error).__name__} {error}".strip()) from error


def check_faces(images: Sequence[ImageFaces | Problem], space: Space) -> None:
    """Raise `EmbedderFailed` unless each embedding has the space's dimension and length 1."""
    for image in images:
        if isinstance(image, Problem):
            continue
        for face in image.faces:
            if len(face.embedding) != space.dimension:
                raise EmbedderFailed(
                    f"answered an embedding of {len(face.embedding)} numbers in space {space}"
                )
            if abs(math.hypot(*face.embedding) - 1) > _UNIT_TOLERANCE:
                raise EmbedderFailed("answered an embedding that is not on the unit sphere")
