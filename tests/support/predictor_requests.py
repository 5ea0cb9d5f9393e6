"""Requests that several tests send to the predictor, and how they read a problem."""

import base64
import io
import json
import pickle
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.support.embedder_double import SPACE, faces_of


def png(colour: str = "grey", size: tuple[int, int] = (100, 100)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def original_request(embeddings: np.ndarray) -> str:
    """Return what the original's client sends, as JSON."""
    content = base64.b64encode(pickle.dumps(embeddings)).decode()
    return json.dumps({"embeddings": {"py/b64": content}})


def slug(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    return str(response.json()["type"]).rsplit(":", 1)[-1]


def embedding(**changes: Any) -> dict[str, Any]:
    return {"space": SPACE.id, "embeddings": [faces_of(png()).faces[0].embedding], **changes}
