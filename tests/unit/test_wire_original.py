"""The original's messages, written and read by the jsonpickle and pickle that its client uses."""

import json
import os
import pickle
import warnings
from typing import Any

import jsonpickle
import numpy as np
import pytest
from agegender.faces import FaceGeometry
from agegender.wire import (
    WireError,
    decode_embeddings_request,
    decode_faces_answer,
    decode_image_request,
    encode_faces_answer,
    encode_image_request,
    encode_predictions_answer,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jsonpickle announces version 5

COORDINATES = st.floats(-1e4, 1e4, width=32)


def request_body(message: object) -> bytes:
    """Return the body that `requests.post(url, json=jsonpickle.encode(message))` sends."""
    with warnings.catch_warnings(action="ignore"):  # at import, where the mark above does not reach
        return json.dumps(jsonpickle.encode(message)).encode()


def container_answer(faces: list[dict[str, Any]] | None) -> bytes:
    return str(jsonpickle.encode({"face_detection_recognition": faces})).encode()


def a_face(seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    embedding = generator.normal(size=512).astype(np.float32)
    return {
        "bbox": generator.uniform(0, 100, 4),
        "det_score": np.float32(0.75),
        "landmark": generator.uniform(0, 100, (5, 2)),
        "normed_embedding": embedding / np.linalg.norm(embedding),
    }


@given(st.binary(max_size=2000))
def test_the_image_of_a_request_comes_back(image: bytes) -> None:
    assert decode_image_request(request_body({"image": image})) == image
    assert decode_image_request(encode_image_request(image)) == image
    assert jsonpickle.decode(json.loads(encode_image_request(image))) == {"image": image}


@given(
    nps.arrays(np.float32, st.tuples(st.integers(0, 4), st.just(512)), elements=st.floats(-1, 1, width=32)),
    st.sampled_from(range(pickle.HIGHEST_PROTOCOL + 1)),
)
def test_the_embeddings_of_a_request_come_back(embeddings: np.ndarray, protocol: int) -> None:
    body = request_body({"embeddings": pickle.dumps(embeddings, protocol)})
    read = decode_embeddings_request(body)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, embeddings)


def test_no_faces_are_no_rows() -> None:
    # The client sends this where no face was found.
    nothing = np.array([]).reshape(-1, 512).astype(np.float32)
    assert decode_embeddings_request(request_body({"embeddings": pickle.dumps(nothing)})).shape == (0, 512)


def test_one_embedding_without_a_batch_axis_is_one_row() -> None:
    flat = np.zeros(512, np.float64)
    assert decode_embeddings_request(request_body({"embeddings": pickle.dumps(flat)})).shape == (1, 512)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_embeddings_that_are_not_finite_are_refused(value: float) -> None:
    embeddings = np.zeros((1, 512))
    embeddings[0, 7] = value
    with pytest.raises(WireError, match="finite"):
        decode_embeddings_request(request_body({"embeddings": pickle.dumps(embeddings)}))


def test_embeddings_of_another_dimension_are_refused() -> None:
    with pytest.raises(WireError, match="512"):
        decode_embeddings_request(request_body({"embeddings": pickle.dumps(np.zeros((3, 192)))}))


@given(st.lists(st.tuples(st.tuples(*[COORDINATES] * 4), st.floats(0, 1)), max_size=3))
def test_the_client_decodes_our_faces_to_arrays(faces: list[tuple[Any, float]]) -> None:
    embedding = a_face()["normed_embedding"]
    points = [(1.5, 2.0), (3, 4), (5, 6), (7, 8), (9, 10)]
    geometries = [FaceGeometry(bbox=bbox, det_score=score, landmarks=points) for bbox, score in faces]
    text = encode_faces_answer([(geometry, embedding.tolist()) for geometry in geometries])
    decoded = jsonpickle.decode(text.decode())["face_detection_recognition"]
    for face, (bbox, score) in zip(decoded, faces, strict=True):
        assert face["bbox"].tolist() == list(bbox)
        assert face["det_score"] == score
        assert face["landmark"].tolist() == [list(point) for point in points]
        assert face["normed_embedding"].dtype == np.float32
        np.testing.assert_array_equal(face["normed_embedding"], embedding)
    np.array([face["normed_embedding"] for face in decoded]).reshape(-1, 512).astype(np.float32)
    for ours, theirs in zip(decode_faces_answer(text), decoded, strict=True):
        np.testing.assert_array_equal(ours.bbox, theirs["bbox"])
        np.testing.assert_array_equal(ours.normed_embedding, theirs["normed_embedding"])


def test_the_client_decodes_our_predictions() -> None:
    text = encode_predictions_answer(
        [{"mean": 31.5, "entropy": 0.25}], [{"m": 0.75, "f": 0.25, "entropy": 0.5}]
    )
    assert jsonpickle.decode(text.decode()) == {
        "ages": [{"mean": 31.5, "entropy": 0.25}],
        "genders": [{"m": 0.75, "f": 0.25, "entropy": 0.5}],
    }


@pytest.mark.parametrize("count", [0, 1, 6])
def test_the_original_containers_faces_are_read(count: int) -> None:
    faces = [a_face(seed) for seed in range(count)]
    read = decode_faces_answer(container_answer(faces))
    assert len(read) == count
    for ours, theirs in zip(read, faces, strict=True):
        np.testing.assert_array_equal(ours.bbox, theirs["bbox"])
        np.testing.assert_array_equal(ours.landmark, theirs["landmark"])
        np.testing.assert_array_equal(ours.normed_embedding, theirs["normed_embedding"])
        assert ours.det_score == theirs["det_score"]


def test_the_same_array_twice_is_a_reference_that_is_followed() -> None:
    face = a_face()
    read = decode_faces_answer(container_answer([face, {**face, "bbox": face["bbox"] + 1}]))
    np.testing.assert_array_equal(read[0].normed_embedding, read[1].normed_embedding)
    np.testing.assert_array_equal(read[1].bbox, face["bbox"] + 1)


def test_references_are_followed_as_jsonpickle_1_numbers_them() -> None:
    # jsonpickle 1.5 did not count dicts: the dtype of the first array is 2 there, 4 from version 2 on.
    faces = [a_face(1), a_face(2)]
    modern = json.loads(container_answer(faces))
    text = json.dumps(modern)
    assert '{"py/id": 4}' in text and '{"py/id": 6}' in text  # float64 and float32
    old = text.replace('{"py/id": 4}', '{"py/id": 2}').replace('{"py/id": 6}', '{"py/id": 4}')
    for ours, theirs in zip(decode_faces_answer(old.encode()), faces, strict=True):
        np.testing.assert_array_equal(ours.bbox, theirs["bbox"])
        np.testing.assert_array_equal(ours.normed_embedding, theirs["normed_embedding"])


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": np.zeros(5)},
        {"landmark": np.zeros((2, 5))},
        {"normed_embedding": np.zeros(192, np.float32)},
        {"normed_embedding": np.full(512, np.nan, np.float32)},
        {"det_score": np.float32(np.inf)},
        {"det_score": "high"},
        {"bbox": None},
    ],
)
def test_faces_of_another_shape_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        decode_faces_answer(container_answer([{**a_face(), **change}]))


def test_an_answer_without_faces_is_refused() -> None:
    for answer in (b'{"face_detection_recognition": null}', b"[]", b"{}", b"<html>", b""):
        with pytest.raises(WireError):
            decode_faces_answer(answer)


class Planted:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def flattened(inner: str) -> bytes:
    return json.dumps(inner).encode()


HOSTILE = {
    "reduce os.system": request_body({"image": Planted()}),
    "py/object": flattened('{"py/object": "subprocess.Popen", "args": ["true"]}'),
    "py/object image": flattened('{"image": {"py/object": "subprocess.Popen"}}'),
    "py/repr": flattened('{"image": {"py/repr": "os/os.system(\'true\')"}}'),
    "py/mod": flattened('{"image": {"py/mod": "antigravity/antigravity"}}'),
    "py/newargsex": flattened('{"py/object": "__main__.X", "py/newargsex": [[], {}]}'),
    "py/newobj": flattened(
        '{"image": {"py/reduce": ["py/newobj", {"py/tuple": [{"py/type": "os._wrap_close"}]}]}}'
    ),
    "py/set": flattened('{"image": {"py/set": [1]}}'),
    "py/iterator": flattened('{"image": {"py/iterator": [1]}}'),
    "py/ref": flattened('{"image": {"py/ref": "/"}}'),
    "py/function as a value": flattened('{"image": {"py/function": "numpy.array"}}'),
    "eval": flattened('{"image": {"py/reduce": [{"py/function": "builtins.eval"}, {"py/tuple": ["1"]}]}}'),
    "nested module": flattened(
        '{"image": {"py/reduce": [{"py/function": "numpy.f2py.os.system"}, {"py/tuple": ["true"]}]}}'
    ),
    "numpy.load": flattened(
        '{"image": {"py/reduce": [{"py/function": "numpy.load"}, {"py/tuple": ["/etc/passwd"]}]}}'
    ),
    "setstate of a dict": flattened(
        '{"image": {"py/reduce": [{"py/type": "numpy.dtype"}, {"py/tuple": ["f4", false, true]}, {"a": 1}]}}'
    ),
    "list items": flattened(
        '{"image": {"py/reduce": [{"py/function": "numpy.array"}, {"py/tuple": [[1], "f4"]}, 0, [1], 0]}}'
    ),
    "array of objects": flattened(
        '{"image": {"py/reduce": [{"py/function": "numpy.array"}, {"py/tuple": [[1], "O"]}]}}'
    ),
    "reference to nothing": flattened('{"image": {"py/id": 99}}'),
    "negative reference": flattened('{"image": {"py/id": -1}}'),
    "reference to itself": flattened('{"image": {"py/reduce": [{"py/id": 1}, {"py/tuple": []}]}}'),
    "tag among others": flattened('{"image": {"py/b64": "AAAA", "x": 1}}'),
    "bad base64": flattened('{"image": {"py/b64": "%%%"}}'),
    "base64 of another alphabet": flattened('{"image": {"py/b64": "ÄÄÄÄ"}}'),
    "image as text": flattened('{"image": "text"}'),
    "image as a list": flattened('{"image": [1, 2]}'),
    "no image": flattened("{}"),
    "a list": flattened("[]"),
    "null": flattened("null"),
    "not a string": b'{"image": {"py/b64": "AAAA"}}',
    "no JSON": b"\xff\xd8\xff",
    "empty": b"",
    "empty inside": flattened(""),
    "NaN": b"NaN",
    "depth outside": b"[" * 10_000 + b"]" * 10_000,
    "depth inside": flattened("[" * 10_000 + "]" * 10_000),
    "depth of 900": flattened("[" * 900 + "]" * 900),
    "depth of dicts": flattened('{"a":' * 500 + "1" + "}" * 500),
    "a million lists": flattened("[" + "[]," * 1_000_000 + "[]]"),
    "a million numbers": flattened("[" + "0," * 1_000_000 + "0]"),
    "a long number": flattened("1" * 100_000),
    "surrogates": flattened('{"image": {"py/b64": "\\ud800"}}'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_messages_are_refused_and_not_executed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(os, "system", calls.append)
    for decode in (decode_image_request, decode_embeddings_request):
        with pytest.raises(WireError) as caught:
            decode(HOSTILE[name])
        assert caught.value.status == 400
    assert not calls


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["image", "py/b64", "py/tuple", "py/id", "py/reduce", "py/type", "py/function", "py/object"]
        ),
        inner | st.sampled_from(["numpy.ndarray", "numpy.array", "os.system", "numpy.dtype"]),
        max_size=2,
    ),
    max_leaves=12,
))  # fmt: skip
def test_random_jsonpickle_raises_only_the_one_error(message: object) -> None:
    body = json.dumps(json.dumps(message)).encode()
    for decode in (decode_image_request, decode_embeddings_request):
        with pytest.raises(WireError):
            decode(body)
