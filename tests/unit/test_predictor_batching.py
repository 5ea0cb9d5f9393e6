"""Concurrent requests share a pass through the heads, and each gets its own answer."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agegender.errors import Problem
from agegender.heads.head import Head, Task, load_head
from agegender.heads.networks import bank_logits
from agegender.spaces import Space
from predictor.registry import HeadBatches, Heads

from tests.support.made_heads import made_head

SPACE = Space(id="test-1", dimension=16)


@pytest.fixture
def heads(tmp_path: Path) -> Heads:
    age, gender = (load_head(made_head(tmp_path, task, SPACE, "v1")) for task in (Task.AGE, Task.GENDER))
    return Heads(age=age, gender=gender)


def faces(count: int, seed: int) -> np.ndarray:
    points = np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True))


class SlowHead:
    """Holds its first batch until notified, and notes the sizes of all."""

    def __init__(self, head: Head) -> None:
        self.head, self.manifest = head, head.manifest
        self.started, self.go_on = threading.Event(), threading.Event()
        self.sizes: list[int] = []

    def probabilities(self, embeddings: np.ndarray) -> np.ndarray:
        self.sizes.append(len(embeddings))
        self.started.set()
        self.go_on.wait(10)
        return self.head.probabilities(embeddings)


async def test_what_arrives_while_a_batch_runs_makes_up_the_next(heads: Heads) -> None:
    slow = SlowHead(heads.age)
    pair = Heads(age=slow, gender=heads.gender)  # type: ignore[arg-type]
    batches = HeadBatches(threads=1, max_faces=256)
    sent = [faces(count, seed) for seed, count in enumerate((1, 2, 3, 4))]
    first = asyncio.create_task(batches.ensemble(pair, sent[0]))
    await asyncio.to_thread(slow.started.wait, 10)
    others = [asyncio.create_task(batches.ensemble(pair, rows)) for rows in sent[1:]]
    await asyncio.sleep(0)
    slow.go_on.set()
    answers = await asyncio.gather(first, *others)
    batches.close()
    assert slow.sizes == [1, 9]
    for rows, answer in zip(sent, answers, strict=True):
        np.testing.assert_allclose(answer.age, heads.age.probabilities(rows), atol=1e-6)
        np.testing.assert_allclose(answer.gender, heads.gender.probabilities(rows), atol=1e-6)


async def test_no_batch_is_larger_than_allowed_unless_one_request_is(heads: Heads) -> None:
    slow = SlowHead(heads.age)
    pair = Heads(age=slow, gender=heads.gender)  # type: ignore[arg-type]
    batches = HeadBatches(threads=1, max_faces=4)
    first = asyncio.create_task(batches.ensemble(pair, faces(1, 0)))
    await asyncio.to_thread(slow.started.wait, 10)
    others = [asyncio.create_task(batches.ensemble(pair, faces(count, 1))) for count in (3, 2, 9)]
    await asyncio.sleep(0)
    slow.go_on.set()
    answers = await asyncio.gather(first, *others)
    batches.close()
    assert slow.sizes == [1, 3, 2, 9]
    assert [len(answer.age) for answer in answers] == [1, 3, 2, 9]


async def test_failure_reaches_all_who_waited_and_spoils_nobody_after(heads: Heads) -> None:
    batches = HeadBatches(threads=1, max_faces=256)
    with pytest.raises(ValueError, match="mismatch"):
        await batches.ensemble(heads, np.zeros((1, 17), np.float32))
    assert len((await batches.ensemble(heads, faces(2, 0))).age) == 2
    batches.close()


async def test_client_that_gives_up_does_not_spoil_its_batch(heads: Heads) -> None:
    slow = SlowHead(heads.age)
    pair = Heads(age=slow, gender=heads.gender)  # type: ignore[arg-type]
    batches = HeadBatches(threads=1, max_faces=256)
    first = asyncio.create_task(batches.ensemble(pair, faces(1, 0)))
    await asyncio.to_thread(slow.started.wait, 10)
    leaver, stayer = (asyncio.create_task(batches.ensemble(pair, faces(1, seed))) for seed in (1, 2))
    await asyncio.sleep(0)
    leaver.cancel()
    slow.go_on.set()
    answer = await stayer
    np.testing.assert_allclose(answer.age, heads.age.probabilities(faces(1, 2)), atol=1e-6)
    await first
    batches.close()
    assert slow.sizes == [1, 1]


async def test_mc_dropout_answers_the_same_twice(heads: Heads) -> None:
    batches = HeadBatches(threads=1, max_faces=256)
    one, two = [await batches.mc_dropout(heads, faces(3, 0), passes=16) for _ in range(2)]
    batches.close()
    np.testing.assert_array_equal(one.age, two.age)
    assert not np.allclose(one.age, heads.age.probabilities(faces(3, 0)), atol=1e-6)


async def test_no_more_faces_wait_than_allowed_unless_one_request_has_more(heads: Heads) -> None:
    slow = SlowHead(heads.age)
    pair = Heads(age=slow, gender=heads.gender)  # type: ignore[arg-type]
    batches = HeadBatches(threads=1, max_faces=4, max_waiting_faces=5)
    accepted = [asyncio.create_task(batches.ensemble(pair, faces(1, 0)))]
    await asyncio.to_thread(slow.started.wait, 10)
    accepted.append(asyncio.create_task(batches.ensemble(pair, faces(4, 1))))
    await asyncio.sleep(0)
    with pytest.raises(Problem) as refused:
        await batches.ensemble(pair, faces(2, 2))
    assert (refused.value.status, refused.value.slug, refused.value.retry_after) == (429, "busy", 1)
    accepted.append(asyncio.create_task(batches.ensemble(pair, faces(1, 3))))
    await asyncio.sleep(0)
    slow.go_on.set()
    assert [len(answer.age) for answer in await asyncio.gather(*accepted)] == [1, 4, 1]
    assert len((await batches.ensemble(pair, faces(9, 4))).age) == 9
    batches.close()


async def test_faces_of_one_who_gave_up_take_no_room_once_their_turn_has_passed(heads: Heads) -> None:
    slow = SlowHead(heads.age)
    pair = Heads(age=slow, gender=heads.gender)  # type: ignore[arg-type]
    batches = HeadBatches(threads=1, max_faces=4, max_waiting_faces=4)
    for _ in range(3):
        slow.started.clear()
        slow.go_on.clear()
        first = asyncio.create_task(batches.ensemble(pair, faces(1, 0)))
        await asyncio.to_thread(slow.started.wait, 10)
        leaver = asyncio.create_task(batches.ensemble(pair, faces(4, 1)))
        await asyncio.sleep(0)
        leaver.cancel()
        slow.go_on.set()
        await first
    batches.close()
    assert slow.sizes == [1, 1, 1]


class Rounds:
    """Monte-Carlo dropout's: counted, and the first held until notified."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started, self.go_on = threading.Event(), threading.Event()
        self.count = 0
        monkeypatch.setattr("agegender.heads.head.bank_logits", self._run)

    def _run(self, *arguments: Any) -> np.ndarray:
        self.count += 1
        self.started.set()
        self.go_on.wait(10)
        return bank_logits(*arguments)


async def test_mc_dropout_ends_with_its_round_once_nobody_waits(
    heads: Heads, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = Rounds(monkeypatch)
    batches = HeadBatches(threads=1, max_faces=256)
    running, waiting = (
        asyncio.create_task(batches.mc_dropout(heads, faces(3, 0), passes=4096)) for _ in range(2)
    )
    await asyncio.to_thread(rounds.started.wait, 10)
    for task in (running, waiting):
        task.cancel()
    await asyncio.wait({running, waiting})
    rounds.go_on.set()
    batches.close()
    assert rounds.count == 1


async def test_no_more_requests_wait_for_mc_dropout_than_allowed(
    heads: Heads, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = Rounds(monkeypatch)
    batches = HeadBatches(threads=1, max_faces=256, max_waiting=1)
    accepted = [asyncio.create_task(batches.mc_dropout(heads, faces(1, 0), passes=2)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Problem) as refused:
        await batches.mc_dropout(heads, faces(1, 0), passes=2)
    assert (refused.value.status, refused.value.slug, refused.value.retry_after) == (429, "busy", 1)
    rounds.go_on.set()
    await asyncio.gather(*accepted)
    await batches.mc_dropout(heads, faces(1, 0), passes=2)
    batches.close()
