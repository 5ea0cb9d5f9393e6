"""Content negotiation of the predictor, and parsing of JSON bodies."""

import pytest
from agegender.errors import Problem
from agegender_service.inputs import preferred_media_type
from fastapi import Request
from predictor.prediction_request import EmbeddingsRequest, parsed
from predictor.routes.age_gender import MEDIA_TYPES

JSON, JPEG, PNG = MEDIA_TYPES


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/json", JSON),
        ("image/png", PNG),
        ("image/jpeg", JPEG),
        ("image/*", JPEG),
        ("image/png;q=0.5, application/json", JSON),
        ("application/json;q=0.1, image/png;q=0.8", PNG),
        ("text/html,application/xhtml+xml,*/*;q=0.8", JSON),
        ("image/png;q=0, */*", JSON),
        ("application/json;q=0, image/*", JPEG),
        ("image/webp", JSON),
        ("nonsense", JSON),
        ("image/png;q=nonsense", PNG),  # a malformed weight counts as 1
    ],
)
def test_accept_header_selects_the_media_type(accept: str, expected: str) -> None:
    request = Request({"type": "http", "headers": [(b"accept", accept.encode())]})
    assert preferred_media_type(request, MEDIA_TYPES) == expected


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b'"x"', b"null"])
def test_number_that_is_none_is_a_problem_that_names_the_field(number: bytes) -> None:
    with pytest.raises(Problem) as raised:
        parsed(EmbeddingsRequest, b'{"space": "a-1", "embeddings": [[0.5, ' + number + b"]]}")
    assert raised.value.status == 422
    assert "embeddings.0.1" in raised.value.detail


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 10_000, b'{"a": ' * 10_000, b"\xff\xfe", b"[]", b"7"])
def test_json_that_is_none_is_a_problem(body: bytes) -> None:
    with pytest.raises(Problem) as raised:
        parsed(EmbeddingsRequest, body)
    assert raised.value.slug == "invalid-request"
