"""The requests of InsightFace-REST's clients, which no package index has, in the forms that they send."""

import base64
from collections.abc import Sequence
from typing import Any

import msgpack
import requests


def extract(url: str, images: Sequence[bytes], *, use_msgpack: bool, **options: Any) -> Any:
    """Send what `demo_client.py` sends: images in base64, and the wish for MessagePack as a member."""
    data = [base64.b64encode(image).decode("ascii") for image in images]
    request = _request(data, use_msgpack, api_ver="2", **options)
    return _content(requests.post(f"{url}/extract", json=request, timeout=120))


def extract_packed(url: str, images: Sequence[bytes], **options: Any) -> Any:
    """Send what the newer `ifr_clients` send: MessagePack, with the images as they are."""
    headers = {"content-type": "application/msgpack", "accept": "application/x-msgpack"}
    packed = msgpack.dumps(_request(list(images), True, return_landmarks=False, **options))
    return _content(requests.post(f"{url}/extract", data=packed, headers=headers, timeout=120))


def _request(images: list[Any], use_msgpack: bool, **options: Any) -> dict[str, Any]:
    return {
        "images": {"data": images},
        "threshold": 0.6,
        "extract_ga": False,
        "extract_embedding": True,
        "return_face_data": False,
        "embed_only": False,
        "limit_faces": 0,
        "msgpack": use_msgpack,
        **options,
    }


def _content(answer: requests.Response) -> Any:
    if answer.headers["content-type"] == "application/x-msgpack":
        return msgpack.loads(answer.content)
    return answer.json()
