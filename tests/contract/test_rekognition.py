"""`POST /rekognition`, called by boto3: what it answers, and which exception it raises."""

import base64
import datetime
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from agegender.keys import ApiKey, Scope
from agegender_service.settings import UnusableSettings, read_settings
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from predictor.app import create_predictor
from predictor.aws_signatures import AwsCredential
from predictor.settings import PredictorSettings
from pydantic import SecretStr

from tests.support.aws import ACCESS_KEY_ID, SECRET_ACCESS_KEY, rekognition
from tests.support.embedder_double import EmbedderDouble
from tests.support.predictor_requests import png
from tests.support.redis_server import redis_server
from tests.support.serving import serving

TARGET = {"X-Amz-Target": "RekognitionService.DetectFaces", "Content-Type": "application/x-amz-json-1.1"}
PREDICT, PREDICT_SECRET = ApiKey.new("camera", [Scope.PREDICT])
TRAIN, _ = ApiKey.new("trainer", [Scope.TRAIN])
TRAIN_CREDENTIAL = AwsCredential("AGEGENDERTRAIN", SECRET_ACCESS_KEY, "trainer")
DEFAULT = {"BoundingBox", "Landmarks", "Pose", "Quality", "Confidence"}


@contextmanager
def keyed(settings: PredictorSettings, **changes: Any) -> Iterator[str]:
    """A predictor with two keys and an access key for each."""
    camera = AwsCredential(ACCESS_KEY_ID, SECRET_ACCESS_KEY, "camera")
    guarded = settings.model_copy(
        update={
            "api_keys": (PREDICT, TRAIN),
            "service_key": SecretStr("the services' own secret"),
            "rekognition_credentials": (camera, TRAIN_CREDENTIAL),
            **changes,
        }
    )
    with serving(create_predictor(guarded)) as url:
        yield url


def error_of(call: Any, **arguments: Any) -> ClientError:
    with pytest.raises(ClientError) as raised:
        call(**arguments)
    return raised.value


def code_of(call: Any, **arguments: Any) -> str:
    return str(error_of(call, **arguments).response["Error"]["Code"])


def url_of(predictor: httpx.Client) -> str:
    return str(predictor.base_url).rstrip("/")


def test_all_attributes_agree_with_our_own_answer(predictor: httpx.Client, proxy: EmbedderDouble) -> None:
    proxy.sharpness = 21.5
    answer = rekognition(url_of(predictor)).detect_faces(Image={"Bytes": png()}, Attributes=["ALL"])
    own = predictor.post("/age-gender", content=png()).json()["images"][0]["faces"][0]
    (face,) = answer["FaceDetails"]
    assert set(face) == DEFAULT | {"AgeRange", "Gender"}
    assert answer["OrientationCorrection"] == "ROTATE_0"
    assert face["BoundingBox"] == pytest.approx({"Width": 0.8, "Height": 0.8, "Left": 0.1, "Top": 0.1})
    low, high = own["age"]["interval"]
    ages = face["AgeRange"]
    assert (ages["Low"], ages["High"]) == (int(low // 1), -int(-high // 1))
    label = own["gender"]["label"]
    assert face["Gender"]["Value"] == label.capitalize()
    assert face["Gender"]["Confidence"] == pytest.approx(100 * own["gender"]["probability"][label], abs=0.01)
    assert face["Confidence"] == pytest.approx(90)
    assert {mark["Type"]: (mark["X"], mark["Y"]) for mark in face["Landmarks"]} == {
        "eyeLeft": (0.3, 0.3),
        "eyeRight": (0.6, 0.3),
        "nose": (0.45, 0.5),
        "mouthLeft": (0.35, 0.7),
        "mouthRight": (0.55, 0.7),
    }
    assert face["Pose"] == {"Roll": 0, "Yaw": 0, "Pitch": 0}
    assert face["Quality"] == {"Sharpness": pytest.approx(50)}
    assert answer["ResponseMetadata"]["RequestId"]


@pytest.mark.parametrize(
    ("attributes", "more"),
    [
        ({}, set()),
        ({"Attributes": ["DEFAULT"]}, set()),
        ({"Attributes": ["AGE_RANGE"]}, {"AgeRange"}),
        ({"Attributes": ["DEFAULT", "GENDER"]}, {"Gender"}),
        ({"Attributes": ["ALL", "DEFAULT"]}, {"AgeRange", "Gender"}),
    ],
)
def test_attributes_that_are_not_requested_are_omitted(
    predictor: httpx.Client, attributes: dict[str, Any], more: set[str]
) -> None:
    answer = rekognition(url_of(predictor)).detect_faces(Image={"Bytes": png()}, **attributes)
    assert set(answer["FaceDetails"][0]) == DEFAULT | more


def test_image_on_its_side_is_answered_with_the_turn_that_makes_it_upright(
    predictor: httpx.Client, proxy: EmbedderDouble
) -> None:
    proxy.rotation = 90
    answer = rekognition(url_of(predictor)).detect_faces(Image={"Bytes": png()})
    assert answer["OrientationCorrection"] == "ROTATE_90"
    (face,) = answer["FaceDetails"]
    assert face["Pose"] == pytest.approx({"Roll": -90, "Yaw": 0, "Pitch": 0}, abs=1e-6)


def test_unreadable_images_raise_the_exception_of_the_sdk(
    predictor: httpx.Client, proxy: EmbedderDouble
) -> None:
    client = rekognition(url_of(predictor))
    proxy.broken = lambda image: True
    with pytest.raises(client.exceptions.InvalidImageFormatException):
        client.detect_faces(Image={"Bytes": b"not an image"})


def test_image_above_the_limit_raises_the_exception_of_the_sdk(settings: PredictorSettings) -> None:
    small = settings.model_copy(update={"max_image_bytes": 1000})
    with serving(create_predictor(small)) as url:
        client = rekognition(url)
        with pytest.raises(client.exceptions.ImageTooLargeException):
            client.detect_faces(Image={"Bytes": b"x" * 200_000})


def test_s3_objects_unknown_attributes_and_other_operations_are_rejected_by_name(
    predictor: httpx.Client,
) -> None:
    client = rekognition(url_of(predictor))
    with pytest.raises(client.exceptions.InvalidS3ObjectException, match="S3Object"):
        client.detect_faces(Image={"S3Object": {"Bucket": "photographs", "Name": "t1.jpg"}})
    with pytest.raises(client.exceptions.InvalidParameterException, match="'SMILE'"):
        client.detect_faces(Image={"Bytes": png()}, Attributes=["ALL", "SMILE"])
    error = error_of(client.detect_labels, Image={"Bytes": png()})
    assert error.response["Error"]["Code"] == "UnknownOperationException"
    assert "RekognitionService.DetectLabels" in str(error)


@pytest.mark.parametrize(
    ("content", "headers", "name"),
    [
        (b"", {}, "InvalidParameterException"),
        (b"{", {}, "InvalidParameterException"),
        (b"[]", {}, "InvalidParameterException"),
        (b'{"Image": {}}', {}, "InvalidParameterException"),
        (b'{"Image": {"Bytes": ""}}', {}, "InvalidParameterException"),
        (b'{"Image": {"Bytes": "~"}}', {}, "InvalidParameterException"),
        (b'{"Image": {"Bytes": "https://example.org/x.jpg"}}', {}, "InvalidParameterException"),
        (b'{"Image": {"Bytes": "eA=="}, "Faces": 1}', {}, "InvalidParameterException"),
        (b"[" * 10_000, {}, "InvalidParameterException"),
        (b"{}", {"X-Amz-Target": "x" * 5000}, "UnknownOperationException"),
        (b"{}", {"X-Deadline-Ms": "soon"}, "InvalidParameterException"),
    ],
)
def test_bad_body_is_an_error_that_sdks_understand(
    predictor: httpx.Client, content: bytes, headers: dict[str, str], name: str
) -> None:
    for path in ("/rekognition", "/rekognition/"):
        answer = predictor.post(path, content=content, headers=TARGET | headers)
        assert (answer.status_code, answer.json()["__type"]) == (400, name), answer.text
        assert answer.headers["content-type"] == "application/x-amz-json-1.1"
        assert answer.json()["message"] and len(answer.text) < 1000
    assert predictor.get("/rekognition").json()["__type"] == "InvalidParameterException"


@pytest.mark.parametrize(("fault", "name"), [("busy", "ThrottlingException"), ("503", "InternalServerError")])
def test_full_and_failing_services_raise_what_sdks_retry(
    predictor: httpx.Client, proxy: EmbedderDouble, fault: str, name: str
) -> None:
    client = rekognition(url_of(predictor))
    proxy.fault = fault
    with pytest.raises(getattr(client.exceptions, name)):
        client.detect_faces(Image={"Bytes": png()})


def test_signature_of_a_known_access_key_is_accepted(settings: PredictorSettings) -> None:
    with keyed(settings) as url:
        assert len(rekognition(url).detect_faces(Image={"Bytes": png()})["FaceDetails"]) == 1
        token = {**TARGET, "Authorization": f"Bearer {PREDICT_SECRET}"}
        body = {"Image": {"Bytes": base64.b64encode(png()).decode()}}
        assert httpx.post(f"{url}/rekognition", json=body, headers=token).status_code == 200


def test_wrong_credentials_raise_what_amazon_would(settings: PredictorSettings) -> None:
    with keyed(settings) as url:
        image = {"Bytes": png()}
        assert (
            code_of(rekognition(url, secret="wrong").detect_faces, Image=image) == "InvalidSignatureException"
        )
        assert code_of(rekognition(url, "NOBODY").detect_faces, Image=image) == "UnrecognizedClientException"
        other = rekognition(url, TRAIN_CREDENTIAL.access_key_id)
        with pytest.raises(other.exceptions.AccessDeniedException, match="scope"):
            other.detect_faces(Image=image)
        answer = httpx.post(f"{url}/rekognition", json={}, headers=TARGET)
        assert answer.json()["__type"] == "MissingAuthenticationTokenException"


def signed(url: str, body: bytes, *, path: str = "/rekognition", service: str = "rekognition") -> Any:
    """A request that botocore signed."""
    request = AWSRequest("POST", url + path, headers=dict(TARGET), data=body)
    SigV4Auth(Credentials(ACCESS_KEY_ID, SECRET_ACCESS_KEY), service, "eu-central-1").add_auth(request)
    return request.prepare()


def type_of(url: str, headers: Any, body: bytes) -> str:
    sent = {name: value for name, value in dict(headers).items() if name.lower() != "content-length"}
    answer = httpx.post(url, headers=sent, content=body)
    return str(answer.json().get("__type", answer.status_code))


def test_signature_covers_path_headers_and_body(settings: PredictorSettings) -> None:
    body = json.dumps({"Image": {"Bytes": base64.b64encode(png()).decode()}}).encode()
    with keyed(settings) as url:
        good = signed(url, body)
        assert type_of(good.url, good.headers, body) == "200"
        assert type_of(good.url, good.headers, body + b" ") == "InvalidSignatureException"
        assert type_of(good.url + "/", good.headers, body) == "InvalidSignatureException"
        sha256 = {"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}
        assert type_of(good.url, {**good.headers, **sha256}, body + b" ") == "InvalidSignatureException"
        other = signed(url, body, service="s3")
        assert type_of(other.url, other.headers, body) == "InvalidSignatureException"
        slash = signed(url, body, path="/rekognition/")
        assert type_of(slash.url, slash.headers, body) == "200"


@pytest.mark.parametrize(
    "authorization",
    [
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=a/b/c, SignedHeaders=, Signature=",
        "AWS4-ECDSA-P256-SHA256 Credential=x",
        "AWS4-HMAC-SHA256 " + "x" * 20_000,
        f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY_ID}/20200101/x/rekognition/aws4_request, "
        "SignedHeaders=host;x-amz-date, Signature=" + "0" * 64,
        f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY_ID}/20200101/x/rekognition/aws4_request, "
        "SignedHeaders=x-amz-date, Signature=" + "0" * 64,
    ],
)
def test_malformed_signature_is_rejected(settings: PredictorSettings, authorization: str) -> None:
    with keyed(settings) as url:
        headers = {**TARGET, "Authorization": authorization}
        assert type_of(f"{url}/rekognition", headers, b"{}") == "InvalidSignatureException"


@pytest.mark.parametrize(("minutes", "accepted"), [(-6, False), (-4, True), (4, True), (6, False)])
def test_clock_may_differ_by_five_minutes(
    settings: PredictorSettings, monkeypatch: pytest.MonkeyPatch, minutes: int, accepted: bool
) -> None:
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=minutes)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: now.replace(tzinfo=None))
    with keyed(settings) as url:
        call = rekognition(url).detect_faces
        if accepted:
            assert call(Image={"Bytes": png()})["FaceDetails"]
        else:
            error = error_of(call, Image={"Bytes": png()})
            assert error.response["Error"]["Code"] == "InvalidSignatureException"
            assert "5 minutes" in str(error)


def test_claimed_access_key_opens_no_other_route(settings: PredictorSettings) -> None:
    with keyed(settings) as url:
        for path in ("/age-gender", "/models/refresh", "/rekognition/../models/refresh"):
            target = httpx.URL(url).copy_with(raw_path=path.encode())
            answer = httpx.post(target, headers=dict(signed(url, b"", path=path).headers))
            assert answer.status_code in (401, 403, 404), path


@pytest.mark.parametrize(
    "value", ["AKID", "AKID:short:camera", f"AKID:{SECRET_ACCESS_KEY}:", f"AKID:{SECRET_ACCESS_KEY}:nobody"]
)
def test_credentials_that_cannot_work_are_rejected_at_start_without_their_secrets(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REKOGNITION_CREDENTIALS", value)
    with pytest.raises(UnusableSettings):
        read_settings(PredictorSettings)
    message = capsys.readouterr().err
    assert "REKOGNITION_CREDENTIALS" in message
    assert not any(secret in message for secret in (SECRET_ACCESS_KEY, "short"))


def test_wrong_signatures_do_not_use_up_the_rate_of_the_key_they_claim(
    settings: PredictorSettings, tmp_path: Path
) -> None:
    with (
        redis_server(tmp_path) as redis,
        keyed(settings, rate_limit="2/minute", redis_url=redis.url) as url,
    ):
        thief = rekognition(url, secret="wrong")
        codes = [code_of(thief.detect_faces, Image={"Bytes": png()}) for _ in range(3)]
        assert codes == ["InvalidSignatureException"] * 2 + ["ThrottlingException"]
        bearer = {"Authorization": f"Bearer {PREDICT_SECRET}"}
        assert httpx.post(f"{url}/age-gender", content=png(), headers=bearer).status_code == 200
