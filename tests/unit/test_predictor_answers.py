"""Small decisions of the predictor's HTTP: what is accepted, and read."""

import pytest
from agegender.errors import Problem
from predictor.options import EmbeddingsRequest, parsed
from predictor.routes.age_gender import wanted_picture


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", None),
        ("*/*", None),
        ("application/json", None),
        ("image/png", "PNG"),
        ("image/jpeg", "JPEG"),
        ("image/*", "JPEG"),
        ("image/png;q=0.5, application/json", None),
        ("application/json;q=0.1, image/png;q=0.8", "PNG"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", None),
        ("image/png;q=nonsense", None),
    ],
)
def test_accept_header_chooses_the_answer(accept: str, wanted: str | None) -> None:
    assert wanted_picture(accept) == wanted


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
