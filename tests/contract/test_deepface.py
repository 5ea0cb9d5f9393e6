"""`POST /deepface/analyze`, called as the documentation of deepface's server does."""

import base64
import json
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import requests
from agegender.keys import ApiKey, Scope
from predictor.app import create_predictor
from predictor.routes.deepface import AnalyzeOptions
from predictor.settings import PredictorSettings
from pydantic import SecretStr

from tests.support.embedder_double import EmbedderDouble
from tests.support.predictor_requests import png
from tests.support.serving import serving

PATH = "/deepface/analyze"
BASE64 = base64.b64encode(png()).decode()
DATA_URL = f"data:image/png;base64,{BASE64}"
ALWAYS = {"region", "face_confidence"}
GENDER = {"gender", "dominant_gender"}


def post(predictor: httpx.Client, body: Any, **options: Any) -> requests.Response:
    return requests.post(str(predictor.base_url.join(PATH)), json=body, timeout=20, **options)


def error_of(answer: requests.Response | httpx.Response, member: str = "error") -> tuple[int, str]:
    body = answer.json()
    assert list(body) == [member] and len(answer.text) < 1000, body
    return answer.status_code, body[member]


def test_answer_agrees_with_our_own(predictor: httpx.Client) -> None:
    answer = post(predictor, {"img": BASE64, "actions": ["age", "gender"]}).json()
    (face,) = answer["results"]
    (own,) = predictor.post("/age-gender", content=png()).json()["images"][0]["faces"]
    assert set(face) == {"age"} | GENDER | ALWAYS
    assert face["age"] == round(own["age"]["mean"])
    shares = {"Woman": own["gender"]["probability"]["female"], "Man": own["gender"]["probability"]["male"]}
    assert face["gender"] == pytest.approx({name: 100 * share for name, share in shares.items()}, abs=0.01)
    assert face["dominant_gender"] == max(shares, key=lambda name: shares[name])
    assert face["region"] == {
        "x": 10,
        "y": 10,
        "w": 80,
        "h": 80,
        "left_eye": [60, 30],
        "right_eye": [30, 30],
    }
    assert face["face_confidence"] == 0.9


@pytest.mark.parametrize(
    ("actions", "members"),
    [
        ({}, {"age"} | GENDER),
        ({"actions": ["age"]}, {"age"}),
        ({"actions": ["gender", "gender"]}, GENDER),
        ({"actions": "age, gender"}, {"age"} | GENDER),
        ({"actions": "('age',)"}, {"age"}),
    ],
)
def test_actions_that_are_not_requested_are_omitted(
    predictor: httpx.Client, actions: dict[str, Any], members: set[str]
) -> None:
    (face,) = post(predictor, {"img": DATA_URL, **actions}).json()["results"]
    assert set(face) == members | ALWAYS


def test_image_is_taken_in_each_form_that_deepface_takes(predictor: httpx.Client) -> None:
    url = str(predictor.base_url.join(PATH))
    expected = post(predictor, {"img": BASE64, "actions": ["age"]}).json()
    fields = {"actions": '["age"]', "enforce_detection": "true"}
    answers = [
        post(
            predictor, {"img": DATA_URL, "actions": ["age"], "detector_backend": "retinaface", "align": True}
        ),
        requests.post(url, files={"img": ("face.png", png())}, data=fields, timeout=20),
        requests.post(url, data={"img": BASE64, **fields}, timeout=20),
        requests.post(url, data={"img": DATA_URL, **fields}, timeout=20),
        requests.post(url, files={"img": (None, BASE64), "actions": (None, "age")}, timeout=20),
        # curl -d, as in README of deepface
        requests.post(
            url,
            data=json.dumps({"img": BASE64, "actions": ["age"]}),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            timeout=20,
        ),
    ]
    assert [answer.json() for answer in answers] == [expected] * len(answers)


def test_option_that_is_null_has_its_default(predictor: httpx.Client) -> None:
    options = dict.fromkeys(AnalyzeOptions.model_fields)
    assert post(predictor, {"img": BASE64, **options}).json() == post(predictor, {"img": BASE64}).json()


def test_members_that_deepface_ignores_are_ignored(predictor: httpx.Client) -> None:
    assert post(predictor, {"img": BASE64, "model_name": "VGG-Face", "silent": True}).status_code == 200


def test_image_without_a_face_is_an_error(predictor: httpx.Client, proxy: EmbedderDouble) -> None:
    proxy.faces = 0
    status, message = error_of(post(predictor, {"img": BASE64}))
    assert status == 400 and "Face could not be detected" in message
    assert "enforce_detection" in message


@pytest.mark.parametrize("detector", ["opencv", "skip"])
@pytest.mark.parametrize("found", [0, 1])
def test_whole_image_is_one_face_without_detection(
    predictor: httpx.Client, proxy: EmbedderDouble, detector: str, found: int
) -> None:
    proxy.faces = found
    options = {"enforce_detection": False, "detector_backend": detector}
    (face,) = post(predictor, {"img": BASE64, **options}).json()["results"]
    region = {name: face["region"][name] for name in "xywh"}
    whole = detector == "skip" or not found
    assert region == ({"x": 0, "y": 0, "w": 100, "h": 100} if whole else {"x": 10, "y": 10, "w": 80, "h": 80})
    assert face["face_confidence"] == (0 if whole else 0.9)
    fields = {"img": BASE64, **{name: str(value) for name, value in options.items()}}
    form = requests.post(str(predictor.base_url.join(PATH)), data=fields, timeout=20)
    assert form.json()["results"] == [face]
    assert len(post(predictor, {"img": BASE64, "detector_backend": "skip"}).json()["results"]) == 1


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"actions": ["age", "emotion"]}, "'emotion' is not estimated"),
        ({"actions": ["race"]}, "'race' is not estimated"),
        ({"actions": ["smile"]}, "'smile'"),
        ({"actions": []}, "''"),
        ({"actions": ["age"] * 20}, "actions"),
        ({"actions": {"age": True}}, "actions"),
        ({"detector_backend": 5}, "detector_backend"),
        ({"anti_spoofing": True}, "anti_spoofing"),
        ({"enforce_detection": "perhaps"}, "enforce_detection"),
    ],
)
def test_option_that_is_not_available_is_an_error_that_names_it(
    predictor: httpx.Client, options: dict[str, Any], part: str
) -> None:
    status, message = error_of(post(predictor, {"img": BASE64, **options}))
    assert status == 400 and part in message and message.startswith("Exception while analyzing: ")


@pytest.mark.parametrize(
    ("image", "part"),
    [
        ("https://example.org/x.jpg", "URL"),
        ("img1.jpg", "path or address 'img1.jpg'"),
        ("/home/somebody/couple.jpg", "path"),
        ("~", "base64"),
        ("data:image/png,abc", "base64"),
        ("", "contains no image"),
    ],
)
def test_image_that_is_not_sent_itself_is_an_error(predictor: httpx.Client, image: str, part: str) -> None:
    status, message = error_of(post(predictor, {"img": image}), "exception")
    assert status == 400 and part in message


@pytest.mark.parametrize(
    ("content", "content_type", "member"),
    [
        (b"", "", "exception"),
        (b"", "application/json", "exception"),
        (b"[]", "application/json", "exception"),
        (b"{", "application/json", "error"),
        (b"{}", "application/json", "error"),
        (b'{"img": ' + b"[" * 10_000, "application/json", "error"),
        (b'{"img": [' + b"0," * 200_000, "application/json", "error"),
        (b"\xff\xfe", "text/plain", "exception"),
        (urlencode([(str(number), "x") for number in range(1000)]).encode(), "", "exception"),
        (b"--edge\r\n", "multipart/form-data", "exception"),
        (b"--edge--\r\n", "multipart/form-data; boundary=edge", "exception"),
    ],
)
def test_bad_body_is_an_error_of_deepface(
    predictor: httpx.Client, content: bytes, content_type: str, member: str
) -> None:
    answer = predictor.post(PATH, content=content, headers={"Content-Type": content_type})
    assert error_of(answer, member)[0] == 400


def test_misnamed_and_several_files_are_errors(predictor: httpx.Client) -> None:
    answer = predictor.post(PATH, files={"image": png()})
    assert "'image'" in error_of(answer, "exception")[1]
    answer = predictor.post(PATH, files=[("img", png()), ("img", png())])
    assert error_of(answer, "exception")[0] == 413


def test_unreadable_image_is_an_error(predictor: httpx.Client, proxy: EmbedderDouble) -> None:
    proxy.broken = lambda image: True
    answer = predictor.post(PATH, files={"img": b"not an image"})
    assert error_of(answer) == (400, "Exception while analyzing: on purpose")


def test_image_above_the_limit_is_an_error(settings: PredictorSettings) -> None:
    small = settings.model_copy(update={"max_image_bytes": 1000})
    with serving(create_predictor(small)) as url:
        assert error_of(httpx.post(url + PATH, json={"img": "A" * 200_000}))[0] == 413
        assert error_of(httpx.post(url + PATH, files={"img": b"x" * 200_000}))[0] == 413


@pytest.mark.parametrize(("fault", "status"), [("busy", 429), ("503", 503)])
def test_full_and_failing_services_are_errors(
    predictor: httpx.Client, proxy: EmbedderDouble, fault: str, status: int
) -> None:
    proxy.fault = fault
    assert error_of(post(predictor, {"img": BASE64}))[0] == status


def test_other_routes_of_deepface_are_not_found_by_name(predictor: httpx.Client) -> None:
    status, message = error_of(predictor.post("/deepface/verify", json={"img1": BASE64, "img2": BASE64}))
    assert status == 404 and "/deepface/verify" in message


def test_token_of_deepface_is_our_key(settings: PredictorSettings) -> None:
    predict, secret = ApiKey.new("camera", [Scope.PREDICT])
    train, other = ApiKey.new("trainer", [Scope.TRAIN])
    changes: dict[str, Any] = {"api_keys": (predict, train), "service_key": SecretStr("a secret of its own")}
    with serving(create_predictor(settings.model_copy(update=changes))) as url:
        for key, status in ((secret, 200), ("wrong", 401), (other, 403)):
            headers = {"Authorization": f"Bearer {key}"}
            answer = requests.post(url + PATH, json={"img": BASE64}, headers=headers, timeout=20)
            assert answer.status_code == status
            if status != 200:
                error_of(answer, "message")
