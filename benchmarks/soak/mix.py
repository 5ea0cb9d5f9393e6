"""The mix of requests that the traffic consists of."""

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from agegender.spaces import Space

from benchmarks.photographs import one_face
from tools.stack import PHOTOGRAPH

_JPEG, _JSON = {"Content-Type": "image/jpeg"}, {"Content-Type": "application/json"}
_FACES_PER_REQUEST = 16


@dataclass(frozen=True)
class Request:
    """expected : statuses of a correct response, other than 429."""

    kind: str
    method: str
    path: str
    content: bytes
    headers: dict[str, str]
    expected: frozenset[int]


class Mix:
    """Draws requests to the predictor. 75 % of the images are not in the cache."""

    def __init__(self, space: Space) -> None:
        self._draws = random.Random(0)
        self._numbers = itertools.count()
        self._one, self._six = one_face(), PHOTOGRAPH.read_bytes()
        self._embeddings = _embeddings(space)
        self._kinds: dict[str, tuple[int, Callable[[], Request]]] = {
            "one face": (55, lambda: self._image("one face", self._one)),
            "six faces": (15, lambda: self._image("six faces", self._six)),
            "embeddings": (15, self._from_embeddings),
            "bad input": (10, self._bad),
            "page": (5, lambda: Request("page", "GET", "/", b"", {}, frozenset({200}))),
        }

    def draw(self) -> Request:
        shares = [share for share, _ in self._kinds.values()]
        (kind,) = self._draws.choices(list(self._kinds), shares)
        return self._kinds[kind][1]()

    @property
    def shares(self) -> str:
        return ", ".join(f"{kind} {share} %" for kind, (share, _) in self._kinds.items())

    def _image(self, kind: str, content: bytes) -> Request:
        """Return a request with an image, made new by a number after its end, which decoders ignore."""
        number = next(self._numbers) if self._draws.random() < 0.75 else 0
        return _post(kind, content + str(number).encode(), 200)

    def _from_embeddings(self) -> Request:
        path = "/age-gender/embeddings"
        return Request("embeddings", "POST", path, self._embeddings, _JSON, frozenset({200}))

    def _bad(self) -> Request:
        content, status = self._draws.choice(
            [(b"", 400), (b"not an image", 415), (self._six[: len(self._six) // 2], 422)]
        )
        return _post("bad input", content, status)


def _post(kind: str, content: bytes, status: int) -> Request:
    return Request(kind, "POST", "/age-gender", content, _JPEG, frozenset({status}))


def _embeddings(space: Space) -> bytes:
    rows = np.random.default_rng(0).standard_normal((_FACES_PER_REQUEST, space.dimension))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return json.dumps({"space": space.id, "embeddings": rows.round(6).tolist()}).encode()
