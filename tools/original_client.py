"""`python -m tools.original_client`: record what tae898/age-gender's `client.py` sends and reads.

The system must serve a 512-d space: `EMBEDDER_PACK=buffalo_sc make up`. The image is scikit-image's
`astronaut`, Eileen Collins, a NASA photograph in the public domain. Images and embeddings are abridged.
"""

import argparse
import json
import pickle
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from pprint import pformat
from typing import Any

import jsonpickle
import numpy as np
import requests

from tools.machine import PORTS
from tools.screenshots import photograph
from tools.stack import ROOT

DOCUMENT = ROOT / "docs" / "original-client.md"
_TEXT, _NUMBERS = 24, 2  # characters of a string and numbers of a list that are recorded
_SECONDS = 60


@dataclass(frozen=True)
class Exchange:
    """One request of the client: its body as sent, and the text of the response."""

    url: str
    body: str
    status: int
    text: str

    @property
    def decoded(self) -> Any:
        with warnings.catch_warnings(action="ignore"):  # jsonpickle announces version 5
            return jsonpickle.decode(self.text)  # noqa: S301  as the client does


def post(url: str, message: dict[str, bytes]) -> Exchange:
    """Send a message as the client does: `requests` encodes a jsonpickle string as JSON once more."""
    with warnings.catch_warnings(action="ignore"):
        body = jsonpickle.encode(message)
    with requests.Session() as session:
        session.trust_env = False  # neither a proxy nor .netrc for a service on this machine
        answer = session.post(url, json=body, timeout=_SECONDS)
    return Exchange(url, str(answer.request.body, "utf-8"), answer.status_code, answer.text)  # type: ignore[arg-type]


def ask_faces(url: str, image: bytes) -> Exchange:
    return post(url, {"image": image})


def ask_ages_and_genders(url: str, faces: list[dict[str, Any]]) -> Exchange:
    rows = np.array([face["normed_embedding"] for face in faces]).reshape(-1, 512).astype(np.float32)
    return post(url, {"embeddings": pickle.dumps(rows)})


class _Command:
    """A value that a hostile client would send instead of an array."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, ("__import__('os').abort()",)


def recorded(proxy: str, predictor: str) -> str:
    """Return the session as Markdown. Raises `SystemExit` if the system returns an error."""
    faces = _successful(ask_faces(f"{proxy}/", photograph()))
    found = faces.decoded["face_detection_recognition"]
    predictions = _successful(ask_ages_and_genders(f"{predictor}/", found))
    refused = post(f"{predictor}/", {"embeddings": pickle.dumps(_Command())})
    info = requests.get(f"{predictor}/info", timeout=_SECONDS).json()
    packages = ", ".join(f"{name} {version(name)}" for name in ("requests", "jsonpickle", "numpy"))
    return f"""# The original's client

A recorded session of what `client.py` of tae898/age-gender sends and reads, with {packages},
against the running system in the space `{info["space"]["id"]}`.
`python -m tools.original_client` wrote this page.
The image is the public-domain photograph of Eileen Collins. `…` marks omissions.

## An image to the embedder-proxy, `:10002/`

{_session(faces)}

`jsonpickle.decode` returns NumPy arrays:

```
{_shape(found)}
```

## Embeddings to the predictor, `:10003/`

{_session(predictions)}

`jsonpickle.decode` returns:

```
{pformat(predictions.decoded, width=100, sort_dicts=False)}
```

## A pickle that would run a command

Nothing is executed. The parser accepts only the opcodes that arrays of numbers need, and rejects all others.

{_session(refused)}
"""


def _successful(exchange: Exchange) -> Exchange:
    if exchange.status != 200:
        raise SystemExit(f"error: {exchange.url} answered {exchange.status}: {exchange.text[:500]}")
    return exchange


def _session(exchange: Exchange) -> str:
    sent = json.dumps(_shortened(json.loads(json.loads(exchange.body))), ensure_ascii=False)
    answer = json.dumps(_shortened(json.loads(exchange.text)), ensure_ascii=False)
    path = "/" + exchange.url.partition("://")[2].partition("/")[2]
    return f"""```
POST {path}
Content-Type: application/json

{json.dumps(sent, ensure_ascii=False)}
```

```
{exchange.status}

{answer}
```"""


def _shortened(value: Any) -> Any:
    match value:
        case dict():
            return {name: item if name == "detail" else _shortened(item) for name, item in value.items()}
        case list() if len(value) > 5 and all(isinstance(item, float | int) for item in value):
            return [*value[:_NUMBERS], f"… {len(value) - _NUMBERS} more"]
        case list():
            return [_shortened(item) for item in value]
        case str() if len(value) > 2 * _TEXT:
            return f"{value[:_TEXT]}… ({len(value)} characters)"
    return value


def _shape(faces: list[dict[str, Any]]) -> str:
    lines = []
    for number, face in enumerate(faces):
        for name, value in face.items():
            what = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)
            lines.append(f"faces[{number}]['{name}']: {type(value).__name__} {what}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("embedder-proxy", "predictor"):
        parser.add_argument(f"--{name}", default=f"http://127.0.0.1:{PORTS[name]}")
    parser.add_argument("--output", type=Path, default=DOCUMENT)
    arguments = parser.parse_args()
    arguments.output.write_text(recorded(arguments.embedder_proxy, arguments.predictor))
    print(arguments.output)


if __name__ == "__main__":
    main()
