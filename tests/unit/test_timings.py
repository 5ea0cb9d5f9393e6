"""Time by stage travels from service to service in the `Server-Timing` header."""

from agegender.web.timings import StageSeconds, server_timing, stage_seconds


def test_header_is_read_and_nonsense_in_it_left_out() -> None:
    assert stage_seconds('detect;dur=12.5, embed;desc="x";dur=3, odd;dur=abc, ;dur=1, bare') == {
        "detect": 0.0125,
        "embed": 0.003,
    }


def test_what_is_written_is_read() -> None:
    assert stage_seconds(server_timing({"queue": 0.0, "detect": 0.0125})) == {"queue": 0.0, "detect": 0.0125}


def test_stage_that_is_entered_twice_or_fails_counts() -> None:
    spent = StageSeconds()
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
