"""Cache the faces of images in Redis. Without Redis the proxy is slower, and its responses stay the same.

Embeddings are biometric data: entries expire after `cache_ttl` seconds, and 0 turns the cache off. The job
queue lives in the same Redis, so the cache is bounded by bytes (`_WRITE`) and leaves the rest to the queue.
"""

import asyncio
import hmac
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import structlog
from agegender.faces import ImageFaces
from agegender.spaces import Space
from agegender_service.packed_faces import pack_image, unpack_image
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
_RECENT_BYTES, _RECENT_SECONDS = 1024 * 1024, 60.0  # of entries in memory, whose JSON has five times that
_SIGNATURE_BYTES = 32  # SHA-256

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
        local bytes = redis.call('MEMORY', 'USAGE', KEYS[i]) + 2 * #KEYS[i] + 160  -- index and sizes too
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
class PackedFaces:
    """The faces of an image, and their packed entry, which cache and response share."""

    image: ImageFaces
    packed: bytes

    @classmethod
    def of(cls, image: ImageFaces) -> "PackedFaces":
        return cls(image, pack_image(image))

    @cached_property
    def json(self) -> bytes:
        return self.image.model_dump_json().encode()

    @property
    def count(self) -> int:
        return len(self.image.faces)

    @property
    def complete(self) -> bool:
        """Return whether these are all faces that were found, and no others."""
        return self.count == self.image.faces_found and not any(face.whole for face in self.image.faces)


def sign(key: str, packed: bytes, secret: bytes) -> bytes:
    """Return the cache entry for `key`: a signature, and packed faces.

    The signature is an HMAC of key and entry, which detects entries that are damaged, copied from another key
    or written with another secret.
    """
    return _signature(key, packed, secret) + packed


def verify(key: str, entry: bytes, secret: bytes) -> PackedFaces | None:
    """Return the faces of an entry, or None unless `sign` created it of faces, with this key and secret."""
    signature, packed = entry[:_SIGNATURE_BYTES], entry[_SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _signature(key, packed, secret)):
        return None
    try:
        return PackedFaces(unpack_image(packed), packed)
    except ValueError:  # of a program that has the secret
        return None


def _signature(key: str, packed: bytes, secret: bytes) -> bytes:
    return hmac.digest(secret, b"%b\0%b" % (key.encode(), packed), "sha256")


class _Recent:
    """The last entries read, with their JSON; a minute later all are forgotten.

    An entry counts only while Redis has the very same bytes, which then need no second check.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[str, tuple[bytes, PackedFaces]] = OrderedDict()
        self._bytes = 0
        self._forgetting: asyncio.TimerHandle | None = None

    def get(self, key: str, entry: bytes) -> PackedFaces | None:
        known = self._entries.get(key)
        return known[1] if known is not None and known[0] == entry else None

    def add(self, key: str, entry: bytes, faces: PackedFaces) -> None:
        if key in self._entries:
            self._drop(key)
        self._entries[key] = entry, faces
        self._bytes += len(entry)
        while self._bytes > _RECENT_BYTES:
            self._drop(next(iter(self._entries)))
        if self._forgetting is None:
            loop = asyncio.get_running_loop()
            self._forgetting = loop.call_later(_RECENT_SECONDS, self.forget)

    def forget(self) -> None:
        self._entries.clear()
        self._bytes = 0
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None

    def _drop(self, key: str) -> None:
        entry, _ = self._entries.pop(key)
        self._bytes -= len(entry)


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
        self._recent = _Recent()
        self._breaker = RedisBreaker("cache", CACHE_ERRORS, timeout)
        self._redis = Redis.from_url(
            url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
        )
        self._write = self._redis.register_script(_WRITE)

    @property
    def in_use(self) -> bool:
        return self._ttl > 0 and not self._breaker.is_open

    async def read(self, space: Space, digests: Sequence[str]) -> dict[str, PackedFaces]:
        """Return the cached faces by digest; images that are not cached are missing."""
        if not self.in_use or not digests:
            return {}
        keys = [_key(space, digest) for digest in digests]
        entries: list[bytes | str | None] = []
        async with self._breaker.guard():
            entries = await self._redis.mget(keys)
        if not entries:
            return {}
        found: dict[str, PackedFaces] = {}
        unknown: list[tuple[str, str, bytes]] = []
        for digest, key, entry in zip(digests, keys, entries, strict=True):
            if not isinstance(entry, bytes):
                continue
            if (known := self._recent.get(key, entry)) is not None:
                found[digest] = known
            else:
                unknown.append((digest, key, entry))
        if sum(len(entry) for *_, entry in unknown) > _VERIFIED_AT_ONCE:
            verified = await asyncio.to_thread(self._verified, unknown)
        else:
            verified = self._verified(unknown)
        for (digest, key, entry), faces in zip(unknown, verified, strict=True):
            if faces is not None:
                found[digest] = faces
                self._recent.add(key, entry, faces)
        return found

    async def write(self, space: Space, faces: Mapping[str, PackedFaces]) -> None:
        """Store faces by digest."""
        entries = {_key(space, digest): one for digest, one in faces.items() if len(one.packed) <= _MAX_ENTRY}
        if not self.in_use or not entries:
            return
        signed = [sign(key, one.packed, self._secret) for key, one in entries.items()]
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
        self._recent.forget()
        await self._redis.aclose()

    def _verified(self, entries: Sequence[tuple[str, str, bytes]]) -> list[PackedFaces | None]:
        return [verify(key, entry, self._secret) for _, key, entry in entries]


def _key(space: Space, digest: str) -> str:
    return f"agegender:faces:6:{space.id}:{space.dimension}:{digest}"
