"""Events of work that runs: each change once, until it is over or gone."""

from typing import Any

from agegender.errors import not_found
from pydantic import BaseModel
from trainer.api import events


class Status(BaseModel):
    state: str
    epoch: int = 0


async def told(monkeypatch: Any, *looks: Status | Exception) -> list[Status]:
    monkeypatch.setattr(events, "_SECONDS", 0)
    following = iter(looks)

    def look() -> Any:
        seen = next(following)
        if isinstance(seen, Exception):
            raise seen
        return seen

    return [status async for status in events.changes(look)]


async def test_each_change_is_told_once_until_it_is_over(monkeypatch: Any) -> None:
    first, second, last = Status(state="queued"), Status(state="running", epoch=1), Status(state="finished")
    assert await told(monkeypatch, first, first, second, second, last) == [first, second, last]


async def test_stream_of_what_is_deleted_meanwhile_ends(monkeypatch: Any) -> None:
    running = Status(state="running")
    assert await told(monkeypatch, running, not_found("experiment", "x")) == [running]
