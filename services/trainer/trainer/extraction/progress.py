"""How far an extraction is: told by its shard jobs through Redis, read by whoever asks.

Redis only carries this; what is done is what lies on disk, and a resumed shard tells its count anew.
"""

import json
import time
from dataclasses import dataclass

from pydantic import BaseModel, Field
from redis import Redis

from trainer.extraction.state import Extraction

_KEPT_SECONDS = 7 * 24 * 3600
_FRESH_SECONDS = 60.0
_TELL_EVERY = 0.5


class Progress(BaseModel):
    """Images done of all, with the present rate."""

    done: int = Field(description="images embedded or removed")
    total: int
    images_per_second: float | None = Field(None, description="of all workers, now; None while nothing runs")
    seconds_left: float | None = None


@dataclass
class ShardProgress:
    """Tells the progress of one shard; its rate counts only what this attempt itself did."""

    redis: "Redis"
    extraction: Extraction
    shard: int
    images: int
    done: int = 0

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self._done_before = self.done
        self._told = float("-inf")
        self._tell(rate=None)

    def advance(self, images: int) -> None:
        self.done += images
        now = time.monotonic()
        if now - self._told >= _TELL_EVERY or self.done >= self.images:
            self._told = now
            running = self.done < self.images
            rate = (self.done - self._done_before) / max(now - self._started, 1e-3)
            self._tell(rate if running else None)

    def _tell(self, rate: float | None) -> None:
        told = {"done": self.done, "rate": rate, "at": time.time()}
        key = _key(self.extraction)
        self.redis.hset(key, str(self.shard), json.dumps(told))
        self.redis.expire(key, _KEPT_SECONDS)


def read_progress(redis: "Redis", extraction: Extraction, now: float | None = None) -> Progress:
    """The sum over all shards; rates that have not been renewed for a minute do not count."""
    if extraction.state == "finished":
        return Progress(done=extraction.images, total=extraction.images)
    told = [json.loads(value) for value in redis.hgetall(_key(extraction)).values()]
    done = sum(shard["done"] for shard in told)
    oldest = (time.time() if now is None else now) - _FRESH_SECONDS
    rate = sum(shard["rate"] for shard in told if shard["rate"] and shard["at"] >= oldest)
    if not rate:
        return Progress(done=done, total=extraction.images)
    left = (extraction.images - done) / rate
    return Progress(
        done=done,
        total=extraction.images,
        images_per_second=round(rate, 2),
        seconds_left=round(left, 1),
    )


def _key(extraction: Extraction) -> str:
    return f"agegender:extraction:{extraction.id}:{extraction.attempt_id}"
