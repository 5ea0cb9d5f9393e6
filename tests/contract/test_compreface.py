"""`POST /compreface/api/v1/detection/detect`, called by CompreFace's SDKs for Python and JavaScript."""

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from agegender.keys import ApiKey, Scope
from predictor.app import create_predictor
from predictor.settings import PredictorSettings
from pydantic import SecretStr

from tests.support.compreface import detect_with_javascript, detect_with_python
from tests.support.embedder_double import EmbedderDouble
from tests.support.predictor_requests import png
from tests.support.serving import serving

PATH = "/compreface/api/v1/detection/detect"
ALL = {"face_plugins": "age,gender,landmarks,calculator", "status": "true"}
NO_FACE = {"message": "No face is found in the given image", "code": 28}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "face.png"
    path.write_bytes(png())
    return path


def url_of(predictor: httpx.Client) -> str:
    return str(predictor.base_url).rstrip("/")


def post(predictor: httpx.Client, query: str = "", **files: bytes) -> httpx.Response:
    return predictor.post(PATH + query, files=files or {"file": png()})


def error_of(answer: httpx.Response) -> tuple[int, int]:
    body = answer.json()
    assert set(body) == {"message", "code"} and body["message"] and len(answer.text) < 1000
    return answer.status_code, body["code"]


def test_answer_agrees_with_our_own(predictor: httpx.Client) -> None:
    answer = predictor.post(PATH, params=ALL, files={"file": png()}).json()
    own = predictor.post("/age-gender?embeddings=true", content=png()).json()
    (face,) = answer["result"]
    (expected,) = own["images"][0]["faces"]
    assert face["box"] == {"probability": 0.9, "x_min": 10, "y_min": 10, "x_max": 90, "y_max": 90}
    low, high = expected["age"]["interval"]
    assert face["age"] == {"probability": 0.9, "low": int(low // 1), "high": -int(-high // 1)}
    label = expected["gender"]["label"]
    probability = expected["gender"]["probability"][label]
    assert face["gender"]["value"] == label
    assert face["gender"]["probability"] == pytest.approx(probability, abs=1e-4)
    assert face["landmarks"] == [[30, 30], [60, 30], [45, 50], [35, 70], [55, 70]]
    assert face["embedding"] == pytest.approx(expected["embedding"], abs=1e-6)
    times = face["execution_time"]
    assert times["detector"] == 3 and times["calculator"] == 4 and times["age"] == times["gender"] > 0
    versions = answer["plugins_versions"]
    space = own["space"]["id"]
    assert versions["detector"] == versions["calculator"] == space
    assert versions["age"] == f"{space}.{own['models']['age']}"


@pytest.mark.parametrize(
    ("query", "members"),
    [
        ("", set()),
        ("?face_plugins=", set()),
        ("?face_plugins=age, landmarks", {"age", "landmarks"}),
        ("?face_plugins=gender&status=false", {"gender"}),
        ("?&face_plugins=gender", {"gender"}),
        ("?&status=True", {"execution_time"}),
        # As the SDK for JavaScript writes options without `limit`.
        ("?det_prob_threshold=0.2?face_plugins=age?status=true", {"age", "execution_time"}),
    ],
)
def test_plugins_that_are_not_requested_are_omitted(
    predictor: httpx.Client, query: str, members: set[str]
) -> None:
    answer = post(predictor, query)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()["result"][0]) == {"box"} | members
    assert ("plugins_versions" in answer.json()) == ("execution_time" in members)


def test_limit_and_threshold_select_faces_as_in_compreface(
    predictor: httpx.Client, proxy: EmbedderDouble
) -> None:
    proxy.faces = 3
    assert len(post(predictor, "?limit=0").json()["result"]) == 3
    assert len(post(predictor, "?limit=2").json()["result"]) == 2
    assert len(post(predictor, "?det_prob_threshold=0.9").json()["result"]) == 3
    nobody = post(predictor, "?det_prob_threshold=0.91")
    assert (nobody.status_code, nobody.json()) == (400, NO_FACE)


def test_sdk_for_python_is_answered(
    predictor: httpx.Client, proxy: EmbedderDouble, image: Path, tmp_path: Path
) -> None:
    """With the options of its documentation's example, whose query begins with `?&`."""
    options = {
        "limit": 0,
        "det_prob_threshold": 0.8,
        "prediction_count": 1,
        "face_plugins": "age,gender",
        "status": "true",
    }
    answer = detect_with_python(url_of(predictor), image, options)
    (face,) = answer["result"]
    assert set(face) == {"box", "age", "gender", "execution_time"}
    proxy.faces = 0
    image.write_bytes(png("red"))
    assert detect_with_python(url_of(predictor), image, options) == NO_FACE
    proxy.broken = lambda content: True
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    assert detect_with_python(url_of(predictor), broken, options)["code"] == 21


@pytest.mark.parametrize("form", ["path", "blob", "base64"])
def test_sdk_for_javascript_is_answered_however_it_sends_the_image(
    predictor: httpx.Client, image: Path, form: str
) -> None:
    options = {"limit": 0, "det_prob_threshold": 0.8, "face_plugins": "age,gender", "status": "true"}
    for sent in (options, {key: value for key, value in options.items() if key != "limit"}):
        answer = detect_with_javascript(url_of(predictor), image, form, sent)
        (face,) = answer["result"]
        assert set(face) == {"box", "age", "gender", "execution_time"}


def test_sdk_for_javascript_rejects_its_promise_for_bad_images(
    predictor: httpx.Client, proxy: EmbedderDouble, image: Path
) -> None:
    proxy.broken = lambda content: True
    assert detect_with_javascript(url_of(predictor), image, "blob", {}) == {
        "status": 400,
        "data": {"message": "on purpose", "code": 21},
    }


BASE64 = base64.b64encode(png()).decode()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"file": ""}, (400, 33)),
        ({"file": "~"}, (400, 26)),
        ({"file": "https://example.org/x.jpg"}, (400, 26)),
        ({"file": 5}, (400, 26)),
        ({"files": BASE64}, (400, 26)),
        ([], (400, 26)),
    ],
)
def test_bad_json_is_an_error_of_compreface(
    predictor: httpx.Client, body: object, error: tuple[int, int]
) -> None:
    assert predictor.post(PATH, json={"file": BASE64}).status_code == 200
    assert error_of(predictor.post(PATH, json=body)) == error


@pytest.mark.parametrize(
    ("content", "content_type", "error"),
    [
        (b"", "multipart/form-data", (400, 26)),
        (b"-" * 5000, "multipart/form-data", (400, 26)),
        (b"--edge\r\n", "multipart/form-data", (400, 26)),
        (b"--edge--\r\n", "multipart/form-data; boundary=edge", (400, 33)),
        (b"{", "application/json", (400, 26)),
        (b"[" * 10_000, "application/json", (400, 26)),
        (png(), "image/png", (400, 33)),
        (b"", "", (400, 33)),
    ],
)
def test_bad_body_is_an_error_of_compreface(
    predictor: httpx.Client, content: bytes, content_type: str, error: tuple[int, int]
) -> None:
    answer = predictor.post(PATH, content=content, headers={"Content-Type": content_type})
    assert error_of(answer) == error


@pytest.mark.parametrize(
    "query",
    [
        "?limit=-1",
        "?limit=many",
        "?det_prob_threshold=2",
        "?face_plugins=mask",
        "?face_plugins=age,smile",
        "?status=perhaps",
        "?limits=1",
        "?limit=1&limit=2",
        "?limit=1?limit=2",
    ],
)
def test_bad_option_is_an_error_of_compreface_that_names_it(predictor: httpx.Client, query: str) -> None:
    answer = post(predictor, query)
    assert error_of(answer) == (400, 26)
    name, _, value = query[1:].partition("=")
    message = answer.json()["message"]
    assert name in message and (name != "face_plugins" or value.rpartition(",")[2] in message)


def test_misnamed_and_several_images_are_rejected(predictor: httpx.Client) -> None:
    assert "'image'" in post(predictor, image=png()).json()["message"]
    answer = predictor.post(PATH, files=[("file", png()), ("file", png())])
    assert error_of(answer) == (413, 0)


def test_image_above_the_limit_is_an_error_of_compreface(settings: PredictorSettings) -> None:
    small = settings.model_copy(update={"max_image_bytes": 1000})
    with serving(create_predictor(small)) as url:
        large = {"file": b"x" * 200_000}
        assert error_of(httpx.post(url + PATH, files=large)) == (413, 0)
        text = json.dumps({"file": "A" * 200_000})
        headers = {"Content-Type": "application/json"}
        assert error_of(httpx.post(url + PATH, content=text, headers=headers)) == (413, 0)


@pytest.mark.parametrize(("fault", "error"), [("busy", (429, 0)), ("503", (503, 41))])
def test_full_and_failing_services_are_errors_of_compreface(
    predictor: httpx.Client, proxy: EmbedderDouble, fault: str, error: tuple[int, int]
) -> None:
    proxy.fault = fault
    assert error_of(post(predictor)) == error


def test_other_services_of_compreface_are_not_found_by_name(predictor: httpx.Client) -> None:
    answer = predictor.post("/compreface/api/v1/recognition/recognize", files={"file": png()})
    assert error_of(answer) == (404, 0) and "recognition/recognize" in answer.json()["message"]


def test_key_of_the_sdk_is_ours(settings: PredictorSettings, image: Path) -> None:
    predict, secret = ApiKey.new("camera", [Scope.PREDICT])
    train, other = ApiKey.new("trainer", [Scope.TRAIN])
    changes: dict[str, Any] = {"api_keys": (predict, train), "service_key": SecretStr("a secret of its own")}
    with serving(create_predictor(settings.model_copy(update=changes))) as url:
        assert len(detect_with_python(url, image, {}, key=secret)["result"]) == 1
        for key, error in (("wrong", (401, 20)), (other, (403, 0))):
            answer = httpx.post(url + PATH, files={"file": png()}, headers={"x-api-key": key})
            assert error_of(answer) == error
        assert error_of(httpx.post(url + PATH, files={"file": png()})) == (401, 20)
