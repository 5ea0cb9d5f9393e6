"""The embedder-proxy as extraction sees it: images in, faces out, waiting where it says so."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Self

import httpx
from agegender.errors import Problem, not_ready, problem_in, retry_after_seconds
from agegender.faces import FacesAnswer, ImageFaces
from agegender.http_clients import direct_options
from agegender.spaces import Space
from pydantic import ValidationError

# Kinds of problem that lie in the image, so that waiting or asking again does not help.
IMAGE_PROBLEMS = frozenset(
    {
        "empty-image",
        "image-too-large",
        "too-many-pixels",
        "unreadable-image",
        "damaged-image",
        "body-too-large",
    }
)
_AGAIN = frozenset({429, 502, 503, 504})
_LONGEST_WAIT = 30.0
_REQUEST_BYTES = 32 * 1024**2  # what one thread holds in memory; below the proxy's limit
_REQUEST_IMAGES = 8  # done before the proxy gives up, also with several workers on a slow machine


class FacesClient:
    """Asks one proxy, from any number of threads.

    headers : sent with every request, such as the services' key.
    patience : seconds for which an answer of "not now" (429, 502, 503, 504, no connection) is taken before
        it becomes the problem ``not-ready``.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        patience: float = 300.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=httpx.Timeout(120.0, connect=5.0), **direct_options()
        )
        self._patience = patience
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def space(self) -> Space:
        """The space of the embeddings that the proxy gives now. Raises ``not-ready`` 503."""
        answer = self._ask("GET", "/info")
        try:
            return Space.model_validate(answer.json()["space"])
        except (ValueError, KeyError, TypeError) as error:
            raise not_ready("The embedder-proxy does not say which space its embeddings are of.") from error

    def faces(self, images: Iterable[bytes], space: Space) -> list[ImageFaces | Problem]:
        """The faces of each image, or the problem that lies in it; in as many requests as their size needs.

        Raises ``space-mismatch`` where the proxy's space is another one by now, and any other problem.
        """
        return [answer for portion in _portions(images) for answer in self._faces(portion, space)]

    def _faces(self, images: Sequence[bytes], space: Space) -> Sequence[ImageFaces | Problem]:
        files = [("image", (str(number), image)) for number, image in enumerate(images)]
        try:
            answer = self._ask("POST", "/faces", files, again=_AGAIN if len(images) == 1 else _AGAIN - {504})
        except Problem as problem:
            # What is too much work for one request may be answered one by one.
            if problem.slug not in IMAGE_PROBLEMS and (problem.status != 504 or len(images) == 1):
                raise
            if len(images) == 1:
                return [problem]
            return [face for image in images for face in self._faces([image], space)]
        try:
            found = FacesAnswer.model_validate_json(answer.content)
        except ValidationError as error:
            raise not_ready("The embedder-proxy's answer is not a list of faces.") from error
        space.require(found.space)
        if len(found.images) != len(images):
            raise not_ready(f"The embedder-proxy answered {len(found.images)} of {len(images)} images.")
        return [
            image if isinstance(image, ImageFaces) else Problem.from_document(image.problem)
            for image in found.images
        ]

    def _ask(
        self,
        method: str,
        path: str,
        files: list[tuple[str, tuple[str, bytes]]] | None = None,
        again: Set[int] = _AGAIN,
    ) -> httpx.Response:
        waited, backoff = 0.0, 0.5
        while True:
            try:
                answer = self._http.request(method, path, files=files)
                if answer.is_success:
                    return answer
                problem = _problem_of(answer)
                told = problem.retry_after
                if answer.status_code not in again:
                    raise problem
            except httpx.TransportError as error:
                problem = not_ready(f"The embedder-proxy does not answer: {error or type(error).__name__}.")
                told = None
            wait = min(told or backoff, _LONGEST_WAIT)
            if waited + wait > self._patience:
                raise problem
            self._sleep(wait)
            waited, backoff = waited + wait, min(2 * backoff, _LONGEST_WAIT)


def _portions(images: Iterable[bytes]) -> Iterator[list[bytes]]:
    portion: list[bytes] = []
    size = 0
    for image in images:
        if portion and (size + len(image) > _REQUEST_BYTES or len(portion) == _REQUEST_IMAGES):
            yield portion
            portion, size = [], 0
        portion.append(image)
        size += len(image)
    if portion:
        yield portion


def _problem_of(answer: httpx.Response) -> Problem:
    if answer.status_code in (401, 403):  # our key, not our caller's
        return Problem("bad-gateway", 502, "The embedder-proxy has another SERVICE_KEY; give all the same.")
    if (told := problem_in(answer)) is not None:
        return told
    retry_after = retry_after_seconds(answer.headers.get("retry-after"))
    detail = f"The embedder-proxy answered status {answer.status_code}."
    return Problem("bad-gateway", answer.status_code, detail, retry_after=retry_after)
