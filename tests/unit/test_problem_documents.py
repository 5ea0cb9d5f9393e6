"""The problem of another service's response is passed on."""

from typing import Any

import httpx
import pytest
from agegender.errors import Problem, problem_in
from agegender.spaces import Space, former_default
from hypothesis import given
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = ("type", "title", "status", "detail", "self", "slug", "retry_after", "close_connection", "limit")


def test_a_problem_is_passed_on_with_what_else_it_reports() -> None:
    problem = Problem("too-many-pixels", 413, "At most 50 megapixels.", limit=50)
    found = problem_in(httpx.Response(413, json=problem.document(), headers={"Retry-After": "7"}))
    assert found is not None
    assert (found.document(), found.retry_after) == (problem.document(), 7)


def test_the_status_is_the_responses() -> None:
    found = problem_in(httpx.Response(503, json={"type": "urn:age-gender:problem:busy", "status": "many"}))
    assert found is not None
    assert (found.slug, found.status) == ("busy", 503)


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"[]", b'"busy"', b"{}", b'{"detail": "no type"}', b"\xff"]
)
def test_what_is_no_problem_document_is_ignored(content: bytes) -> None:
    assert problem_in(httpx.Response(502, content=content)) is None


@given(st.dictionaries(st.sampled_from(MEMBERS) | st.text(max_size=5), JSON) | JSON)
def test_any_json_is_a_problem_or_none(document: Any) -> None:
    found = problem_in(httpx.Response(500, json=document))
    assert found is None or (found.status == 500 and found.retry_after is None)


def test_a_space_mismatch_names_the_expected_space_also_by_its_former_name() -> None:
    with pytest.raises(Problem) as caught:
        Space(id="human-2", dimension=2304).require(Space(id="other-1", dimension=8))
    document = caught.value.document()
    assert (document["status"], document["given"]) == (409, "other-1 (8-d)")
    assert document["expected"] == document["wanted"] == "human-2 (2304-d)"


def test_space_of_an_earlier_default_pack_comes_with_what_to_do() -> None:
    sentence = former_default(["buffalo_sc-5", "human-2"], "faces was extracted")
    assert sentence is not None
    assert sentence.startswith("faces was extracted in human-2") and "human-3" in sentence
    assert "Extract again" in sentence and "EMBEDDER_PACK=human-2" in sentence
    assert former_default(["human-3", "buffalo_sc-5"], "faces was extracted") is None
