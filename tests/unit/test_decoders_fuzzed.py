"""Decoders, fuzzed: whatever the bytes, there is an answer or the one error that each promises."""

import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from agegender.errors import Problem
from agegender.files import read_json, read_npz, write_npz
from agegender.heads.head import BadHead, Task, load_head
from agegender.images import FORMATS, ImageLimits, decode, read_header
from agegender.spaces import Space
from agegender.wire import (
    WireError,
    decode_embeddings_request,
    decode_image_request,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer.datasets.formats import tables
from trainer.datasets.formats.imdb_wiki import BadMatFile, read_mat
from trainer.datasets.labels import checked_rows
from trainer.datasets.original import read_original_dataset

from tests.support.hostile_data import FORMULAS, original_files
from tests.support.hostile_messages import gadgets, original
from tests.support.hostile_pictures import picture
from tests.support.made_heads import made_head
from tests.support.mat_files import compressed, element, mat_file, matrix

FOLDER = Path(tempfile.mkdtemp())
SPACE = Space(id="made-1", dimension=8)
SMALL = ImageLimits(max_bytes=2**20, max_pixels=10**6)
# Where, from the front; and what stands there instead.
CHANGES = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=6)


def saved(content: bytes, name: str) -> Path:
    path = FOLDER / name
    path.write_bytes(content)
    return path


def npz() -> bytes:
    write_npz(FOLDER / "whole.npz", {"a": np.ones((2, 3), np.float32), "b": np.array(["x", "y"])})
    return (FOLDER / "whole.npz").read_bytes()


def original_npy() -> bytes:
    faces = [{"image_path": "a/b.jpg", "age": 30.0, "gender": "m", "embedding": np.ones(4, np.float32)}]
    holder = np.empty((), dtype=object)
    holder[()] = {0: faces}
    np.save(FOLDER / "whole.npy", holder)
    return (FOLDER / "whole.npy").read_bytes()


def mat() -> bytes:
    cells = matrix(1, (2, 1), matrix(6, (1, 1), element(9, bytes(8))) * 2)
    return mat_file(compressed(cells), matrix(4, (1, 3), element(16, b"abc")))


def head_of(weights: bytes) -> None:
    (HEAD / "head.safetensors").write_bytes(weights)
    load_head(HEAD)


HEAD = made_head(FOLDER / "models", Task.AGE, SPACE, "v1")
MANIFEST = (HEAD / "head.json").read_bytes()
WEIGHTS = (HEAD / "head.safetensors").read_bytes()


def head_with(manifest: bytes) -> None:
    (HEAD / "head.json").write_bytes(manifest)
    try:
        load_head(HEAD)
    finally:
        (HEAD / "head.json").write_bytes(MANIFEST)


def labels_of(content: bytes) -> None:
    list(checked_rows(tables.read(saved(content, "labels.csv").parent, "images")))


TABLE = (
    "file,age,gender,subject,fold\n" + "".join(f'x{n}.jpg,"{f}",m,s,1\n' for n, f in enumerate(FORMULAS))
).encode()

DECODERS: dict[str, tuple[bytes, Callable[[bytes], object], tuple[type[Exception], ...]]] = {
    **{form: (picture(form), lambda content: decode(content, SMALL), (Problem,)) for form in FORMATS},
    "header": (picture("TIFF"), lambda content: read_header(content, SMALL), (Problem,)),
    "npz": (npz(), lambda content: read_npz(saved(content, "x.npz")), (ValueError, OSError)),
    "npy": (original_npy(), lambda content: read_original_dataset(saved(content, "x.npy")), (WireError,)),
    "mat": (mat(), lambda content: read_mat(saved(content, "x.mat"), "wiki"), (BadMatFile,)),
    "json": (MANIFEST, lambda content: read_json(saved(content, "x.json")), (ValueError,)),
    "head.json": (MANIFEST, head_with, (BadHead,)),
    "head.safetensors": (WEIGHTS[:4000], head_of, (BadHead,)),
    "labels.csv": (TABLE, labels_of, (Problem,)),
}  # fmt: skip


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=60, deadline=None)
@given(changes=CHANGES, keep=st.floats(0, 1), whole=st.booleans())
def test_changed_file_gives_an_answer_or_the_one_error(
    name: str, changes: list[tuple[int, int]], keep: float, whole: bool
) -> None:
    content, read, errors = DECODERS[name]
    changed = bytearray(content if whole else content[: int(keep * len(content))])
    for position, value in changes:
        if changed:
            changed[position % len(changed)] = value
    with contextlib.suppress(*errors):
        read(bytes(changed))


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=400))
def test_bytes_of_anything_give_an_answer_or_the_one_error(name: str, content: bytes) -> None:
    _, read, errors = DECODERS[name]
    with contextlib.suppress(*errors):
        read(content)


def test_every_gadget_in_every_way_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    """All of those of which tests/stack sends a third to the running system."""
    mark = tmp_path / "mark"
    for one in gadgets(f"touch {mark}"):
        with pytest.raises(WireError):
            decode_embeddings_request(original("embeddings", one))
        with contextlib.suppress(WireError):  # bytes are an image that is looked at elsewhere
            assert isinstance(decode_image_request(original("image", one)), bytes)
    assert not mark.exists()


def test_original_files_that_explode_are_refused_one_by_one(tmp_path: Path) -> None:
    for name, content in original_files(tmp_path / "mark").items():
        if name == "embeddings that are infinite":
            continue  # read as they are; the import refuses them
        with pytest.raises(WireError):
            read_original_dataset(saved(content, "x.npy"))
    assert not (tmp_path / "mark").exists()


def test_depth_is_no_way_around(tmp_path: Path) -> None:
    deep = json.dumps({"card": 1}).replace("1", "[" * 100_000 + "]" * 100_000)
    with pytest.raises(BadHead, match="nested"):
        head_with(deep.encode())
