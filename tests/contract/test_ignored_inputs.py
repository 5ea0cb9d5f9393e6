"""Nothing that is sent is ignored: an option is taken wherever it stands, or rejected by its name."""

import base64
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from agegender.errors import Problem
from embedder.app import create_embedder
from embedder.settings import EmbedderSettings
from embedder_proxy.app import create_proxy
from embedder_proxy.settings import ProxySettings
from predictor.prediction_request import FaceOptions, HeadOptions, decoded
from trainer.app import create_trainer
from trainer.settings import TrainerSettings

from tests.support.embedder_double import SPACE, EmbedderDouble
from tests.support.predictor_requests import embedding, original_request, png, slug
from tests.support.redis_server import redis_server
from tests.support.serving import serving, until

TEXT = base64.b64encode(png()).decode()
SENT_AS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "query": lambda options: {"files": {"image": png()}, "params": options},
    "form": lambda options: {"files": {"image": png()}, "data": options},
    "JSON": lambda options: {"json": {"images": [TEXT], **options}},
    "raw body and query": lambda options: {"content": png(), "params": options},
}
OPTIONS = {
    "faces": "found-or-whole",
    "coverage": 0.5,
    "uncertainty": "mc-dropout",
    "max_faces": 1,
    "min_det_score": 0.1,
    "min_face": 5,
    "embeddings": "true",
}


def test_options_of_this_test_are_all_options() -> None:
    assert OPTIONS.keys() == FaceOptions.model_fields.keys()


@pytest.mark.parametrize("way", SENT_AS)
def test_option_is_taken_wherever_it_stands(predictor: httpx.Client, proxy: EmbedderDouble, way: str) -> None:
    proxy.faces = 3
    answer = predictor.post("/age-gender", **SENT_AS[way](OPTIONS))
    (face,) = answer.json()["images"][0]["faces"]
    assert face["age"]["coverage"] == 0.5 and len(face["embedding"]) == SPACE.dimension
    other = predictor.post("/age-gender", **SENT_AS[way]({**OPTIONS, "uncertainty": "ensemble"}))
    assert other.json()["images"][0]["faces"][0]["gender"] != face["gender"]
    (face,) = predictor.post("/age-gender", **SENT_AS[way]({"faces": "whole"})).json()["images"][0]["faces"]
    assert face["whole"] and face["bbox"] == [0, 0, 100, 100]
    for name, value in (("min_face", 5000), ("min_det_score", 1)):
        answer = predictor.post("/age-gender", **SENT_AS[way]({name: value}))
        assert answer.json()["images"][0]["faces"] == []


@pytest.mark.parametrize("way", SENT_AS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_face": 1}, "did you mean 'max_faces'?"),
        ({"converage": 0.5}, "did you mean 'coverage'?"),
        ({"zzz": 1}, "coverage, embeddings"),
        ({"coverage": 0.3}, "coverage"),
        ({"max_faces": 0}, "max_faces"),
        ({"uncertainty": "none"}, "uncertainty"),
    ],
)
def test_unknown_option_gets_the_nearest_name(
    predictor: httpx.Client, way: str, options: dict[str, Any], message: str
) -> None:
    answer = predictor.post("/age-gender", **SENT_AS[way](options))
    assert (answer.status_code, slug(answer)) == (422, "invalid-request")
    assert message in answer.json()["detail"] and next(iter(options)) in answer.json()["detail"]


def test_option_with_two_values_is_rejected_and_with_the_same_twice_taken(predictor: httpx.Client) -> None:
    files = {"image": png()}
    contradicting: list[dict[str, Any]] = [
        {"files": files, "params": [("coverage", "0.5"), ("coverage", "0.8")]},
        {"files": files, "data": {"coverage": ["0.5", "0.8"]}},
        {"files": files, "data": {"coverage": "0.5"}, "params": {"coverage": "0.8"}},
        {"json": {"images": [TEXT], "coverage": 0.5}, "params": {"coverage": "0.9"}},
    ]
    for arguments in contradicting:
        answer = predictor.post("/age-gender", **arguments)
        assert (answer.status_code, slug(answer)) == (422, "invalid-request")
        assert "coverage was sent more than once" in answer.json()["detail"]
    alike = predictor.post("/age-gender", files=files, data={"coverage": "0.50"}, params={"coverage": "0.5"})
    assert alike.json()["images"][0]["faces"][0]["age"]["coverage"] == 0.5


def test_options_of_embeddings_are_query_or_members(predictor: httpx.Client) -> None:
    taken: list[dict[str, Any]] = [
        {"json": embedding(), "params": {"coverage": 0.5}},
        {"json": embedding(coverage=0.5)},
    ]
    for arguments in taken:
        answer = predictor.post("/age-gender/embeddings", **arguments)
        assert answer.json()["faces"][0]["age"]["coverage"] == 0.5
    rejected: list[tuple[dict[str, Any], str]] = [
        ({"json": embedding(), "params": {"max_faces": 1}}, "coverage, uncertainty"),
        ({"json": embedding(coverag=1)}, "did you mean 'coverage'?"),
        ({"json": embedding(coverage=0.5), "params": {"coverage": 0.8}}, "sent more than once"),
    ]
    for arguments, message in rejected:
        answer = predictor.post("/age-gender/embeddings", **arguments)
        assert answer.status_code == 422 and message in answer.json()["detail"]
    assert HeadOptions.model_fields.keys() == {"coverage", "uncertainty"}


def test_wrong_file_field_is_named(predictor: httpx.Client) -> None:
    answer = predictor.post("/age-gender", files=[("image", png()), ("file", png())])
    assert answer.status_code == 422 and "file field 'file'" in answer.json()["detail"]
    answer = predictor.post("/age-gender", files={"file": png()})
    assert (answer.status_code, slug(answer)) == (400, "no-image") and "'file'" in answer.json()["detail"]
    answer = predictor.post("/age-gender", json={"imges": TEXT})
    assert answer.status_code == 422 and "did you mean 'images'?" in answer.json()["detail"]


@pytest.mark.parametrize(
    "header", ["data:image/png;base64,", "data:;base64,", "DATA:image/png;name=a;BASE64,"]
)
def test_data_url_is_answered_as_its_image(predictor: httpx.Client, header: str) -> None:
    plain = predictor.post("/age-gender", json={"images": [TEXT]}).json()["images"]
    answer = predictor.post("/age-gender", json={"images": [header + TEXT]})
    assert answer.json()["images"] == plain and plain[0]["faces"]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("data:image/png,abc", "bad-base64", "not in base64"),
        ("data:image/png;base64,~", "bad-base64", "alphabet"),
        (f"{TEXT[:76]}\n{TEXT[76:]}", "bad-base64", "line breaks"),
        ("https://example.org/a.jpg", "url-not-supported", "https://"),
        (" HTTP://example.org/a.jpg", "url-not-supported", "send the image itself"),
        ("s3://bucket/a.jpg", "url-not-supported", "send the image itself"),
        ("file:///etc/passwd", "url-not-supported", "send the image itself"),
        ("//example.org/a.jpg", "url-not-supported", "a URL (//…)"),
        ("//localhost/abc", "url-not-supported", "a URL (//…)"),
        ("www.example.org/a.jpg", "bad-base64", "path or address 'www.example.org/a.jpg'"),
        ("C:\\faces\\a.HEIC", "bad-base64", "path or address"),
    ],
)
def test_text_that_is_no_image_gets_its_own_sentence(
    predictor: httpx.Client, text: str, kind: str, message: str
) -> None:
    answer = predictor.post("/age-gender", json={"images": [text]})
    assert (answer.status_code, slug(answer)) == (422, kind) and message in answer.json()["detail"]
    bad, good = predictor.post("/age-gender", json={"images": [text, TEXT]}).json()["images"]
    assert bad["problem"]["type"].endswith(kind) and good["faces"]


def test_text_in_the_field_of_an_image_gets_its_own_sentence(predictor: httpx.Client) -> None:
    def sent(text: str) -> tuple[int, str, str]:
        answer = predictor.post("/age-gender", files={"image": (None, text)})
        return answer.status_code, slug(answer), answer.json()["detail"]

    assert sent("photo.jpg")[:2] == (400, "no-image") and "put @" in sent("photo.jpg")[2]
    status, kind, detail = sent(f"data:image/png;base64,{TEXT}")
    assert (status, kind) == (400, "no-image") and "data URL" in detail and "JSON" in detail
    assert "@" not in detail
    assert sent("//example.org/a.jpg")[1] == sent("https://example.org/a.jpg")[1] == "url-not-supported"
    status, kind, detail = sent("data:image/png;base64," + "A" * 2_000_000)
    assert (status, kind) == (400, "bad-multipart") and "as a file, or in JSON" in detail


@pytest.mark.parametrize(("header", "copies"), [("", 1), ("data:image/jpeg;base64,", 2.4)])
def test_base64_is_decoded_without_copies_beyond_need(header: str, copies: float) -> None:
    size = 6 * 1024 * 1024
    text = header + base64.b64encode(bytes(size)).decode()
    peaks = []
    for _ in range(3):  # threads of other tests' services allocate too
        tracemalloc.start()
        image = decoded(text)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert not isinstance(image, Problem) and len(image) == size
        del image
    assert min(peaks) < copies * size + 100_000


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """URLs of a trainer without data, an embedder that loads no pack, and a proxy before a double."""
    folder = tmp_path_factory.mktemp("services")
    with (
        redis_server(folder) as redis,
        EmbedderDouble().served() as double,
        serving(create_proxy(ProxySettings(embedder_urls=[double.url], cache_ttl=0))) as proxy,
        serving(create_embedder(EmbedderSettings()), lifespan="off") as embedder,
        serving(create_trainer(TrainerSettings(data_dir=folder, redis_url=redis.url))) as trainer,
    ):
        until(lambda: httpx.get(f"{proxy}/health/ready").is_success, "the proxy is ready")
        yield {"proxy": proxy, "embedder": embedder, "trainer": trainer}


@pytest.mark.parametrize(
    ("service", "method", "path", "arguments", "message"),
    [
        ("proxy", "POST", "/faces?coverage=1", {"content": png()}, "query parameter 'coverage'"),
        ("proxy", "POST", "/faces", {"files": {"image": png()}, "data": {"coverage": "1"}}, "'coverage'"),
        ("embedder", "POST", "/faces?coverage=1", {"content": png()}, "query parameter 'coverage'"),
        ("trainer", "GET", "/experiments?limit=3", {}, "query parameter 'limit'"),
        ("trainer", "GET", "/experiments/a-1/report?fromat=md", {}, "did you mean 'format'?"),
        ("trainer", "GET", "/experiments/a-1/report?format=md&format=json", {}, "sent more than once"),
        ("trainer", "POST", "/experiments", {"json": {"dataset": "a", "see": 1}}, "did you mean 'seed'?"),
        ("trainer", "POST", "/experiments", {"json": {"dataset": "a", "zzz": 1}}, "dataset, folds"),
        ("trainer", "POST", "/searches", {"json": {"dataset": "a", "trial": 1}}, "did you mean 'trials'?"),
        (
            "trainer",
            "POST",
            "/experiments/a-1/promote",
            {"json": {"refit": False}},
            "query parameters: refit",
        ),
        ("trainer", "POST", "/experiments/a-1/resume", {"json": {"folds": [1]}}, "takes no body"),
    ],
)
def test_other_services_reject_what_they_would_ignore(
    services: dict[str, str], service: str, method: str, path: str, arguments: dict[str, Any], message: str
) -> None:
    answer = httpx.request(method, services[service] + path, **arguments)
    assert (answer.status_code, slug(answer)) == (422, "invalid-request")
    assert message in answer.json()["detail"]


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/health/live", "/v2/health/live", "/static/main.js", "/web/key.js"]
)
def test_pages_and_probes_take_parameters_of_others(predictor: httpx.Client, path: str) -> None:
    assert predictor.get(path, params={"utm_source": "mail", "t": "1"}).status_code == 200


def test_original_clients_may_send_what_they_sent(predictor: httpx.Client) -> None:
    rows = np.array(embedding()["embeddings"], np.float32)
    answer = predictor.post("/?debug=1", json=original_request(rows))
    assert answer.status_code == 200 and answer.json().keys() == {"ages", "genders"}


def test_empty_json_of_http_libraries_is_no_body(services: dict[str, str]) -> None:
    answer = httpx.post(f"{services['trainer']}/experiments/a-1/resume", json={})
    assert answer.status_code == 404
