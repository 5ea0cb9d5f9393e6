"""Files of a data folder that were made to break their readers: labels, tables, arrays, heads."""

import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from agegender.heads.head import Task
from agegender.spaces import Space
from scipy.io import savemat

from tests.support.made_heads import made_head
from tests.support.mat_files import compressed, element, mat_file, matrix, nested_cells

FORMULAS = (
    "=1+1", "=cmd|'/C calc'!A0", "+1-1", "-1+1", "@SUM(1)", "=HYPERLINK(0)", "\t=1", "1e5", "nan", "inf",
)  # fmt: skip
ELSEWHERE = (
    "../x.jpg", "/etc/passwd", "a/../../x.jpg", "..\\x.jpg", "a//x.jpg", "file:///etc/passwd", "//host/x.jpg",
    "http://127.0.0.1/x.jpg", "C:\\x.jpg", "x\x1b[2J.jpg", "", "x" * 2000, "out/passwd", "%2e%2e/x.jpg",
)  # fmt: skip

LABELS: dict[str, bytes] = {
    "formulas": ("file,age,gender,subject,fold\n" + "".join(
        f'"{n}.jpg","{formula}",m,,\n"g{n}.jpg",30,"{formula}",,\n"f{n}.jpg",30,m,,"{formula}"\n'
        for n, formula in enumerate(FORMULAS)
    )).encode(),
    "names elsewhere": ("file,age\n" + "".join(f'"{name}",30\n' for name in ELSEWHERE)).encode(),
    "cell of 10 MB": b"file,age\nx.jpg," + b"9" * 10_000_000 + b"\n",
    "quote that never ends": b'file,age\n"x.jpg,3\n' + b"y.jpg,4\n" * 100_000,
    "Latin-1": "file,age\nä.jpg,3\n".encode("latin-1"),
    "UTF-16": "file,age\nx.jpg,3\n".encode("utf-16"),
    "NUL": b"file,age\nx\0.jpg,3\n",
}  # fmt: skip


def _wiki(gender: Any) -> bytes:
    """IMDB-WIKI's table of one face."""
    text, number = np.array([["a/b.jpg"]], dtype=object), np.array([[2009.0]])
    columns = {"full_path": text, "name": text, "dob": 365.0 * number, "photo_taken": number}
    file = io.BytesIO()
    savemat(file, {"wiki": {**columns, "gender": gender}})
    return file.getvalue()


def tables() -> dict[str, bytes]:
    """`wiki.mat` of IMDB-WIKI; making them takes seconds and a gigabyte."""
    return {
        "dimensions of 2^60": mat_file(matrix(6, (2**30, 2**30), element(9, bytes(8)))),
        "cells of nothing": mat_file(compressed(matrix(1, (2**24, 1), bytes(2**27)))),
        "bytes that become numbers": mat_file(compressed(matrix(6, (2**28, 1), element(2, bytes(2**28))))),
        "zip bomb": mat_file(compressed(matrix(6, (2**29, 1), element(2, bytes(2**29))))),
        "cells within cells": mat_file(compressed(nested_cells(2000))),
        "text for numbers": _wiki(np.array([["1"]], dtype=object)),
    }


def _npy(shape: str, descr: str, content: bytes) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + content


def _objects(content: bytes) -> bytes:
    return _npy("()", "|O", content)


class _Planted:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def _saved(value: object) -> bytes:
    """Save a value as the original saved its samples."""
    holder = np.empty((), dtype=object)
    holder[()] = value
    file = io.BytesIO()
    np.save(file, holder)
    return file.getvalue()


def _face(**changes: object) -> dict[str, object]:
    return {
        "image_path": "a/b.jpg",
        "age": 30.0,
        "gender": "m",
        "embedding": np.ones(512, np.float32),
        **changes,
    }


def original_files(mark: Path) -> dict[str, bytes]:
    """`data.npy` as the original wrote it, but for what breaks its reader."""
    shared = [_face()] * 100_000
    return {
        "gadget": _saved({0: [_face(age=_Planted(mark))]}),
        "lists without end": _objects(b"\x80\x04" + b"]" * 8_000_000 + b"."),
        "one face 100,000 times": _saved({0: shared}),
        "one fold 10,000 times": _saved(dict.fromkeys(range(10_000), shared)),
        "a name of 10 MB": _saved({0: [_face(), _face(image_path="x" * 10_000_000)]}),
        "numbers as text": _saved({"0": [_face(age="30")]}),
        "embeddings that are infinite": _saved({0: [_face(embedding=np.full(512, np.inf, np.float32))]}),
        "a shape of 10^12": _npy("(1000000000000,)", "|O", b""),
    }


def _archive(*entries: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


def extracted_sets() -> dict[str, bytes]:
    """`data-images.npz` of an extracted data set."""
    bomb = _npy("(500000000,)", "|u1", bytes(500_000_000))
    entry = _npy("(4,)", "<f4", bytes(16))
    sizes = struct.pack("<II", len(entry), len(entry))
    return {
        "500 MB in 500 kB": _archive(("file.npy", bomb), compression=zipfile.ZIP_DEFLATED),
        "a shape of 10^12": _archive(("file.npy", _npy("(1000000000000,)", "<f4", bytes(16)))),
        "objects": _archive(("file.npy", _npy("(1,)", "|O", pickle.dumps([1])))),
        "an entry stated larger": _archive(("file.npy", entry)).replace(
            sizes, struct.pack("<II", 2**31, 2**31)
        ),
        "code for a header": _archive(("file.npy", b"\x93NUMPY\x01\x00\x1c\x00__import__('os').system('x')")),
        "no archive": b"PK\x03\x04" + bytes(1000),
    }


def _rewritten(directory: Path, weights: bytes, **changes: object) -> None:
    """Weights with their true hash in head.json, and other members of it changed."""
    manifest = json.loads((directory / "head.json").read_text())
    manifest |= {"weights_sha256": hashlib.sha256(weights).hexdigest(), **changes}
    (directory / "head.safetensors").write_bytes(weights)
    (directory / "head.json").write_text(json.dumps(manifest))


def _with_header(weights: bytes, header: object) -> bytes:
    length = int.from_bytes(weights[:8], "little")
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + weights[8 + length :]


def lying_heads(models: Path, space: Space) -> list[str]:
    """Versions of age heads, written to `models`, whose files lie; their hashes are right."""
    versions: list[str] = []

    def new() -> tuple[Path, bytes, dict[str, Any]]:
        directory = made_head(models, Task.AGE, space, f"lie-{len(versions)}")
        versions.append(directory.name)
        weights = (directory / "head.safetensors").read_bytes()
        return directory, weights, json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])

    for length in (2**63, 2**31, 0):
        directory, weights, _ = new()
        _rewritten(directory, length.to_bytes(8, "little") + weights[8:])
    directory, weights, _ = new()
    _rewritten(directory, (60_000_000).to_bytes(8, "little") + b'{"a":' * 12_000_000)
    for change in (
        {"dtype": "F64"}, {"dtype": "BOOL"}, {"shape": [2**40, 2**40]}, {"shape": [-1, 4]},
        {"shape": ["2", 32]}, {"data_offsets": [0, 2**40]}, {"data_offsets": [64, 0]},
    ):  # fmt: skip
        directory, weights, header = new()
        header["output.weight"] |= change
        _rewritten(directory, _with_header(weights, header))
    directory, weights, header = new()
    header |= {f"more{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(10_000)}
    _rewritten(directory, _with_header(weights, header))
    lies: list[dict[str, Any]] = [
        {"members": 1024}, {"members": "2"}, {"architecture": {"kind": "mlp", "hidden": [4096] * 8}},
        {"temperature": float("nan")}, {"card": {"metrics": float("inf")}},
        {"conformal": {"widening": [], "faces": []}},
        {"space": {"id": "../..", "dimension": space.dimension}},
    ]  # fmt: skip
    for changes in lies:
        directory, weights, _ = new()
        _rewritten(directory, weights, **changes)
    for name in ("head.json", "head.safetensors"):
        directory, _, _ = new()
        (directory / name).unlink()
        (directory / name).symlink_to("/dev/zero")
        directory, _, _ = new()
        (directory / name).unlink()
        os.mkfifo(directory / name)
    return versions
