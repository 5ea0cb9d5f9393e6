"""Hostile requests in the wire formats of other systems. Each format defines how it carries an image."""

import base64
import http.client
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

import msgpack

LARGE = 24 * 1024 * 1024  # bytes of an image above the limit of 20 MiB
SWELLING = 8 * 1024 * 1024  # bytes of a body whose values take more memory than their text
HUGE = 2**62
DEEP = 100_000

_JSON = "application/json"
_KSERVE = "/v2/models/age-gender/infer"
_HEADER = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Hostile:
    """A body and its headers. `declared` replaces the true Content-Length."""

    body: bytes
    headers: dict[str, str]
    declared: int | None = None


@dataclass(frozen=True)
class Adapter:
    """A route in one of the encodings that it accepts.

    carrying : returns a request with an image.
    text : returns a JSON body with a value at the place of the image; None if the encoding is not JSON.
    always_200 : whether problems of an image are part of a successful response.
    """

    path: str
    carrying: Callable[[bytes], Hostile]
    text: Callable[[str], str] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    always_200: bool = False

    def requests(self) -> Iterator[tuple[str, Hostile]]:
        """Yield the hostile requests with their names."""
        large = self.carrying(bytes(LARGE))
        yield "not an image", self.carrying(b"not an image")
        yield "no bytes", self.carrying(b"")
        yield "too large", large
        yield "cut in half", Hostile(large.body[: len(large.body) // 2], large.headers)
        yield "a declared length of 4 EiB", Hostile(b"x" * 1000, large.headers, declared=HUGE)
        yield "a body of nothing", Hostile(b"", large.headers)
        if self.text is not None:
            values = {
                "nested lists": "[" * DEEP + "]" * DEEP,
                "nested objects": '{"a":' * DEEP + "1" + "}" * DEEP,
                "lists without end": "[" * SWELLING,
                "empty lists": "[" + "[]," * (SWELLING // 3) + "[]]",
                "zeros": "[" + "0," * (SWELLING // 2) + "0]",
                "many names": "{" + ",".join(f'"{n}":0' for n in range(SWELLING // 10)) + "}",
                "a number of 8 million digits": "9" * SWELLING,
                "text of escapes": '"' + "\\u0041" * (SWELLING // 6) + '"',
            }
            for name, value in values.items():
                body = self.text(value).encode()
                yield name, Hostile(body, self.headers)


def _encoded(image: bytes) -> str:
    return json.dumps(base64.b64encode(image).decode())


def _json(path: str, template: str, *, always_200: bool = False, **headers: str) -> Adapter:
    """Return an adapter whose JSON has the image in place of `IMAGE`."""
    named = {"Content-Type": _JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}

    def text(value: str) -> str:
        return template.replace("IMAGE", value)

    def carrying(image: bytes) -> Hostile:
        return Hostile(text(_encoded(image)).encode(), named)

    return Adapter(path, carrying, text, named, always_200)


def _form(path: str, name: str) -> Adapter:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}

    def carrying(image: bytes) -> Hostile:
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="x.jpg"\r\n\r\n'
        return Hostile(head.encode() + image + b"\r\n--b--\r\n", headers)

    return Adapter(path, carrying, headers=headers)


def _urlencoded(path: str) -> Adapter:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}

    def carrying(image: bytes) -> Hostile:
        return Hostile(urlencode({"img": base64.b64encode(image)}).encode(), headers)

    return Adapter(path, carrying, headers=headers)


def _kserve_binary() -> Adapter:
    return Adapter(_KSERVE, lambda image: tensors(struct.pack("<I", len(image)) + image))


def tensors(binary: bytes, **changes: object) -> Hostile:
    """Return a request to KServe with binary data; `changes` are those of the input tensor."""
    size = changes.pop("binary_data_size", len(binary))
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [{**tensor, **changes}]}).encode()
    return Hostile(head + binary, {_HEADER: str(len(head))})


def _insightface_packed() -> Adapter:
    headers = {"Content-Type": "application/msgpack"}

    def carrying(image: bytes) -> Hostile:
        return Hostile(msgpack.packb({"images": {"data": [image]}}), headers)

    return Adapter("/insightface-rest/extract", carrying, headers=headers, always_200=True)


_COMPREFACE = "/compreface/api/v1/detection/detect"
_TENSOR = '{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [IMAGE]}]}'
ADAPTERS = {
    "Rekognition": _json(
        "/rekognition",
        '{"Image": {"Bytes": IMAGE}, "Attributes": ["ALL"]}',
        Content_Type="application/x-amz-json-1.1",
        X_Amz_Target="RekognitionService.DetectFaces",
    ),
    "KServe, JSON": _json(_KSERVE, _TENSOR),
    "KServe, binary": _kserve_binary(),
    "CompreFace, JSON": _json(_COMPREFACE, '{"file": IMAGE}'),
    "CompreFace, form": _form(_COMPREFACE, "file"),
    "deepface, JSON": _json("/deepface/analyze", '{"img": IMAGE, "actions": ["age"]}'),
    "deepface, form": _form("/deepface/analyze", "img"),
    "deepface, URL-encoded": _urlencoded("/deepface/analyze"),
    "InsightFace-REST, JSON": _json(
        "/insightface-rest/extract", '{"images": {"data": [IMAGE]}}', always_200=True
    ),
    "InsightFace-REST, MessagePack": _insightface_packed(),
    "our own, JSON": _json("/age-gender", '{"image": IMAGE}'),
    "our own, form": _form("/age-gender", "image"),
}


def special_requests() -> Iterator[tuple[str, str, Hostile]]:
    """Yield (adapter, name, request) of what only one encoding can declare."""
    image = struct.pack("<I", 3) + b"abc"
    binary = "KServe, binary"
    yield binary, "an element of 4 GiB", tensors(struct.pack("<I", 2**32 - 1) + bytes(1000))
    yield binary, "a size of 4 EiB", tensors(image, binary_data_size=HUGE)
    yield binary, "a shape of 2^62", tensors(image, shape=[HUGE])
    yield binary, "a shape of 2^496", tensors(image, shape=[HUGE] * 8)
    yield binary, "a shape of 10 million dimensions", tensors(image, shape=[1] * 10_000_000)
    yield binary, "a million empty images", tensors(bytes(4_000_000), shape=[1_000_000])
    for length in (str(HUGE), "9" * 5000, "-1", "x"):
        sent = tensors(image)
        headers = {**sent.headers, _HEADER: length}
        yield binary, f"a header length of {length[:20]}", Hostile(sent.body, headers)
    packed, headers = "InsightFace-REST, MessagePack", {"Content-Type": "application/msgpack"}
    for name, content in {
        "4 GiB of bytes": b"\xc6\xff\xff\xff\xff",
        "4 GiB of text": b"\xdb\xff\xff\xff\xff",
        "2^32 items": b"\xdd\xff\xff\xff\xff",
        "2^32 names": b"\xdf\xff\xff\xff\xff",
    }.items():
        prefix = b"\x81\xa6images\x81\xa4data\x91"
        yield packed, name, Hostile(prefix + content + bytes(SWELLING), headers)
    yield packed, "nested lists", Hostile(b"\x91" * SWELLING, headers)
    for adapter in ("CompreFace, form", "deepface, form", "our own, form"):
        for name, head in {
            "a boundary that never comes": b"",
            "a part without end": b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n',
            "a header without end": b"--b\r\nX: ",
        }.items():
            yield adapter, name, Hostile(head + b"x" * LARGE, ADAPTERS[adapter].headers)
        unnamed = {"Content-Type": "multipart/form-data"}
        yield adapter, "no boundary at all", Hostile(b"-" * LARGE, unnamed)
        part = b'--b\r\nContent-Disposition: form-data; name="x"; filename="y"\r\n\r\nz\r\n'
        parts = part * (SWELLING // len(part))
        yield adapter, "100,000 files", Hostile(parts + b"--b--\r\n", ADAPTERS[adapter].headers)
    fields = b"&".join(b"%d=x" % number for number in range(SWELLING // 10))
    urlencoded = "deepface, URL-encoded"
    yield urlencoded, "a million fields", Hostile(fields, ADAPTERS[urlencoded].headers)


def hostile_requests(adapter: str) -> list[tuple[str, Hostile]]:
    """Return all requests of an adapter with their names."""
    special = [(name, sent) for of, name, sent in special_requests() if of == adapter]
    return [*ADAPTERS[adapter].requests(), *special]


def status(url: str, path: str, sent: Hostile) -> int:
    """Send a request; return the status of the response, or 0 if the connection was closed without one."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.putrequest("POST", path)
        length = len(sent.body) if sent.declared is None else sent.declared
        for name, value in {"Content-Length": str(length), **sent.headers}.items():
            connection.putheader(name, value)
        with suppress(OSError):  # the response may come before all of the body is sent
            connection.endheaders(sent.body)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()
