"""Time by stage travels from service to service in the `Server-Timing` header."""

import pytest
from agegender_service.observability import Stopwatch, server_timing, stage_seconds, with_transfer
from prometheus_client import CollectorRegistry, Histogram


def test_header_is_read_and_nonsense_in_it_omitted() -> None:
    assert stage_seconds('detect;dur=12.5, embed;desc="x";dur=3, odd;dur=abc, ;dur=1, bare') == {
        "detect": 0.0125,
        "embed": 0.003,
    }


def test_what_is_written_is_read() -> None:
    assert stage_seconds(server_timing({"queue": 0.0, "detect": 0.0125})) == {"queue": 0.0, "detect": 0.0125}


def test_stage_that_is_entered_twice_or_fails_counts() -> None:
    spent = Stopwatch()
    for _ in range(2):
        try:
            with spent.stage("decode"):
                raise ValueError
        except ValueError:
            continue
    first = spent.seconds["decode"]
    with spent.stage("decode"):
        pass
    assert 0 < first < spent.seconds["decode"]


def test_stage_that_fails_is_in_the_histogram_and_in_the_milliseconds() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("made_seconds", "made up", ["stage"], registry=registry)
    spent = Stopwatch(histogram)
    with pytest.raises(ValueError, match="on purpose"), spent.stage("read"):
        raise ValueError("on purpose")
    spent.add({"queue": 0.25, "read": 0.5})
    spent.add({"queue": 0.25})
    assert registry.get_sample_value("made_seconds_count", {"stage": "read"}) == 1
    assert registry.get_sample_value("made_seconds_count", {"stage": "queue"}) is None  # another service's
    milliseconds = spent.milliseconds()
    assert list(milliseconds) == ["read", "queue", "total"]
    assert milliseconds["queue"] == 500 and 500 <= milliseconds["read"] < 600


def test_rest_of_a_call_is_its_transfer() -> None:
    assert with_transfer({}, 0.5) == {}  # a service that reports nothing
    assert with_transfer({"detect": 0.25}, 0.5) == {"detect": 0.25, "transfer": 0.25}
    assert with_transfer({"detect": 0.25, "transfer": 0.125}, 0.5) == {"detect": 0.25, "transfer": 0.25}
    assert with_transfer({"detect": 0.75}, 0.5) == {"detect": 0.75, "transfer": 0}
