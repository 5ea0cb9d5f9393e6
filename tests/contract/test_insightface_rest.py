"""`POST /insightface-rest/extract`, in the forms in which InsightFace-REST's clients call it."""

import base64
from typing import Any

import agegender
import httpx
import msgpack
import pytest
from agegender.keys import ApiKey, Scope
from agegender_service.inputs import body_schema
from predictor.app import create_predictor
from predictor.routes.insightface_rest import ExtractRequest
from predictor.settings import PredictorSettings
from pydantic import SecretStr

from tests.support.embedder_double import SPACE, EmbedderDouble
from tests.support.insightface_rest import extract, extract_packed
from tests.support.predictor_requests import png
from tests.support.serving import serving

PATH = "/insightface-rest/extract"
BASE64 = base64.b64encode(png()).decode()
BROKEN = b"not an image"
PACKED = {"Content-Type": "application/msgpack"}
# What the clients read of a face. Their data class requires each member.
MEMBERS = {"num_det", "prob", "size", "bbox", "landmarks", "norm", "vec", "facedata", "gender", "age"}


def base_of(predictor: httpx.Client) -> str:
    return str(predictor.base_url.join("/insightface-rest"))


def post(predictor: httpx.Client, **members: Any) -> httpx.Response:
    return predictor.post(PATH, json={"images": {"data": [BASE64]}, **members})


def face_of(answer: Any) -> dict[str, Any]:
    (image,) = answer["data"]
    assert image["status"] == "ok" and image["took_ms"] > 0
    (face,) = image["faces"]
    assert set(face) >= MEMBERS
    return dict(face)


def error_of(answer: httpx.Response) -> tuple[int, str]:
    assert set(answer.json()) == {"detail"} and len(answer.text) < 1000
    return answer.status_code, answer.json()["detail"]


def test_answer_agrees_with_our_own(predictor: httpx.Client) -> None:
    answer = extract(base_of(predictor), [png()], use_msgpack=False, extract_ga=True, return_landmarks=True)
    own = predictor.post("/age-gender?embeddings=true", content=png()).json()["images"][0]["faces"][0]
    face = face_of(answer)
    assert answer["took"]["total_ms"] > 0
    assert (face["num_det"], face["bbox"], face["size"], face["prob"]) == (0, [10, 10, 90, 90], 80, 0.9)
    assert face["landmarks"] == [[30, 30], [60, 30], [45, 50], [35, 70], [55, 70]]
    assert face["age"] == round(own["age"]["mean"])
    assert face["gender"] == ["female", "male"].index(own["gender"]["label"])
    assert face["vec"] == pytest.approx(own["embedding"], abs=1e-6)
    assert face["norm"] is face["facedata"] is face["mask"] is None


def test_both_clients_get_the_same_faces_in_messagepack_and_json(predictor: httpx.Client) -> None:
    url, options = base_of(predictor), {"extract_ga": True}
    plain = face_of(extract(url, [png()], use_msgpack=False, **options))
    for answer in (
        extract(url, [png()], use_msgpack=True, **options),
        extract_packed(url, [png()], **options),
        extract_packed(url, [base64.b64encode(png()).decode()], **options),  # type: ignore[list-item]
    ):
        face = face_of(answer)
        assert face.pop("vec") == pytest.approx(plain["vec"], abs=1e-6)
        assert face.pop("prob") == pytest.approx(plain["prob"])
        assert face == {name: value for name, value in plain.items() if name in face}


def test_age_gender_embedding_and_landmarks_are_absent_unless_requested(predictor: httpx.Client) -> None:
    face = face_of(post(predictor).json())
    assert len(face["vec"]) == 512
    assert face["age"] is face["gender"] is face["landmarks"] is None
    assert face_of(post(predictor, extract_embedding=False).json())["vec"] is None


def test_options_select_faces_as_in_insightface_rest(predictor: httpx.Client, proxy: EmbedderDouble) -> None:
    proxy.faces = 3

    def count(**options: Any) -> int:
        return len(post(predictor, **options).json()["data"][0]["faces"])

    assert [count(), count(limit_faces=0), count(limit_faces=2)] == [3, 3, 2]
    assert [count(threshold=0.91), count(min_face_size=80), count(min_face_size=81)] == [0, 3, 0]


def test_detector_threshold_is_that_of_insightface_rest_unless_sent(
    predictor: httpx.Client, proxy: EmbedderDouble
) -> None:
    post(predictor)
    post(predictor, threshold=0.2)
    assert [query["min_det_score"] for query in proxy.queries[-2:]] == ["0.6", "0.2"]


@pytest.mark.parametrize("found", [0, 2])
def test_each_image_is_a_face_with_embed_only(
    predictor: httpx.Client, proxy: EmbedderDouble, found: int
) -> None:
    """The clients send it with the detector's threshold, which InsightFace-REST then ignores."""
    proxy.faces = found
    proxy.broken = lambda image: image == BROKEN
    url, images = base_of(predictor), [png(size=(112, 112)), BROKEN, png(size=(60, 80))]
    options = {"embed_only": True, "extract_ga": True, "min_face_size": 500}
    answers = [
        extract(url, images, use_msgpack=False, **options),
        extract_packed(url, images, **options),
    ]
    for answer in answers:
        assert [image["status"] for image in answer["data"]] == ["ok", "failed", "ok"]
        (first,), _, (last,) = (image["faces"] for image in answer["data"])
        assert (first["prob"], first["bbox"], first["size"]) == (1, [0, 0, 112, 112], 112)
        assert (last["bbox"], last["size"], len(last["vec"])) == ([0, 0, 60, 80], 60, 512)
        assert first["age"] is not None and set(first) >= MEMBERS


def test_information_has_what_the_client_prints(predictor: httpx.Client) -> None:
    """The members that `IFRClient.server_info` reads."""
    about = predictor.get("/insightface-rest/info").json()
    assert set(about["models"]) >= {
        "inference_backend",
        "det_name",
        "rec_name",
        "rec_batch_size",
        "det_batch_size",
        "max_size",
    }
    assert about["models"]["det_name"] == about["models"]["rec_name"] == SPACE.id
    assert about["defaults"]["det_thresh"] == 0.6
    assert (about["defaults"]["extract_embedding"], about["defaults"]["extract_ga"]) == (True, False)
    assert about["version"] == agegender.__version__


def test_failed_images_stand_in_the_place_of_an_answer(
    predictor: httpx.Client, proxy: EmbedderDouble
) -> None:
    proxy.broken = lambda image: image == BROKEN
    answer = extract(base_of(predictor), [BROKEN, png()], use_msgpack=True)
    assert [image["status"] for image in answer["data"]] == ["failed", "ok"]
    assert answer["data"][0]["traceback"] == "on purpose"
    for data in (["~"], ["https://example.org/x.jpg"], ["~", BASE64]):
        failed = predictor.post(PATH, json={"images": {"data": data}}).json()["data"][0]
        assert failed["status"] == "failed" and failed["faces"] == [] and failed["traceback"]


def test_verbose_timings_are_those_of_insightface_rest(predictor: httpx.Client) -> None:
    took = post(predictor, verbose_timings=True).json()["took"]
    assert set(took) == {"total_ms", "read_imgs_ms", "embed_all_ms"}


def test_members_that_insightface_rest_ignores_are_ignored(predictor: httpx.Client) -> None:
    assert post(predictor, max_size=[640, 480], api_ver="2", img_req_headers={}).status_code == 200


@pytest.mark.parametrize("option", sorted(ExtractRequest.model_fields.keys() - {"images"}))
def test_option_that_is_null_has_its_default(predictor: httpx.Client, option: str) -> None:
    """InsightFace-REST declares every option as optional, and clients send null for those without a value."""
    body = {"images": {"data": [BASE64], "urls": None}, option: None}
    expected = face_of(post(predictor).json())
    assert face_of(predictor.post(PATH, json=body).json()) == expected
    packed = predictor.post(PATH, content=msgpack.dumps(body), headers={**PACKED, "Accept": "*/*"})
    assert face_of(packed.json()) == expected


def test_null_is_documented_for_options_alone() -> None:
    schema = body_schema(ExtractRequest)["properties"]
    assert "anyOf" not in schema.pop("images")
    assert all({"type": "null"} in option["anyOf"] for option in schema.values())


@pytest.mark.parametrize(
    "options",
    [
        {"return_face_data": True},
        {"embed_only": "perhaps"},
        {"detect_masks": True},
        {"threshold": 2},
        {"threshold": "high"},
        {"limit_faces": -1},
        {"min_face_size": -1},
        {"extract_ga": "perhaps"},
    ],
)
def test_option_that_is_not_available_is_an_error_that_names_it(
    predictor: httpx.Client, options: dict[str, Any]
) -> None:
    status, detail = error_of(post(predictor, **options))
    assert status == 422 and next(iter(options)) in detail


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"images": {}}, 400),
        ({"images": {"data": []}}, 400),
        ({"images": {"data": [5]}}, 422),
        ({"images": {"data": BASE64}}, 422),
        ({"images": {"urls": ["http://example.org/x.jpg"]}}, 422),
        ({"images": {"data": [BASE64] * 9}}, 413),
        ([], 422),
    ],
)
def test_bad_request_is_an_error_in_both_formats(predictor: httpx.Client, body: Any, status: int) -> None:
    assert error_of(predictor.post(PATH, json=body))[0] == status
    assert error_of(predictor.post(PATH, content=msgpack.dumps(body), headers=PACKED))[0] == status


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xc1",
        b"\x93\x01",
        b"\xc7\x00\x05",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xa1\xff",
        b"\x81\x01\x01",
        b"\x80\x80",
        b"\xdd\xff\xff\xff\xff",
        b"\xdc\x03\xe8" + b"\x90" * 1000,
        b"\x91" * 5000,
        b"\x81\xa6images" * 5000,
    ],
    ids=lambda content: content[:8].hex(),
)
def test_malformed_messagepack_is_an_error(predictor: httpx.Client, content: bytes) -> None:
    assert error_of(predictor.post(PATH, content=content, headers=PACKED))[0] == 422


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 10_000, b'{"images": [' + b"0," * 200_000])
def test_malformed_json_is_an_error(predictor: httpx.Client, content: bytes) -> None:
    assert error_of(predictor.post(PATH, content=content))[0] == 422


def test_body_above_the_limit_is_an_error(settings: PredictorSettings) -> None:
    small = settings.model_copy(update={"max_request_bytes": 1000})
    with serving(create_predictor(small)) as url:
        assert error_of(httpx.post(url + PATH, json={"images": {"data": ["A" * 200_000]}}))[0] == 413
        packed = msgpack.dumps({"images": {"data": [b"x" * 200_000]}})
        assert error_of(httpx.post(url + PATH, content=packed, headers=PACKED))[0] == 413


@pytest.mark.parametrize(("fault", "status"), [("busy", 429), ("503", 503)])
def test_full_and_failing_services_are_errors(
    predictor: httpx.Client, proxy: EmbedderDouble, fault: str, status: int
) -> None:
    proxy.fault = fault
    assert error_of(post(predictor))[0] == status


def test_other_routes_are_not_found_by_name(predictor: httpx.Client) -> None:
    status, detail = error_of(predictor.post("/insightface-rest/draw_detections", json={}))
    assert status == 404 and "draw_detections" in detail


def test_key_with_the_scope_is_required(settings: PredictorSettings) -> None:
    predict, secret = ApiKey.new("camera", [Scope.PREDICT])
    train, other = ApiKey.new("trainer", [Scope.TRAIN])
    changes: dict[str, Any] = {"api_keys": (predict, train), "service_key": SecretStr("a secret of its own")}
    with serving(create_predictor(settings.model_copy(update=changes))) as url:
        for key, status in ((secret, 200), ("wrong", 401), (other, 403)):
            answer = httpx.post(
                url + PATH,
                json={"images": {"data": [BASE64]}},
                headers={"Authorization": f"Bearer {key}"},
            )
            assert answer.status_code == status
            if status != 200:
                error_of(answer)
