"""The original's client against the system as `make up` starts it, in a space of 512 dimensions."""

import re

import httpx
import numpy as np
import pytest

from tests.support.system import SIX_ADULTS, picture
from tools.original_client import ask_ages_and_genders, ask_faces, recorded
from tools.stack import Stack


@pytest.fixture
def stack(buffalo_system: Stack) -> Stack:
    return buffalo_system


def test_client_gets_arrays_and_dicts_that_agree_with_our_own_answer(stack: Stack) -> None:
    image = SIX_ADULTS.read_bytes()
    asked = ask_faces(f"{stack.url('embedder-proxy')}/", image)
    assert asked.status == 200, asked.text
    faces = asked.decoded["face_detection_recognition"]
    for face in faces:
        shapes = [face[name].shape for name in ("bbox", "landmark", "normed_embedding")]
        assert shapes == [(4,), (5, 2), (512,)]
        assert face["normed_embedding"].dtype == np.float32 and 0 < face["det_score"] <= 1
    asked = ask_ages_and_genders(f"{stack.url('predictor')}/", faces)
    assert asked.status == 200, asked.text
    answered = asked.decoded
    assert [set(age) for age in answered["ages"]] == [{"mean", "entropy"}] * 6
    assert [set(gender) for gender in answered["genders"]] == [{"m", "f", "entropy"}] * 6

    ours = httpx.post(f"{stack.url('predictor')}/age-gender", content=image, timeout=60).json()
    for face, age, gender, own in zip(
        faces, answered["ages"], answered["genders"], ours["images"][0]["faces"], strict=True
    ):
        assert face["bbox"].tolist() == own["bbox"]
        assert age["mean"] == pytest.approx(own["age"]["mean"], abs=0.02)
        assert gender["f"] == pytest.approx(own["gender"]["probability"]["female"], abs=1e-3)


def test_picture_without_a_face_is_answered_as_the_client_expects(stack: Stack) -> None:
    asked = ask_faces(f"{stack.url('embedder-proxy')}/", picture("PNG"))
    faces = asked.decoded["face_detection_recognition"]
    assert faces == []
    none = ask_ages_and_genders(f"{stack.url('predictor')}/", faces)
    assert none.decoded == {"ages": [], "genders": []}


def test_recording_reports_the_whole_session_and_holds_no_embedding(stack: Stack) -> None:
    text = recorded(stack.url("embedder-proxy"), stack.url("predictor"))
    assert "faces[0]['normed_embedding']: ndarray float32 [512]" in text
    assert '"entropy"' in text and "unreadable-message" in text
    assert not re.search(r"(-?\d+\.\d+(e-\d+)?,\s*){5}", text)
    assert len(text) < 6000
