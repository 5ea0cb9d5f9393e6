"""The suite shares one machine (tests/conftest.py)."""

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="the tests run in one process")
def test_group_of_a_test_reaches_the_scheduler(request: pytest.FixtureRequest) -> None:
    """pytest 9.2.0 with pytest-xdist 3.8.0 ignores groups: each process then starts its own systems."""
    assert request.node.nodeid.endswith("@tests/unit/test_suite.py")


@pytest.mark.parametrize("content", [b"x" * 10_000_000])
def test_name_of_a_test_does_not_hold_its_data(request: pytest.FixtureRequest, content: bytes) -> None:
    """Names with their data were 24 MB in each process, and delayed the first test by ten seconds."""
    assert "10,000,000 long" in request.node.nodeid
    assert max(len(item.nodeid) for item in request.session.items) < 600
