"""Events of work that runs: each change once, until it is over or gone."""

from datetime import UTC, datetime
from typing import Any

from agegender.errors import not_found
from trainer.routes import runs
from trainer.runs.run import RunStatus

CREATED = datetime.now(UTC)


class Status(RunStatus):
    epoch: int = 0


async def streamed(monkeypatch: Any, *looks: Status | Exception) -> list[Status]:
    monkeypatch.setattr(runs, "_EVENT_SECONDS", 0)
    following = iter(looks)

    def look() -> Any:
        seen = next(following)
        if isinstance(seen, Exception):
            raise seen
        return [seen]

    return [status async for status in runs.changes(look, {"queued", "running"})]


async def test_each_change_is_reported_once_until_it_is_over(monkeypatch: Any) -> None:
    first, second, last = (
        Status(id="one", created=CREATED, state="queued"),
        Status(id="one", created=CREATED, state="running", epoch=1),
        Status(id="one", created=CREATED, state="finished"),
    )
    assert await streamed(monkeypatch, first, first, second, second, last) == [first, second, last]


async def test_stream_of_what_is_deleted_meanwhile_ends(monkeypatch: Any) -> None:
    running = Status(id="one", created=CREATED, state="running")
    assert await streamed(monkeypatch, running, not_found("experiment", "x")) == [running]
