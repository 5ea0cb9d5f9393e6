"""Define what the proxy needs from an embedding container, whichever wire format it uses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agegender.errors import Problem
from agegender.faces import FaceSelection, ImageFaces
from agegender.spaces import Space
from agegender_service.deadlines import Deadline


class EmbedderFailed(Exception):
    """The container is unreachable, failed, or returned an invalid response. The pool ejects it."""


class EmbedderBusy(Exception):
    """The container cannot accept another request now; another one may."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


@dataclass(frozen=True)
class Probed:
    """The state of a ready container.

    progress : grows with each step of its work; None if it does not report it.
    """

    space: Space
    progress: int | None = None


@dataclass(frozen=True)
class Embedded:
    """One entry per image, in the order sent: its faces, or its problem.

    seconds : the container's own account of its time by stage; empty if it reports none.
    """

    space: Space
    images: list[ImageFaces | Problem]
    seconds: Mapping[str, float] = field(default_factory=dict)


class Wire(Protocol):
    """Talk to containers in one wire format. Both methods raise `EmbedderFailed`."""

    async def probe(self, url: str) -> Probed:
        """Return the state of a container. Raises `EmbedderFailed` if it is not ready."""

    async def embed(
        self, url: str, images: Sequence[bytes], selection: FaceSelection, deadline: Deadline
    ) -> Embedded:
        """Return the selected faces of image files.

        Raises `EmbedderBusy`, `TimeoutError` if the container itself reports that the deadline passed, and
        `Problem` for a request that is wrong as a whole.
        """
