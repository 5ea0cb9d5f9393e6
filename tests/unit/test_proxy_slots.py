"""Whatever arrives, and however long it takes: never more at the embedders than allowed."""

import asyncio
from dataclasses import dataclass

import pytest
from agegender.errors import Problem
from agegender_service.deadlines import Deadline
from embedder_proxy.pool import Slots
from hypothesis import given, settings
from hypothesis import strategies as st


@dataclass
class Outcome:
    most: int = 0
    working: int = 0
    answered: int = 0
    refused: int = 0
    late: int = 0


ARRIVALS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 6), st.sampled_from([0.0, 0.001, 60.0]), st.booleans()),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(places=st.integers(1, 3), waiting=st.integers(0, 3), arrivals=ARRIVALS)
def test_places_are_bounded_and_none_is_lost(
    places: int, waiting: int, arrivals: list[tuple[int, int, float, bool]]
) -> None:
    outcome = Outcome()

    async def ask(slots: Slots, work: int, patience: float) -> None:
        try:
            async with slots.slot(Deadline.after(patience)):
                outcome.working += 1
                outcome.most = max(outcome.most, outcome.working)
                try:
                    for _ in range(work):
                        await asyncio.sleep(0)
                finally:
                    outcome.working -= 1
                outcome.answered += 1
        except Problem as problem:
            outcome.refused += problem.status == 429
            outcome.late += problem.status == 504

    async def play() -> int:
        slots = Slots(places, waiting)
        tasks, hung_up = [], 0
        for gap, work, patience, leaves in arrivals:
            task = asyncio.create_task(ask(slots, work, patience))
            tasks.append(task)
            for _ in range(gap):
                await asyncio.sleep(0)
            if leaves and not task.done():
                hung_up += task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # All places are free again: as many as there are can be taken at once.
        async with asyncio.timeout(1):
            for _ in range(places):
                await slots.slot(Deadline.after(1)).__aenter__()
        return hung_up

    hung_up = asyncio.run(play())
    assert outcome.most <= places
    finished = outcome.answered + outcome.refused + outcome.late
    assert finished <= len(arrivals) <= finished + hung_up
    if len(arrivals) <= places:
        assert outcome.refused == 0


async def test_queue_that_is_too_slow_for_the_deadline_refuses_and_states_when_to_come_back() -> None:
    slots = Slots(1, 100)

    async def work(seconds: float, deadline: Deadline) -> None:
        async with slots.slot(deadline):
            await asyncio.sleep(seconds)

    for _ in range(20):  # it learns that a place is held for 0.05 s
        await work(0.05, Deadline.after(60))
    working = [asyncio.create_task(work(0.05, Deadline.after(60))) for _ in range(5)]
    await asyncio.sleep(0)
    with pytest.raises(Problem) as refused:  # four wait before it, 0.3 s with its own
        await work(0, Deadline.after(0.15))
    assert (refused.value.slug, refused.value.status, refused.value.retry_after) == ("busy", 429, 1)
    await work(0, Deadline.after(60))
    await asyncio.gather(*working)
