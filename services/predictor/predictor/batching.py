"""Run the heads for concurrent requests together, and slow work in few threads."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import numpy.typing as npt
from agegender.heads.head import over_years
from agegender_service.batching import Batcher, Queued
from prometheus_client import Histogram

from predictor.registry import Heads

Array = npt.NDArray[np.float32]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

BATCH_FACES = Histogram(
    "predictor_batch_faces", "Faces per batch of the heads", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)


@dataclass(frozen=True)
class Probabilities:
    """Calibrated: age [faces, 101] over years, gender [faces, 2]; and the seconds it took."""

    age: Array
    gender: Array
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


@dataclass(frozen=True)
class _Dropout:
    embeddings: Array
    passes: int


class HeadBatches:
    """Run heads in `threads` threads, at most `max_faces` faces at a time; one request is never split.

    Parameters
    ----------
    max_waiting_faces : of all requests that wait for a thread; one request alone may have more.
    max_waiting : requests that wait for Monte-Carlo dropout, which has one thread.
    """

    def __init__(
        self, threads: int, max_faces: int, *, max_waiting_faces: int = 4096, max_waiting: int = 32
    ) -> None:
        self._ensembles: Batcher[Heads, Array, Probabilities] = Batcher(
            _run_ensemble,
            name="heads",
            cost=len,
            max_cost=max_faces,
            max_waiting=max_waiting_faces,
            workers=threads,
        )
        self._dropouts: Batcher[Heads, _Dropout, Probabilities] = Batcher(
            _run_dropout, name="mc-dropout", max_waiting=max_waiting
        )

    async def ensemble(self, heads: Heads, embeddings: Array) -> Probabilities:
        """Return the mean over the members of each bank, for embeddings [faces, dimension].

        Raises ``busy`` 429.
        """
        return await self._ensembles.submit(heads, embeddings)

    async def mc_dropout(self, heads: Heads, embeddings: Array, passes: int) -> Probabilities:
        """Return the mean over passes of Monte-Carlo dropout, for embeddings [faces, dimension].

        Requests are not batched: the dropout masks, and so the result, would depend on the other requests.
        Ends after its current pass if the caller leaves. Raises ``busy`` 429.
        """
        return await self._dropouts.submit(heads, _Dropout(embeddings, passes))

    def close(self) -> None:
        """Wait for the batches that run."""
        self._ensembles.close()
        self._dropouts.close()


class BoundedThreads:
    """Run at most `threads` slow calls at a time while at most `waiting` wait."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._calls: Batcher[None, Callable[[], Any], Any] = Batcher(
            _run_call, name=name, max_waiting=waiting, workers=threads
        )

    async def run(
        self, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Return what `function` returns. Raises what it raises, and ``busy`` 429 if too many calls wait."""
        return cast(Result, await self._calls.submit(None, partial(function, *args, **kwargs)))

    def close(self) -> None:
        """Wait for the calls that run."""
        self._calls.close()


def _run_ensemble(heads: Heads, batch: Sequence[Queued[Array, Probabilities]]) -> list[Probabilities]:
    started = time.perf_counter()
    mean = _ensemble(heads, np.concatenate([request.item for request in batch]))
    seconds = time.perf_counter() - started
    results: list[Probabilities] = []
    first = 0
    for request in batch:
        rows = slice(first, first + len(request.item))
        first = rows.stop
        results.append(Probabilities(mean.age[rows], mean.gender[rows], request.queue_seconds, seconds))
    return results


def _ensemble(heads: Heads, embeddings: Array) -> Probabilities:
    BATCH_FACES.observe(len(embeddings))
    age, gender = (head.probabilities(embeddings) for head in (heads.age, heads.gender))
    return Probabilities(over_years(age, heads.age.manifest.classes), gender)


def _run_dropout(heads: Heads, batch: Sequence[Queued[_Dropout, Probabilities]]) -> list[Probabilities]:
    return [_mc_dropout(heads, request) for request in batch]


def _mc_dropout(heads: Heads, request: Queued[_Dropout, Probabilities]) -> Probabilities:
    started = time.perf_counter()
    age, gender = (
        head.probabilities_mc_dropout(
            request.item.embeddings, request.item.passes, seed=0, unwanted=lambda: request.abandoned
        )
        for head in (heads.age, heads.gender)
    )
    seconds = time.perf_counter() - started
    return Probabilities(over_years(age, heads.age.manifest.classes), gender, request.queue_seconds, seconds)


def _run_call(_: None, batch: Sequence[Queued[Callable[[], Any], Any]]) -> list[Any]:
    return [request.item() for request in batch]
