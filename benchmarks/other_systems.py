"""The wire formats of other systems against `POST /age-gender`, for the same image in the same encoding."""

import base64
import json
import statistics
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx
import msgpack

from benchmarks.serving import UNCACHED, running
from benchmarks.table import Goal, Row, seconds_of
from tools.stack import PHOTOGRAPH

REQUESTS = 60
_WARM = 3  # requests that are not counted
_GOAL = 1.05
_JSON = {"Content-Type": "application/json"}
_PLUGINS = "face_plugins=age,gender,landmarks&status=true"
_EXTRACT = {"extract_ga": True, "extract_embedding": False, "return_landmarks": True}


@dataclass(frozen=True)
class Post:
    """A request with one image."""

    path: str
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def send(self, http: httpx.Client, url: str) -> None:
        http.post(url + self.path, content=self.content, headers=dict(self.headers)).raise_for_status()


def posts(image: bytes) -> dict[str, tuple[Post, Post]]:
    """Return, by system, a request in its wire format and ours that sends the image in the same encoding."""
    text = base64.b64encode(image).decode()
    raw = Post("/age-gender", image, {"Content-Type": "image/jpeg"})
    as_json = Post("/age-gender", json.dumps({"images": [text]}).encode(), _JSON)
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1]}
    binary = {**tensor, "parameters": {"binary_data_size": 4 + len(image)}}
    head = json.dumps({"inputs": [binary], "parameters": {"binary_data_output": True}}).encode()
    return {
        "Amazon Rekognition": (
            Post(
                "/rekognition",
                json.dumps({"Image": {"Bytes": text}, "Attributes": ["ALL"]}).encode(),
                {
                    "Content-Type": "application/x-amz-json-1.1",
                    "X-Amz-Target": "RekognitionService.DetectFaces",
                },
            ),
            as_json,
        ),
        "KServe V2, binary": (
            Post(
                "/v2/models/age-gender/infer",
                head + struct.pack("<I", len(image)) + image,
                {"Inference-Header-Content-Length": str(len(head))},
            ),
            raw,
        ),
        "KServe V2, JSON": (
            Post(
                "/v2/models/age-gender/infer",
                json.dumps({"inputs": [{**tensor, "data": [text]}]}).encode(),
                _JSON,
            ),
            as_json,
        ),
        "CompreFace, multipart": (
            _form(f"/compreface/api/v1/detection/detect?{_PLUGINS}", "file", image),
            _form("/age-gender", "image", image),
        ),
        "CompreFace, JSON": (
            Post(
                f"/compreface/api/v1/detection/detect?{_PLUGINS}", json.dumps({"file": text}).encode(), _JSON
            ),
            as_json,
        ),
        "deepface": (
            Post(
                "/deepface/analyze", json.dumps({"img": text, "actions": ["age", "gender"]}).encode(), _JSON
            ),
            as_json,
        ),
        "InsightFace-REST, JSON": (
            Post(
                "/insightface-rest/extract",
                json.dumps({"images": {"data": [text]}, **_EXTRACT}).encode(),
                _JSON,
            ),
            as_json,
        ),
        "InsightFace-REST, MessagePack": (
            Post(
                "/insightface-rest/extract",
                msgpack.packb({"images": {"data": [image]}, **_EXTRACT}),
                {"Content-Type": "application/msgpack", "Accept": "application/x-msgpack"},
            ),
            raw,
        ),
    }


def _form(path: str, name: str, image: bytes) -> Post:
    request = httpx.Request("POST", "http://unused", files={name: ("t1.jpg", image, "image/jpeg")})
    return Post(path, request.read(), {"Content-Type": request.headers["content-type"]})


def rows() -> list[Row]:
    with running(**UNCACHED) as stack, httpx.Client(timeout=120, trust_env=False) as http:
        url = stack.url("predictor")
        return [
            _row(http, url, name, theirs, ours)
            for name, (theirs, ours) in posts(PHOTOGRAPH.read_bytes()).items()
        ]


def _row(http: httpx.Client, url: str, name: str, theirs: Post, ours: Post) -> Row:
    """Compare medians of single requests, sent alternately: load of other programs then slows both sides."""
    seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
    for turn in range(_WARM + REQUESTS):
        sides = {"theirs": theirs, "ours": ours}
        for side in sides if turn % 2 else reversed(sides):
            spent = seconds_of(lambda post=sides[side]: post.send(http, url))  # type: ignore[misc]
            if turn >= _WARM:
                seconds[side].append(spent)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    return Row(
        f"wire format of {name}, t1.jpg (six faces): p50",
        "POST /age-gender with the image in the same encoding",
        medians["theirs"] / medians["ours"],
        Goal(_GOAL, at_most=True),
        seconds=medians,
        note=f"without the cache, {REQUESTS} requests each, alternately",
    )
