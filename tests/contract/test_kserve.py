"""The KServe V2 protocol, called by Triton's client: what it answers, and its errors."""

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from agegender.keys import ApiKey, Scope
from predictor.app import create_predictor
from predictor.settings import PredictorSettings
from pydantic import SecretStr
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from tests.support.embedder_double import EmbedderDouble
from tests.support.predictor_requests import png
from tests.support.serving import serving

MODEL = "age-gender"
INFER = f"/v2/models/{MODEL}/infer"
OUTPUTS = {
    "bbox": ("FP32", [-1, 4]),
    "age": ("FP32", [-1]),
    "age_low": ("FP32", [-1]),
    "age_high": ("FP32", [-1]),
    "p_female": ("FP32", [-1]),
    "image_index": ("INT32", [-1]),
}


def client_of(url: str) -> Any:
    return triton.InferenceServerClient(url.removeprefix("http://").rstrip("/"))


@pytest.fixture
def client(predictor: httpx.Client) -> Iterator[Any]:
    with client_of(str(predictor.base_url)) as made:
        yield made


def images(*files: bytes, binary: bool = True) -> list[Any]:
    tensor = triton.InferInput("image", [len(files)], "BYTES")
    texts = files if binary else [base64.b64encode(file) for file in files]
    tensor.set_data_from_numpy(np.array(texts, dtype=np.object_), binary_data=binary)
    return [tensor]


def arrays(result: Any) -> dict[str, np.ndarray]:
    return {name: result.as_numpy(name) for name in OUTPUTS}


def test_server_and_model_describe_themselves_and_their_readiness(client: Any, proxy: EmbedderDouble) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata(MODEL)
    assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert {out["name"]: (out["datatype"], out["shape"]) for out in metadata["outputs"]} == OUTPUTS
    proxy.fault = "not ready"
    assert client.is_server_live() and not client.is_server_ready() and not client.is_model_ready(MODEL)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_tensors_have_the_faces_of_our_own_answer(
    client: Any, predictor: httpx.Client, proxy: EmbedderDouble, binary: bool
) -> None:
    proxy.faces = 2
    files = [png("red"), png("blue")]
    requested = [triton.InferRequestedOutput(name, binary_data=binary) for name in OUTPUTS]
    result = client.infer(MODEL, images(*files, binary=binary), outputs=requested, request_id="mine")
    assert result.get_response()["id"] == "mine"
    answer = arrays(result)
    own = predictor.post("/age-gender", files=[("image", file) for file in files]).json()["images"]
    faces = [face for image in own for face in image["faces"]]
    assert answer["bbox"].shape == (4, 4) and answer["bbox"].dtype == np.float32
    assert answer["image_index"].tolist() == [0, 0, 1, 1] and answer["image_index"].dtype == np.int32
    expected = {
        "age": [face["age"]["mean"] for face in faces],
        "age_low": [face["age"]["interval"][0] for face in faces],
        "age_high": [face["age"]["interval"][1] for face in faces],
        "p_female": [face["gender"]["probability"]["female"] for face in faces],
        "bbox": [face["bbox"] for face in faces],
    }
    for name, values in expected.items():
        assert answer[name] == pytest.approx(np.array(values, np.float32)), name


def test_all_outputs_are_binary_unless_some_are_requested(client: Any) -> None:
    every = client.infer(MODEL, images(png()))
    assert {output["name"] for output in every.get_response()["outputs"]} == set(OUTPUTS)
    assert all("binary_data_size" in output["parameters"] for output in every.get_response()["outputs"])
    some = [triton.InferRequestedOutput("age"), triton.InferRequestedOutput("bbox", binary_data=False)]
    result = client.infer(MODEL, images(png()), outputs=some)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["age", "bbox"]
    assert result.as_numpy("age").shape == (1,) and result.as_numpy("bbox").shape == (1, 4)


def test_image_without_faces_has_empty_tensors(client: Any) -> None:
    result = client.infer(MODEL, images(png()), parameters={"min_det_score": 1.0})
    assert {output["name"]: output["shape"] for output in result.get_response()["outputs"]} == {
        name: [0, *shape[1:]] for name, (_, shape) in OUTPUTS.items()
    }


def test_options_are_parameters(client: Any, proxy: EmbedderDouble) -> None:
    proxy.faces = 3
    narrow, wide = (
        arrays(client.infer(MODEL, images(png()), parameters={"coverage": coverage, "max_faces": 1}))
        for coverage in (0.5, 0.99)
    )
    assert len(narrow["age"]) == 1
    assert narrow["age_high"] - narrow["age_low"] < wide["age_high"] - wide["age_low"]


def error_of(client: Any, inputs: list[Any], **options: Any) -> InferenceServerException:
    with pytest.raises(InferenceServerException) as raised:
        client.infer(options.pop("model", MODEL), inputs, **options)
    return raised.value


def test_bad_requests_raise_the_exception_of_the_client(client: Any, proxy: EmbedderDouble) -> None:
    unknown = [triton.InferRequestedOutput("gender")]
    assert "'gender'" in error_of(client, images(png()), outputs=unknown).message()
    assert "did you mean 'coverage'" in error_of(client, images(png()), parameters={"covrage": 1}).message()
    assert "embeddings" in error_of(client, images(png()), parameters={"embeddings": True}).message()
    assert error_of(client, images(png()), model="resnet").status() == "404"
    assert error_of(client, images(*[png()] * 9)).status() == "413"
    numbers = triton.InferInput("image", [1], "FP32")
    numbers.set_data_from_numpy(np.zeros(1, np.float32))
    assert "BYTES" in error_of(client, [numbers]).message()
    named = triton.InferInput("input_1", [1], "BYTES")
    named.set_data_from_numpy(np.array([png()], dtype=np.object_))
    assert "'image'" in error_of(client, [named]).message()
    compressed = error_of(client, images(png()), request_compression_algorithm="gzip")
    assert (compressed.status(), "gzip" in compressed.message()) == ("415", True)
    proxy.broken = lambda image: image == b"not an image"
    alone, second = (error_of(client, images(*files, b"not an image")) for files in ([], [png()]))
    assert alone.status() == second.status() == "422"
    assert second.message().startswith("Image 1: ")
    for fault, status in (("busy", "429"), ("503", "503")):
        proxy.fault = fault
        assert error_of(client, images(png())).status() == status


def binary_body(image: bytes, **changes: Any) -> tuple[bytes, bytes]:
    """The JSON and the binary data of a request with one image."""
    data = struct.pack("<I", len(image)) + image
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1],
        "parameters": {"binary_data_size": len(data)},
        **changes,
    }
    return json.dumps({"inputs": [tensor]}).encode(), data


JSON, DATA = binary_body(b"an image")


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (JSON + DATA[:-1], len(JSON)),
        (JSON + DATA[:2], len(JSON)),
        (JSON + DATA, len(JSON) - 1),
        (JSON + DATA, len(JSON) + 1),
        (JSON + DATA, 10**11),
        (JSON + DATA, 10**30),
        (JSON + DATA, "-1"),
        (JSON + DATA, "٣"),
        (JSON + DATA, None),
        (JSON, None),
        (b"", None),
        (b"", 0),
        (b"{}", 2),
        (b"[" * 100_000, None),
        (b'{"inputs": []}', None),
        (b'{"inputs": [' + b"1," * 1_000_000 + b"1]}", None),
        (binary_body(b"x", shape=[2])[0] + binary_body(b"x")[1], len(binary_body(b"x", shape=[2])[0])),
        (binary_body(b"x", shape=[10**30])[0] + binary_body(b"x")[1], None),
        (binary_body(b"x", shape=[-1])[0], None),
        (binary_body(b"x", parameters=None)[0], None),
        (binary_body(b"x", parameters=None, data=["~"])[0], None),
        (binary_body(b"x", parameters=None, data=[1])[0], None),
        (binary_body(b"x", parameters=None, data=[[["eA=="]]])[0], None),
        (binary_body(b"x", parameters=None, data=["eA=="])[0] + b"more", len(JSON)),
        (json.dumps({"inputs": [], "parameters": {"binary_data_output": "yes"}}).encode(), None),
    ],
)
def test_truncated_and_contradictory_tensors_are_rejected(
    predictor: httpx.Client, body: bytes, length: Any
) -> None:
    headers = {} if length is None else {b"Inference-Header-Content-Length": str(length).encode()}
    answer = predictor.post(INFER, content=body, headers=headers)
    assert answer.status_code in (400, 413, 422), answer.text
    assert list(answer.json()) == ["error"] and len(answer.text) < 2000


def test_lengths_beyond_the_data_are_rejected(predictor: httpx.Client) -> None:
    data = struct.pack("<I", 2**32 - 1) + b"x"
    text, _ = binary_body(b"", parameters={"binary_data_size": len(data)})
    headers = {"Inference-Header-Content-Length": str(len(text))}
    answer = predictor.post(INFER, content=text + data, headers=headers)
    assert (answer.status_code, "ends within an image" in answer.json()["error"]) == (400, True)


def test_body_above_the_limit_is_rejected(settings: PredictorSettings) -> None:
    small = settings.model_copy(update={"max_request_bytes": 1000})
    with serving(create_predictor(small)) as url, client_of(url) as client:
        assert error_of(client, images(b"x" * 2_000_000)).status() == "413"


def test_key_with_the_scope_is_required(settings: PredictorSettings) -> None:
    (predict, secret), (train, other) = (
        ApiKey.new(scope.value, [scope]) for scope in (Scope.PREDICT, Scope.TRAIN)
    )
    changes = {"api_keys": (predict, train), "service_key": SecretStr("the services' own secret")}
    keyed = settings.model_copy(update=changes)
    with serving(create_predictor(keyed)) as url, client_of(url) as client:
        assert client.is_server_live() and client.is_server_ready()
        assert error_of(client, images(png())).status() == "401"
        wrong, right = ({"Authorization": f"Bearer {key}"} for key in (other, secret))
        assert error_of(client, images(png()), headers=wrong).status() == "403"
        assert len(client.infer(MODEL, images(png()), headers=right).as_numpy("age")) == 1
        for path in ("/v2", f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/ready"):
            assert httpx.get(url + path).status_code == 401
