"""Messages of the original project: its `client.py`, its server on :10003, and its embedding container.

Source: tae898/age-gender, `client.py` and `app.py`; tae898/face-detection-recognition, `app.py` (2022). A
request is a JSON string that contains jsonpickle; a response is jsonpickle. All decoders raise `WireError`.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from agegender.errors import space_mismatch
from agegender.faces import FaceGeometry
from agegender.spaces import Space
from agegender.wire.arrays import WireError
from agegender.wire.jsonpickle_reader import parse_json, restore
from agegender.wire.pickle_arrays import read_array

DIMENSION = 512
_REQUEST_ITEMS = 1_000
_ANSWER_ITEMS = 2_000_000  # about 3,000 faces with every number written out


@dataclass(frozen=True)
class OriginalFace:
    """A face in the original container's response: bbox [4], landmark [5, 2], normed_embedding [512]."""

    bbox: npt.NDArray[np.float64]
    det_score: float
    landmark: npt.NDArray[np.float64]
    normed_embedding: npt.NDArray[np.float32]


class OriginalAge(TypedDict):
    """The age of one face in the original server's response."""

    mean: float
    entropy: float


class OriginalGender(TypedDict):
    """The gender of one face in the original server's response."""

    m: float
    f: float
    entropy: float


def require_original_dimension(space: Space) -> None:
    """Raise ``space-mismatch`` 409 unless embeddings of `space` fit the original's messages."""
    if space.dimension != DIMENSION:
        raise space_mismatch(
            f"{DIMENSION}-d",
            str(space),
            f"The original's clients use embeddings of {DIMENSION} numbers, but the space is {space}. "
            "Use this service's own routes, or serve an InsightFace pack (EMBEDDER_PACK).",
        )


def decode_image_request(body: bytes) -> bytes:
    """Return the image file of `requests.post(url, json=jsonpickle.encode({"image": bytes}))`."""
    image = _request(body).get("image")
    if not isinstance(image, bytes):
        raise WireError("The message has no bytes under 'image'.")
    return image


def encode_image_request(image: bytes) -> bytes:
    """Return the body of a request that `decode_image_request` reads; its type is application/json."""
    return json.dumps(json.dumps({"image": {"py/b64": base64.b64encode(image).decode()}})).encode()


def decode_embeddings_request(body: bytes) -> npt.NDArray[np.float32]:
    """Return the embeddings [faces, 512] of `jsonpickle.encode({"embeddings": pickle.dumps(array)})`."""
    content = _request(body).get("embeddings")
    if not isinstance(content, bytes):
        raise WireError("The message has no bytes under 'embeddings'.")
    array = read_array(content)
    if array.size % DIMENSION:
        raise WireError(f"Received embeddings of shape {array.shape}; expected rows of {DIMENSION} numbers.")
    with np.errstate(over="ignore"):
        embeddings = array.reshape(-1, DIMENSION).astype(np.float32)
    if not np.isfinite(embeddings).all():
        raise WireError("An embedding contains NaN or infinite values.")
    return embeddings


def decode_faces_answer(text: bytes) -> list[OriginalFace]:
    """Return the faces of the original embedding container's response, in its order."""
    answer = restore(parse_json(text, _ANSWER_ITEMS))
    faces = answer.get("face_detection_recognition") if isinstance(answer, dict) else None
    if not isinstance(faces, list):
        raise WireError("The answer has no list under 'face_detection_recognition'.")
    return [_face(face) for face in faces]


def encode_faces_answer(faces: Sequence[tuple[FaceGeometry, Sequence[float]]]) -> bytes:
    """Return the response that the original's client reads, from (geometry, embedding) of each face."""
    return _compact(
        {
            "face_detection_recognition": [
                {
                    "bbox": _array(list(geometry.bbox), "float64"),
                    "det_score": geometry.det_score,
                    "landmark": _array([list(point) for point in geometry.landmarks], "float64"),
                    "normed_embedding": _array(list(embedding), "float32"),
                }
                for geometry, embedding in faces
            ]
        }
    )


def encode_predictions_answer(ages: Sequence[OriginalAge], genders: Sequence[OriginalGender]) -> bytes:
    """Return the response of the original's server on :10003; plain numbers need no jsonpickle tags."""
    return _compact({"ages": list(ages), "genders": list(genders)})


def _request(body: bytes) -> dict[str, Any]:
    outer = parse_json(body, _REQUEST_ITEMS)
    if not isinstance(outer, str):
        raise WireError("The body is not a JSON string that contains jsonpickle.")
    message = restore(parse_json(outer, _REQUEST_ITEMS))
    if not isinstance(message, dict):
        raise WireError("The message is not a dict.")
    return message


def _face(face: Any) -> OriginalFace:
    if not isinstance(face, dict):
        raise WireError("A face is not a dict.")
    return OriginalFace(
        bbox=_numbers(face.get("bbox"), (4,)),
        det_score=float(_numbers(face.get("det_score"), ())),
        landmark=_numbers(face.get("landmark"), (5, 2)),
        normed_embedding=_numbers(face.get("normed_embedding"), (DIMENSION,)).astype(np.float32),
    )


def _numbers(value: Any, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    if not isinstance(value, np.ndarray | np.number | float | int) or np.shape(value) != shape:
        raise WireError(
            f"A face has a value of type {type(value).__name__}; expected numbers of shape {shape}."
        )
    array = np.asarray(value, dtype=np.float64)
    if not np.isfinite(array).all():
        raise WireError("A face contains NaN or infinite values.")
    return array


def _array(values: list[Any], dtype: str) -> dict[str, Any]:
    # NumPy's own reduction refers to numpy.core, which NumPy 2 renames; every version has numpy.array.
    return {"py/reduce": [{"py/function": "numpy.array"}, {"py/tuple": [values, dtype]}]}


def _compact(message: object) -> bytes:
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
