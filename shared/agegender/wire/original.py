"""Messages of the original project: its `client.py`, its server on :10003, and its embedding container.

Source: tae898/age-gender, `client.py` and `app.py`; tae898/face-detection-recognition, `app.py` (2022). A
request is a JSON string that contains jsonpickle; a response is jsonpickle. All decoders raise `WireError`.

Of jsonpickle only arrays, numbers, text, bytes, lists and dicts are read. It numbers the objects of a message
and writes `{"py/id": n}` for a repeated one. Versions 2 to 4 count lists, dicts and reduced objects from 0;
version 1 does not count dicts.
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
from agegender.wire.arrays import (
    ArrayBuilder,
    ArrayCell,
    WireError,
    finished,
    only_wire_errors,
    read_array,
    symbol,
)

DIMENSION = 512
_MAX_DEPTH = 32
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
    answer = _restored(_parse_json(text, _ANSWER_ITEMS))
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
    outer = _parse_json(body, _REQUEST_ITEMS)
    if not isinstance(outer, str):
        raise WireError("The body is not a JSON string that contains jsonpickle.")
    message = _restored(_parse_json(outer, _REQUEST_ITEMS))
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


def _parse_json(text: bytes | str, max_items: int) -> Any:
    """Parse JSON of at most about `max_items` values, without NaN and infinity. Raises `WireError`."""
    with only_wire_errors():
        content = text.encode() if isinstance(text, str) else text
        # Checked before parsing, because a million empty lists are small as text but large in memory.
        if sum(map(content.count, (b",", b"[", b"{"))) > max_items:
            raise WireError("The message has too many items.")
        return json.loads(content, parse_constant=_refuse_constant)


def _restored(flat: Any) -> Any:
    """Return the Python value of parsed jsonpickle, whatever its version's numbering. Raises `WireError`."""
    with only_wire_errors():
        try:
            return _Restorer(counts_dicts=True).restore(flat, 0)
        except WireError as error:
            try:
                return _Restorer(counts_dicts=False).restore(flat, 0)
            except WireError:
                raise error from None


class _Restorer:
    def __init__(self, *, counts_dicts: bool) -> None:
        self._counts_dicts = counts_dicts
        self._objects: list[Any] = []
        self._builder = ArrayBuilder(0)

    def restore(self, flat: Any, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise WireError("The message is nested too deeply.")
        if isinstance(flat, list):
            return self._list(flat, depth)
        if not isinstance(flat, dict):
            return flat
        tags = [name for name in flat if name.startswith("py/")]
        if not tags:
            return self._dict(flat, depth)
        if len(flat) != 1:
            raise WireError("The message mixes jsonpickle's tags with other members.")
        return self._tagged(tags[0], flat[tags[0]], depth)

    def _tagged(self, tag: str, content: Any, depth: int) -> Any:
        match tag, content:
            case "py/b64", str():
                return base64.b64decode(content.replace("\n", ""), validate=True)
            case "py/tuple", list():
                return tuple(self.restore(item, depth + 1) for item in content)
            case "py/type" | "py/function", str():
                return symbol(content)
            case "py/id", int():
                return self._earlier(content)
            case "py/reduce", [function, arguments, *state] if len(state) <= 3 and not any(state[1:]):
                return self._reduced(function, arguments, state[0] if state else None, depth)
        raise WireError(f"The message has the jsonpickle tag {tag[:20]!r}, which arrays do not need.")

    def _list(self, flat: list[Any], depth: int) -> list[Any]:
        result: list[Any] = []
        self._objects.append(result)
        result.extend(finished(self.restore(item, depth + 1)) for item in flat)
        return result

    def _dict(self, flat: dict[str, Any], depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        if self._counts_dicts:
            self._objects.append(result)
        for name, item in flat.items():
            result[name] = finished(self.restore(item, depth + 1))
        return result

    def _reduced(self, function: Any, arguments: Any, state: Any, depth: int) -> Any:
        index = len(self._objects)
        self._objects.append(None)
        called, given, set_state = (self.restore(item, depth + 1) for item in (function, arguments, state))
        result = self._builder.call(called, given)
        if set_state is not None:
            self._builder.build(result, set_state)
        if isinstance(result, ArrayCell):
            result = finished(result)
        self._objects[index] = result
        return result

    def _earlier(self, index: int) -> Any:
        if not 0 <= index < len(self._objects) or self._objects[index] is None:
            raise WireError("The message refers to an object that it does not contain.")
        return self._objects[index]


def _refuse_constant(name: str) -> Any:
    raise WireError(f"{name} is not a number.")
