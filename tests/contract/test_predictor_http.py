"""HTTP interface of the predictor, in front of a proxy that responds, fails and misbehaves on purpose."""

import base64
import io
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from agegender.heads.head import Task, load_head
from agegender.spaces import Space
from PIL import Image
from predictor.app import create_predictor
from predictor.settings import PredictorSettings

from tests.support.embedder_double import SPACE, EmbedderDouble, faces_of
from tests.support.made_heads import made_head, promoted_heads
from tests.support.predictor_requests import embedding, png, slug
from tests.support.serving import hang_up_once, serving, until


def test_one_image_is_answered_with_age_gender_and_quality(predictor: httpx.Client) -> None:
    answer = predictor.post("/age-gender", files={"image": png()}).json()
    assert answer["space"] == SPACE.model_dump()
    assert answer["models"] == {"age": "v1", "gender": "v1"}
    (image,) = answer["images"]
    (face,) = image["faces"]
    assert (image["width"], image["height"]) == (100, 100)
    assert face["bbox"] == [10, 10, 90, 90] and len(face["landmarks"]) == 5
    low, high = face["age"]["interval"]
    assert 0 <= low <= high <= 100 and face["age"]["coverage"] == 0.9
    assert sum(face["age"]["groups"].values()) == pytest.approx(1, abs=1e-3)
    assert sum(face["gender"]["probability"].values()) == pytest.approx(1, abs=1e-3)
    assert face["gender"]["label"] in ("female", "male")
    assert 0 <= face["quality"]["score"] <= 1
    assert "embedding" not in face
    timings = answer["timings"]
    assert (timings["decode"], timings["detect"], timings["embed"]) == (2, 3, 4)  # as the proxy reported
    assert timings["queue"] >= 1 and timings["heads"] > 0
    assert timings["read"] + timings["proxy"] + timings["heads"] + timings["answer"] <= timings["total"]


def test_blurred_face_gets_a_wider_interval_and_keeps_its_mean(
    predictor: httpx.Client, proxy: EmbedderDouble
) -> None:
    def asked(sharpness: float) -> dict[str, Any]:
        proxy.sharpness = sharpness
        (image,) = predictor.post("/age-gender", content=png()).json()["images"]
        return dict(image["faces"][0])

    sharp, blurred = asked(200), asked(5)
    assert (sharp["quality"]["interval_scale"], blurred["quality"]["reasons"]) == (1, ["blurred"])
    (low, high), (lower, higher) = sharp["age"]["interval"], blurred["age"]["interval"]
    assert lower <= low and high <= higher and higher - lower > high - low
    assert {**blurred["age"], "interval": None} == {**sharp["age"], "interval": None}


def test_raw_body_multipart_and_base64_give_the_same_answer(predictor: httpx.Client) -> None:
    raw = predictor.post("/age-gender", content=png())
    form = predictor.post("/age-gender", files={"image": png()})
    base64_text = base64.b64encode(png()).decode()
    text = predictor.post("/age-gender", json={"images": [base64_text]})
    assert raw.json()["images"] == form.json()["images"] == text.json()["images"]
    for image in (base64_text, f"data:image/png;base64,{base64_text}"):
        alone = predictor.post("/age-gender", json={"image": image})
        assert alone.json()["images"] == raw.json()["images"]


def test_many_images_keep_their_order_and_one_bad_one_spoils_none(
    predictor: httpx.Client, proxy: EmbedderDouble
) -> None:
    proxy.broken = lambda image: image == b"broken"
    files = [("image", png("red")), ("image", b"broken"), ("image", png("blue"))]
    answer = predictor.post("/age-gender?embeddings=true", files=files)
    assert answer.status_code == 200
    red, broken, blue = answer.json()["images"]
    assert broken["problem"]["status"] == 422
    for image, colour in ((red, "red"), (blue, "blue")):
        assert image["faces"][0]["embedding"] == faces_of(png(colour)).faces[0].embedding


def test_turned_image_is_answered_with_its_rotation_and_its_faces_are_not_tilted(
    predictor: httpx.Client, proxy: EmbedderDouble
) -> None:
    upright = predictor.post("/age-gender", content=png("red")).json()["images"][0]
    proxy.rotation = 90
    image = predictor.post("/age-gender", content=png("blue")).json()["images"][0]
    assert (upright["rotation"], image["rotation"]) == (0, 90)
    face, other = image["faces"][0], upright["faces"][0]
    assert face["landmarks"] == [[y, 100 - x] for x, y in other["landmarks"]]  # as the client sent it
    assert face["quality"] == other["quality"]
    assert face["quality"]["roll"] == 0


def test_bad_base64_is_the_problem_of_its_image_alone(predictor: httpx.Client, proxy: EmbedderDouble) -> None:
    good = base64.b64encode(png()).decode()
    bad, fine = predictor.post("/age-gender", json={"images": ["~", good]}).json()["images"]
    assert bad["problem"]["type"].endswith("bad-base64") and len(fine["faces"]) == 1
    proxy.broken = lambda image: True
    bad, broken = predictor.post("/age-gender", json={"images": ["~", good]}).json()["images"]
    assert bad["problem"]["type"].endswith("bad-base64")
    assert broken["problem"]["type"].endswith("damaged-image")


def test_problem_of_the_only_image_is_the_request_s(predictor: httpx.Client, proxy: EmbedderDouble) -> None:
    proxy.broken = lambda image: True
    answer = predictor.post("/age-gender", content=png(), headers={"X-Request-ID": "mine"})
    assert (answer.status_code, slug(answer)) == (422, "damaged-image")
    assert answer.json()["request_id"] == "mine"
    alone = predictor.post("/age-gender", json={"images": ["~"]})
    assert (alone.status_code, slug(alone)) == (422, "bad-base64")
    several = predictor.post("/age-gender", json={"images": ["~", "~"]})
    kinds = [entry["problem"]["type"].rpartition(":")[2] for entry in several.json()["images"]]
    assert (several.status_code, kinds) == (200, ["bad-base64"] * 2)


def test_wrong_option_is_rejected_before_the_body_arrives(predictor: httpx.Client) -> None:
    url = predictor.base_url
    with socket.create_connection((url.host, url.port)) as connection:
        connection.settimeout(5)
        connection.sendall(
            b"POST /age-gender?coverage=2 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc"
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 422")


@pytest.mark.parametrize(
    ("request_arguments", "status", "kind"),
    [
        ({"content": b""}, 400, "no-image"),
        ({"files": {"picture": b"x"}}, 400, "no-image"),
        ({"files": [("image", b"x")] * 9}, 413, "too-many-images"),
        ({"json": {"images": ["eA=="] * 9}}, 413, "too-many-images"),
        ({"json": {"images": []}}, 422, "invalid-request"),
        ({"json": {"image": "eA==", "images": ["eA=="]}}, 422, "invalid-request"),
        ({"json": {"image": ["eA=="]}}, 422, "invalid-request"),
        ({"json": {}}, 422, "invalid-request"),
        (
            {"content": b"[" * 10_000, "headers": {"Content-Type": "application/json"}},
            422,
            "invalid-request",
        ),
        (
            {"content": b"--x", "headers": {"Content-Type": "multipart/form-data"}},
            400,
            "bad-multipart",
        ),
        ({"content": b"x", "headers": {"X-Deadline-Ms": "soon"}}, 400, "bad-deadline"),
        ({"content": b"x", "params": {"coverage": "0.3"}}, 422, "invalid-request"),
        ({"content": b"x", "params": {"coverage": "nan"}}, 422, "invalid-request"),
        ({"content": b"x", "params": {"max_faces": "0"}}, 422, "invalid-request"),
        ({"content": b"x", "params": {"max_face": "1"}}, 422, "invalid-request"),
        ({"content": b"x", "params": {"uncertainty": "none"}}, 422, "invalid-request"),
    ],
)
def test_bad_request_gets_a_problem_document(
    predictor: httpx.Client, request_arguments: dict[str, Any], status: int, kind: str
) -> None:
    answer = predictor.post("/age-gender", **request_arguments)
    assert (answer.status_code, slug(answer)) == (status, kind)


def test_options_select_faces_and_what_is_returned_of_them(
    predictor: httpx.Client, proxy: EmbedderDouble
) -> None:
    proxy.faces = 5

    def faces(**options: Any) -> list[dict[str, Any]]:
        answer = predictor.post("/age-gender", content=png(), params=options)
        return list(answer.json()["images"][0]["faces"])

    assert [len(faces()), len(faces(max_faces=2)), len(faces(min_det_score=0.95))] == [5, 2, 0]
    assert [len(faces(min_face=80)), len(faces(min_face=81))] == [5, 0]
    narrow, wide = (faces(coverage=coverage)[0]["age"] for coverage in (0.5, 0.99))
    assert (narrow["coverage"], wide["coverage"]) == (0.5, 0.99)
    width = [high - low for low, high in (narrow["interval"], wide["interval"])]
    assert width[0] < width[1]


def test_dropout_answers_another_spread_and_the_same_each_time(predictor: httpx.Client) -> None:
    ensemble, once, twice = (
        predictor.post("/age-gender", content=png(), params={"uncertainty": kind}).json()["images"]
        for kind in ("ensemble", "mc-dropout", "mc-dropout")
    )
    assert once == twice != ensemble


@pytest.mark.parametrize(("accept", "format"), [("image/png", "PNG"), ("image/jpeg", "JPEG")])
def test_picture_is_answered_where_one_is_asked_for(
    predictor: httpx.Client, accept: str, format: str
) -> None:
    answer = predictor.post("/age-gender", files={"image": png()}, headers={"Accept": accept})
    assert answer.headers["content-type"] == accept
    picture = Image.open(io.BytesIO(answer.content))
    assert (picture.format, picture.size) == (format, (100, 100))
    assert len(picture.convert("RGB").getcolors(10_000) or []) > 1
    several = predictor.post("/age-gender", files=[("image", png())] * 2, headers={"Accept": accept})
    assert (several.status_code, slug(several)) == (400, "one-image-only")


def test_request_id_and_deadline_travel_on(predictor: httpx.Client, proxy: EmbedderDouble) -> None:
    answer = predictor.post(
        "/age-gender", content=png(), headers={"X-Request-ID": "trace-7", "X-Deadline-Ms": "5000"}
    )
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "trace-7"
    assert proxy.headers[-1]["x-request-id"] == "trace-7"
    assert 3000 < int(proxy.headers[-1]["x-deadline-ms"]) <= 5000


def test_deadline_that_passes_is_504(predictor: httpx.Client, proxy: EmbedderDouble) -> None:
    proxy.seconds = 5
    answer = predictor.post("/age-gender", content=png(), headers={"X-Deadline-Ms": "150"})
    assert (answer.status_code, slug(answer)) == (504, "deadline-exceeded")


def test_client_that_hangs_up_stops_costing(predictor_url: str, proxy: EmbedderDouble) -> None:
    proxy.fault = "hang"
    hang_up_once(lambda: proxy.working, "the proxy is asked", f"{predictor_url}/age-gender", content=png())
    until(lambda: proxy.hung_up == 1, "the proxy is hung up on")


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        ("busy", 429, "busy"),
        ("503", 503, "double-failed"),
        ("500", 500, "double-failed"),
        ("html", 502, "bad-answer"),
        ("empty", 502, "bad-answer"),
        ("cut", 502, "bad-answer"),
        ("too few", 502, "bad-answer"),
        ("nan", 502, "bad-answer"),
        ("short", 502, "bad-answer"),
        ("redirect", 502, "bad-answer"),
        ("another space", 409, "no-head"),
    ],
)
def test_proxy_s_problems_are_passed_on_and_its_nonsense_is_502(
    predictor: httpx.Client, proxy: EmbedderDouble, fault: str, status: int, kind: str
) -> None:
    proxy.fault = fault
    answer = predictor.post("/age-gender", content=png())
    assert (answer.status_code, slug(answer)) == (status, kind)
    if fault == "busy":
        assert answer.headers["retry-after"] == "7"


def test_proxy_that_is_gone_is_503_with_retry_after(settings: PredictorSettings) -> None:
    gone = settings.model_copy(update={"proxy_url": "http://127.0.0.1:9"})
    with serving(create_predictor(gone)) as url:
        answer = httpx.post(f"{url}/age-gender", content=png())
        assert (answer.status_code, slug(answer)) == (503, "proxy-unreachable")
        assert int(answer.headers["retry-after"]) > 0
        ready = httpx.get(f"{url}/health/ready")
        assert (ready.status_code, slug(ready)) == (503, "not-ready")


def test_rollback_without_a_proxy_is_of_the_only_space_that_has_a_head_before(
    settings: PredictorSettings,
) -> None:
    other = Space(id="elsewhere-1", dimension=8)
    for space, version in ((SPACE, "v1"), (SPACE, "v2"), (other, "v1")):
        promoted_heads(settings.models_dir, space, version)
    gone = settings.model_copy(update={"proxy_url": "http://127.0.0.1:9"})
    with serving(create_predictor(gone)) as url:
        heads = httpx.post(f"{url}/models/age/rollback").json()["models"]
        ages = {head["space"]: head["version"] for head in heads if head["task"] == "age"}
        assert ages == {SPACE.id: "v1", other.id: "v1"}
        for space, version in ((SPACE, "v3"), (other, "v2")):
            promoted_heads(settings.models_dir, space, version)
        httpx.post(f"{url}/models/refresh").raise_for_status()
        either = httpx.post(f"{url}/models/age/rollback")
        assert (either.status_code, slug(either)) == (503, "proxy-unreachable")


def test_space_without_heads_is_409_that_names_both(tmp_path: Path, proxy: EmbedderDouble) -> None:
    other = Space(id="elsewhere-1", dimension=8)
    promoted_heads(tmp_path / "models", other)
    settings = PredictorSettings(data_dir=tmp_path, heads_dir=tmp_path / "none", proxy_url=proxy.url)
    with serving(create_predictor(settings)) as url:
        answer = httpx.post(f"{url}/age-gender", content=png())
        assert (answer.status_code, slug(answer)) == (409, "no-head")
        assert "double-1 (512-d)" in answer.json()["detail"] and answer.json()["spaces"] == [str(other)]
        assert "double-1" in httpx.get(f"{url}/health/ready").json()["detail"]


def test_unfamiliar_face_gets_three_more_years_on_each_side(predictor: httpx.Client, tmp_path: Path) -> None:
    rows = np.eye(SPACE.dimension, dtype=np.float32)[[0, -1]]
    body = embedding(embeddings=rows.tolist())
    faces = predictor.post("/age-gender/embeddings", json=body).json()["faces"]
    assert [face["familiarity"] for face in faces] == [0, 1]

    head = load_head(made_head(tmp_path, Task.AGE, SPACE, "v1"))
    assert head.manifest.conformal is not None
    ends = np.array(head.manifest.conformal.intervals(head.probabilities(rows), 0.9))
    expected = np.clip(np.add(ends, [[-3, 0], [3, 0]]), 0, 100)
    np.testing.assert_allclose([face["age"]["interval"] for face in faces], expected.T, atol=0.1)
    assert (expected[:, 0] != ends[:, 0]).any()


def test_embeddings_get_the_answer_of_their_image(predictor: httpx.Client) -> None:
    answer = predictor.post("/age-gender/embeddings", json=embedding()).json()
    image = predictor.post("/age-gender", content=png()).json()["images"][0]["faces"][0]
    assert answer["faces"] == [{name: image[name] for name in ("age", "gender", "familiarity")}]
    assert predictor.post("/age-gender/embeddings", json=embedding(embeddings=[])).json()["faces"] == []


@pytest.mark.parametrize(
    ("changes", "status", "kind"),
    [
        ({"space": "human-9"}, 409, "no-head"),
        ({"space": "../etc"}, 409, "no-head"),
        ({"embeddings": [[0.1] * 511]}, 422, "bad-embeddings"),
        ({"embeddings": [[0.0] * 512]}, 422, "bad-embeddings"),
        ({"embeddings": [[1.0] * 512]}, 422, "bad-embeddings"),
        ({"embeddings": [[1e308] * 512]}, 422, "bad-embeddings"),
        ({"embeddings": [[float("nan")] * 512]}, 422, "invalid-request"),
        ({"embeddings": [[float("inf")] * 512]}, 422, "invalid-request"),
        ({"embeddings": "none"}, 422, "invalid-request"),
        ({"embeddings": [[]] * 5000}, 413, "too-many-embeddings"),
    ],
)
def test_embeddings_that_are_none_are_refused(
    predictor: httpx.Client, changes: dict[str, Any], status: int, kind: str
) -> None:
    content = json.dumps(embedding(**changes))
    answer = predictor.post("/age-gender/embeddings", content=content)
    assert (answer.status_code, slug(answer)) == (status, kind)


def test_promoted_head_serves_without_a_restart_and_rolls_back(
    own_predictor: httpx.Client, settings: PredictorSettings
) -> None:
    promoted_heads(settings.models_dir, SPACE, "v2")
    until(
        lambda: {head["version"] for head in own_predictor.get("/models").json()["models"]} == {"v2"},
        "v2 serves",
    )
    assert own_predictor.post("/age-gender", content=png()).json()["models"] == {"age": "v2", "gender": "v2"}
    heads = own_predictor.post("/models/age/rollback").json()["models"]
    assert {head["task"]: head["version"] for head in heads} == {"age": "v1", "gender": "v2"}
    assert own_predictor.post("/age-gender", content=png()).json()["models"]["age"] == "v1"
    again = own_predictor.post("/models/age/rollback")  # v2 is newer, and nobody asked for it
    assert (again.status_code, slug(again)) == (409, "no-previous-head")
    assert "Promote an experiment" in again.json()["detail"]
    assert own_predictor.post("/age-gender", content=png()).json()["models"]["age"] == "v1"
    missing = own_predictor.post("/models/age/rollback", params={"space": "nowhere-1"})
    assert (missing.status_code, slug(missing)) == (409, "no-previous-head")
    assert own_predictor.post("/models/height/rollback").status_code == 422
    assert own_predictor.post("/models/age/rollback", params={"space": "../../x"}).status_code == 422


def test_bad_head_is_reported_by_ready_and_models_while_the_old_one_serves(
    own_predictor: httpx.Client, settings: PredictorSettings
) -> None:
    directory = made_head(settings.models_dir, Task.AGE, SPACE, "v2")
    (directory / "head.safetensors").write_bytes(b"half a he")
    (directory.parent / "current.json").write_text('{"version": "v2", "previous": "v1"}')
    models = own_predictor.post("/models/refresh").json()
    assert "v2" in models["warnings"][0]
    ready = own_predictor.get("/health/ready")
    assert ready.status_code == 200 and "v2" in ready.json()["warnings"][0]
    assert own_predictor.post("/age-gender", content=png()).json()["models"]["age"] == "v1"


def test_health_info_and_metrics_tell_what_is_served(predictor: httpx.Client) -> None:
    predictor.post("/age-gender", content=png())
    for path in ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"):
        assert predictor.get(path).status_code == 200
    info = predictor.get("/info").json()
    assert info["space"] == SPACE.model_dump() and info["models"][0]["version"] == "v1"
    metrics = predictor.get("/metrics").text
    for name in (
        "predictor_faces_total",
        "predictor_head{",
        "predictor_stage_seconds_bucket",
        "predictor_batch_faces",
    ):
        assert name in metrics


def test_body_memory_that_is_used_up_is_429(settings: PredictorSettings) -> None:
    with serving(create_predictor(settings.model_copy(update={"max_body_memory": 1000}))) as url:
        answer = httpx.post(f"{url}/age-gender", content=png())
        assert (answer.status_code, slug(answer)) == (429, "busy") and answer.headers["retry-after"] == "1"


def test_body_above_the_limit_is_413(settings: PredictorSettings) -> None:
    small = settings.model_copy(update={"max_image_bytes": 1000, "max_request_bytes": 2000})
    with serving(create_predictor(small)) as url:
        for arguments in ({"content": bytes(5000)}, {"json": {"images": ["A" * 5000]}}):
            answer = httpx.post(f"{url}/age-gender", **arguments)
            assert (answer.status_code, slug(answer)) == (413, "body-too-large")
