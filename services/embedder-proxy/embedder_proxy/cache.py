"""Faces of images seen before, in Redis. Without Redis the proxy is slower, never wrong.

Embeddings are biometric data: entries live for `cache_ttl` seconds, and 0 turns the cache off.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence

import structlog
from agegender.faces import ImageFaces
from agegender.spaces import Space
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from embedder_proxy.encoded import EncodedFaces
from embedder_proxy.metrics import CACHE_ERRORS

log = structlog.get_logger(__name__)

_PAUSE = 5.0  # seconds without a look at a Redis that failed, so that a hung one costs little
_MAX_ENTRY = 4 * 1024 * 1024


class FaceCache:
    """Keyed by the SHA-256 of the image file and the space.

    Parameters
    ----------
    ttl : seconds that an entry lives; 0 for no cache.
    timeout : seconds that one look may take.
    """

    def __init__(self, url: str, *, ttl: int, timeout: float) -> None:
        self._ttl = ttl
        self._timeout = timeout
        self._paused_until = 0.0
        self._redis = Redis.from_url(
            url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
        )

    @property
    def in_use(self) -> bool:
        return self._ttl > 0 and time.monotonic() >= self._paused_until

    async def read(self, space: Space, digests: Sequence[str]) -> dict[str, EncodedFaces]:
        """What is known, by digest."""
        if not self.in_use or not digests:
            return {}
        try:
            async with asyncio.timeout(self._timeout):
                entries = await self._redis.mget([_key(space, digest) for digest in digests])
        except (RedisError, OSError, TimeoutError) as error:
            self._pause(error)
            return {}
        found = {}
        for digest, entry in zip(digests, entries, strict=True):
            if entry is not None and (faces := _faces(entry, space)) is not None:
                found[digest] = faces
        return found

    async def write(self, space: Space, faces: Mapping[str, EncodedFaces]) -> None:
        if not self.in_use or not faces:
            return
        try:
            async with asyncio.timeout(self._timeout):
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for digest, encoded in faces.items():
                        if len(encoded.json) <= _MAX_ENTRY:
                            pipeline.set(_key(space, digest), encoded.json, ex=self._ttl)
                    await pipeline.execute()
        except ResponseError as error:  # it is full, or read-only; what it has may still be read
            CACHE_ERRORS.inc()
            log.warning("cache not written", reason=str(error))
        except (RedisError, OSError, TimeoutError) as error:
            self._pause(error)

    async def close(self) -> None:
        await self._redis.aclose()

    def _pause(self, error: Exception) -> None:
        self._paused_until = time.monotonic() + _PAUSE
        CACHE_ERRORS.inc()
        log.warning("cache left out", seconds=_PAUSE, reason=f"{type(error).__name__}: {error}")


def _key(space: Space, digest: str) -> str:
    return f"agegender:faces:1:{space.id}:{space.dimension}:{digest}"


def _faces(entry: bytes | str, space: Space) -> EncodedFaces | None:
    try:
        text = entry if isinstance(entry, str) else entry.decode()
        image = ImageFaces.model_validate_json(text)
    except ValueError:  # not what this proxy wrote
        return None
    if any(len(face.embedding) != space.dimension for face in image.faces):
        return None
    return EncodedFaces(image, text)
