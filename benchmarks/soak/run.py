"""Start a system, measure its capacity, and send more than that."""

from contextlib import ExitStack

import httpx
from agegender.spaces import Space

from benchmarks.serving import running
from benchmarks.soak.beside import beside
from benchmarks.soak.load import at_rate, capacity
from benchmarks.soak.mix import Mix
from benchmarks.soak.verdict import Verdict, machine

OVERLOAD = 1.5
_CACHE_SHARE = 0.1  # of the duration; stands for a cache lifetime of an hour in a longer test


def soak(seconds: float) -> Verdict:
    """Send traffic at `OVERLOAD` times the capacity for `seconds`; measure the capacity before."""
    where = machine()  # measured before our own load
    with ExitStack() as life:
        stack = life.enter_context(running(PROXY_CACHE_SECONDS=str(max(5, int(seconds * _CACHE_SHARE)))))
        space = Space.model_validate(
            httpx.get(f"{stack.url('embedder-proxy')}/info", trust_env=False).json()["space"]
        )
        mix, url = Mix(space), stack.url("predictor")
        with beside(stack, space) as own:
            capacity(url, mix, 2)  # warms up
            able = capacity(url, mix, max(8.0, seconds / 10))
            own.memory.clear()
            answers = at_rate(url, mix, OVERLOAD * able, seconds)
            memory = own.growth()
        states, restarted = list(own.experiments.values()), own.restarted()
    return Verdict(where, seconds, able, OVERLOAD * able, mix.shares, answers, memory, states, restarted)
