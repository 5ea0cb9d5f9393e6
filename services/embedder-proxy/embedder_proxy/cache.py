"""Cache the faces of images in Redis. Without Redis the proxy is slower, and its responses stay the same.

Embeddings are biometric data: entries expire after `cache_ttl` seconds, and 0 turns the cache off.
"""

import asyncio
import hmac
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog
from agegender.errors import Problem
from agegender.faces import ImageFaces, ImageProblem
from agegender.spaces import Space
from agegender_service.redis_breaker import RedisBreaker
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

log = structlog.get_logger(__name__)

CACHE_ERRORS = Counter("proxy_cache_errors_total", "Redis calls that failed or took too long")

_MAX_ENTRY = 4 * 1024 * 1024
_VERIFIED_AT_ONCE = 128 * 1024  # bytes; a thread costs more, and verifying more blocks the event loop
_SIGNATURE_BYTES = 32  # SHA-256
_COUNT = struct.Struct(">I")
_HEADER_BYTES = _SIGNATURE_BYTES + _COUNT.size


@dataclass(frozen=True)
class EncodedFaces:
    """The JSON of an `agegender.faces.ImageFaces` with `count` faces, encoded once for cache and response.

    complete : whether these are all faces that were found, and no others; False for cache entries.
    """

    json: bytes
    count: int
    complete: bool = False

    @classmethod
    def of(cls, image: ImageFaces) -> "EncodedFaces":
        whole = any(face.whole for face in image.faces)
        complete = len(image.faces) == image.faces_found and not whole
        return cls(image.model_dump_json().encode(), len(image.faces), complete)

    def decoded(self) -> ImageFaces:
        return ImageFaces.model_validate_json(self.json)


def encode_each(images: Mapping[str, ImageFaces | Problem]) -> dict[str, EncodedFaces | Problem]:
    """Encode the images that have faces; keep the problems."""
    return {
        key: image if isinstance(image, Problem) else EncodedFaces.of(image) for key, image in images.items()
    }


def faces_answer_json(space: Space, images: Sequence[EncodedFaces | Problem]) -> bytes:
    """Return the JSON of an `agegender.faces.FacesAnswer`."""
    entries = [
        ImageProblem(problem=image.document()).model_dump_json().encode()
        if isinstance(image, Problem)
        else image.json
        for image in images
    ]
    return b'{"space":%b,"images":[%b]}' % (space.model_dump_json().encode(), b",".join(entries))


def sign(key: str, faces: EncodedFaces, secret: bytes) -> bytes:
    """Return the cache entry for `key`: a signature, the number of faces, and their JSON.

    The signature is an HMAC of key and entry, which detects entries that are damaged, copied from another key
    or written with another secret, without parsing their JSON.
    """
    count = _COUNT.pack(faces.count)
    return b"".join((_signature(key, count, faces.json, secret), count, faces.json))


def verify(key: str, entry: bytes, secret: bytes) -> EncodedFaces | None:
    """Return the faces of an entry, or None unless `sign` created it with this key and secret."""
    signature, count = entry[:_SIGNATURE_BYTES], entry[_SIGNATURE_BYTES:_HEADER_BYTES]
    json = entry[_HEADER_BYTES:]
    if not hmac.compare_digest(signature, _signature(key, count, json, secret)):
        return None
    return EncodedFaces(json, *_COUNT.unpack(count))


def _signature(key: str, count: bytes, json: bytes, secret: bytes) -> bytes:
    signature = hmac.new(secret, b"%b\0%b" % (key.encode(), count), "sha256")
    signature.update(json)
    return signature.digest()


class FaceCache:
    """Store the faces of images by the SHA-256 of the image file and the space.

    Parameters
    ----------
    ttl : seconds after which an entry expires; 0 for no cache.
    timeout : seconds for one Redis call.
    secret : signs the entries.
    """

    def __init__(self, url: str, *, ttl: int, timeout: float, secret: bytes) -> None:
        self._ttl = ttl
        self._secret = secret
        self._breaker = RedisBreaker("cache", CACHE_ERRORS, timeout)
        self._redis = Redis.from_url(
            url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
        )

    @property
    def in_use(self) -> bool:
        return self._ttl > 0 and not self._breaker.is_open

    async def read(self, space: Space, digests: Sequence[str]) -> dict[str, EncodedFaces]:
        """Return the cached faces by digest; images that are not cached are missing."""
        if not self.in_use or not digests:
            return {}
        keys = [_key(space, digest) for digest in digests]
        entries: list[bytes | str | None] = []
        async with self._breaker.guard():
            entries = await self._redis.mget(keys)
        if not entries:
            return {}
        if sum(len(entry) for entry in entries if entry is not None) > _VERIFIED_AT_ONCE:
            found = await asyncio.to_thread(self._verified, keys, entries)
        else:
            found = self._verified(keys, entries)
        return {digest: faces for digest, faces in zip(digests, found, strict=True) if faces is not None}

    async def write(self, space: Space, faces: Mapping[str, EncodedFaces]) -> None:
        """Store faces by digest."""
        if not self.in_use or not faces:
            return
        async with self._breaker.guard(), self._redis.pipeline(transaction=False) as pipeline:
            for digest, encoded in faces.items():
                if len(encoded.json) <= _MAX_ENTRY:
                    key = _key(space, digest)
                    pipeline.set(key, sign(key, encoded, self._secret), ex=self._ttl)
            try:
                await pipeline.execute()
            except ResponseError as error:  # full or read-only; entries may still be read
                CACHE_ERRORS.inc()
                log.warning("cache not written", reason=str(error))

    async def close(self) -> None:
        await self._redis.aclose()

    def _verified(
        self, keys: Sequence[str], entries: Sequence[bytes | str | None]
    ) -> list[EncodedFaces | None]:
        return [
            verify(key, entry, self._secret) if isinstance(entry, bytes) else None
            for key, entry in zip(keys, entries, strict=True)
        ]


def _key(space: Space, digest: str) -> str:
    return f"agegender:faces:4:{space.id}:{space.dimension}:{digest}"
