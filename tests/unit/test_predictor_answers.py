"""Small decisions of the predictor's HTTP: what is accepted, drawn, and read."""

import io

import numpy as np
import pytest
from agegender.errors import Problem
from agegender.heads.answers import AgeAnswer, GenderAnswer
from agegender.predictions import FaceAnswer, Quality
from PIL import Image
from predictor.drawing import annotated, label_lines
from predictor.intake import parsed
from predictor.options import EmbeddingsRequest
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


def answer(box: tuple[float, float, float, float], label: str = "female") -> FaceAnswer:
    return FaceAnswer(
        bbox=box,
        det_score=0.9,
        landmarks=[(1, 1)] * 5,
        quality=Quality(score=1, reasons=[], pixels=50, yaw=0, roll=0),
        age=AgeAnswer(mean=31.4, interval=(24.9, 38.2), coverage=0.9, group="25-32", groups={}, entropy=1),
        gender=GenderAnswer(label=label, probability={"female": 0.97, "male": 0.03}, entropy=0.1),
    )


def test_label_tells_age_interval_and_gender() -> None:
    assert label_lines(answer((0, 0, 9, 9))) == ("31 (25-38)", "female 97%")


@pytest.mark.parametrize("ground", [0, 128, 255])
@pytest.mark.parametrize("size", [(60, 40), (640, 480), (3000, 2000)])
def test_boxes_and_labels_stand_out_on_any_ground(ground: int, size: tuple[int, int]) -> None:
    width, height = size
    pixels = np.full((height, width, 3), ground, np.uint8)
    box = (width * 0.4, height * 0.5, width * 0.6, height * 0.9)
    drawn = np.asarray(Image.open(io.BytesIO(annotated(pixels, [answer(box)], "PNG"))).convert("L"))
    assert drawn.shape == (height, width)
    changed = np.abs(drawn.astype(int) - ground) > 60
    assert changed[:, int(box[0]) - 1 : int(box[0]) + 4].sum() > height * 0.3  # the box's left side
    above = drawn[: int(box[1])]  # the label: white letters on a dark plate
    assert (above > 200).any() and (above < 60).any()


@pytest.mark.parametrize("box", [(-50, -50, 700, 500), (630, 470, 650, 490), (10, 10, 5, 5), (0, 0, 0, 0)])
def test_boxes_that_leave_the_picture_are_drawn_as_far_as_they_go(
    box: tuple[float, float, float, float],
) -> None:
    drawn = annotated(np.zeros((480, 640, 3), np.uint8), [answer(box), answer(box, "male")], "JPEG")
    assert Image.open(io.BytesIO(drawn)).size == (640, 480)


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
