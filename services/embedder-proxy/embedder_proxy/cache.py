"""Cache the faces of images in Redis. Without Redis the proxy is slower, and its responses stay the same.

Embeddings are biometric data: entries expire after `cache_ttl` seconds, and 0 turns the cache off. The job
queue lives in the same Redis, so the cache is bounded by bytes (`_WRITE`) and leaves the rest to the queue.
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
from prometheus_client import Counter, Gauge
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

log = structlog.get_logger(__name__)

CACHE_ERRORS = Counter("proxy_cache_errors_total", "Redis calls that failed or took too long")
CACHE_BYTES = Gauge("proxy_cache_bytes", "Memory of Redis that cached faces occupy, as of the last write")
EVICTIONS = Counter("proxy_cache_evictions_total", "Cache entries removed early to make room for newer ones")

_MAX_ENTRY = 4 * 1024 * 1024
_MAX_BYTES = 256 * 1024 * 1024  # of all entries, if Redis has no `maxmemory`; else half of that
_VERIFIED_AT_ONCE = 128 * 1024  # bytes; a thread costs more, and verifying more blocks the event loop
_SIGNATURE_BYTES = 32  # SHA-256
_COUNT = struct.Struct(">I")
_HEADER_BYTES = _SIGNATURE_BYTES + _COUNT.size


# Store entries for ARGV[2] seconds and return the bytes of all entries and how many were evicted. The oldest
# entries are evicted until all fit into half of Redis's `maxmemory`, or into ARGV[1] bytes if it has none. If
# other data need more than the other half, the entries give way, so that a tenth is always free for them.
# KEYS: the index (entry → when it expires), the sizes (entry → bytes), then the entries of ARGV[3] and so on.
# The script is atomic, so several proxies share one budget.
_WRITE = """
local index, sizes = KEYS[1], KEYS[2]

local function total()
    return tonumber(redis.call('HGET', sizes, 'total') or 0)
end

local function drop(entry)
    redis.call('DEL', entry)
    redis.call('ZREM', index, entry)
    local bytes = redis.call('HGET', sizes, entry)
    if bytes then
        redis.call('HINCRBY', sizes, 'total', '-' .. bytes)
        redis.call('HDEL', sizes, entry)
    end
end

local function budget()
    local memory = redis.call('INFO', 'memory')
    local limit = tonumber(string.match(memory, 'maxmemory:(%d+)'))
    if limit == 0 then
        return tonumber(ARGV[1])
    end
    local others = tonumber(string.match(memory, 'used_memory:(%d+)')) - total()
    return math.min(0.5 * limit, 0.9 * limit - others)
end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local expires = now + ARGV[2] * 1000
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', now)) do
    drop(entry)
end
local most, evicted = budget(), 0
for i = 3, #KEYS do
    local estimate = #ARGV[i] + 8 * #KEYS[i]
    drop(KEYS[i])
    while total() > 0 and total() + estimate > most do
        local oldest = redis.call('ZRANGE', index, 0, 0)[1]
        drop(oldest or sizes)  -- sizes without an index: somebody deleted it
        evicted = evicted + 1
    end
    if estimate <= most then
        redis.call('SET', KEYS[i], ARGV[i], 'PX', ARGV[2] * 1000)
        local bytes = redis.call('MEMORY', 'USAGE', KEYS[i]) + 4 * #KEYS[i] + 256  -- index and sizes too
        redis.call('HSET', sizes, KEYS[i], bytes)
        redis.call('HINCRBY', sizes, 'total', bytes)
        redis.call('ZADD', index, expires, KEYS[i])
    end
end
local last = redis.call('ZRANGE', index, -1, -1, 'WITHSCORES')[2] or now
redis.call('PEXPIREAT', index, last)
redis.call('PEXPIREAT', sizes, last)
return {total(), evicted}
"""
_INDEX = ("agegender:faces:index", "agegender:faces:sizes")


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
        self._write = self._redis.register_script(_WRITE)

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
        entries = {_key(space, digest): one for digest, one in faces.items() if len(one.json) <= _MAX_ENTRY}
        if not self.in_use or not entries:
            return
        signed = [sign(key, encoded, self._secret) for key, encoded in entries.items()]
        async with self._breaker.guard():
            try:
                occupied, evicted = await self._write([*_INDEX, *entries], [_MAX_BYTES, self._ttl, *signed])
            except ResponseError as error:  # full or read-only; entries may still be read
                CACHE_ERRORS.inc()
                log.warning("cache not written", reason=str(error))
            else:
                CACHE_BYTES.set(occupied)
                EVICTIONS.inc(evicted)

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
