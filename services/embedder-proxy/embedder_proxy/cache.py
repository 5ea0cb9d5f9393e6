"""Faces of images seen before, in Redis. Without Redis the proxy is slower, never wrong.

Embeddings are biometric data: entries live for `cache_ttl` seconds, and 0 turns the cache off.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence

import structlog
from agegender.spaces import Space
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from embedder_proxy.encoded import EncodedFaces
from embedder_proxy.entries import opened, sealed

log = structlog.get_logger(__name__)

CACHE_ERRORS = Counter("proxy_cache_errors_total", "Redis calls that failed or took too long")

_PAUSE = 5.0  # seconds without a look at a Redis that failed, so that a hung one costs little
_MAX_ENTRY = 4 * 1024 * 1024


class FaceCache:
    """Keyed by the SHA-256 of the image file and the space.

    Parameters
    ----------
    ttl : seconds that an entry lives; 0 for no cache.
    timeout : seconds that one look may take.
    secret : seals the entries (`embedder_proxy.entries`).
    """

    def __init__(self, url: str, *, ttl: int, timeout: float, secret: bytes) -> None:
        self._ttl = ttl
        self._timeout = timeout
        self._secret = secret
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
        keys = [_key(space, digest) for digest in digests]
        try:
            async with asyncio.timeout(self._timeout):
                entries = await self._redis.mget(keys)
        except (RedisError, OSError, TimeoutError) as error:
            self._pause(error)
            return {}
        found = await asyncio.to_thread(self._opened, keys, entries)
        return {digest: faces for digest, faces in zip(digests, found, strict=True) if faces is not None}

    async def write(self, space: Space, faces: Mapping[str, EncodedFaces]) -> None:
        if not self.in_use or not faces:
            return
        try:
            async with asyncio.timeout(self._timeout):
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for digest, encoded in faces.items():
                        if len(encoded.json) <= _MAX_ENTRY:
                            key = _key(space, digest)
                            pipeline.set(key, sealed(key, encoded, self._secret), ex=self._ttl)
                    await pipeline.execute()
        except ResponseError as error:  # it is full, or read-only; what it has may still be read
            CACHE_ERRORS.inc()
            log.warning("cache not written", reason=str(error))
        except (RedisError, OSError, TimeoutError) as error:
            self._pause(error)

    async def close(self) -> None:
        await self._redis.aclose()

    def _opened(
        self, keys: Sequence[str], entries: Sequence[bytes | str | None]
    ) -> list[EncodedFaces | None]:
        return [
            opened(key, entry, self._secret) if isinstance(entry, bytes) else None
            for key, entry in zip(keys, entries, strict=True)
        ]

    def _pause(self, error: Exception) -> None:
        self._paused_until = time.monotonic() + _PAUSE
        CACHE_ERRORS.inc()
        log.warning("cache left out", seconds=_PAUSE, reason=f"{type(error).__name__}: {error}")


def _key(space: Space, digest: str) -> str:
    return f"agegender:faces:4:{space.id}:{space.dimension}:{digest}"
