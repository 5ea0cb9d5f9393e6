"""Files are read within the memory that they have on disk, whatever they claim."""

import contextlib
import io
import json
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from agegender.files import read_json, read_npz, write_npz


def npy(array: np.ndarray, **header: object) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape, **header}
    )
    return file.getvalue() + array.tobytes()


def archive(path: Path, *entries: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, content in entries:
            made.writestr(name, content)
    return path


def test_arrays_come_back(tmp_path: Path) -> None:
    written = {
        "file": np.array(["ä", "b"]),
        "embedding": np.ones((2, 3), np.float32),
        "none": np.zeros((0, 4)),
    }
    write_npz(tmp_path / "a.npz", written)
    read = read_npz(tmp_path / "a.npz")
    assert list(read) == list(written)
    for name, array in written.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype


SMALL = np.zeros(4, np.float32)
HOSTILE = {
    "shape of 10^12": npy(SMALL, shape=(10**12,)),
    "shape that overflows": npy(SMALL, shape=(2**62, 4)),
    "negative shape": npy(SMALL, shape=(-4,)),
    "another type": npy(SMALL, descr="<f8"),
    "objects": npy(SMALL, descr="|O", shape=(2,)),
    "a header of 60 kB": b"\x93NUMPY\x01\x00" + struct.pack("<H", 60_000) + b"(" * 60_000,
    "code in a header": b"\x93NUMPY\x01\x00" + struct.pack("<H", 20) + b"__import__('os')".ljust(20),
    "no array": b"nothing",
    "nothing": b"",
    "format 9": b"\x93NUMPY\x09\x00" + bytes(20),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_array_that_lies_is_refused_without_the_memory_it_claims(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "a.npz", ("a.npy", HOSTILE[name]))
    tracemalloc.start()
    with pytest.raises(ValueError):
        read_npz(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_archive_that_unpacks_to_more_is_refused(tmp_path: Path) -> None:
    bomb = npy(np.zeros(25_000_000, np.float32))
    path = archive(tmp_path / "a.npz", ("a.npy", bomb), compression=zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    with pytest.raises(ValueError, match="compressed"):
        read_npz(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("keep", [0, 10, 60, 150])
def test_half_an_archive_is_refused(tmp_path: Path, keep: int) -> None:
    path = archive(tmp_path / "a.npz", ("a.npy", npy(SMALL)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError):
        read_npz(path)


def test_flipped_bits_are_refused_or_harmless(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", ("a.npy", npy(SMALL)), ("b.npy", npy(SMALL)))
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x40]) + content[position + 1 :])
        with contextlib.suppress(ValueError, OSError):
            assert all(array.nbytes <= 16 for array in read_npz(path).values())


def test_json_of_depth_100_000_is_a_value_error(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ValueError, match="nested"):
        read_json(path)
    path.write_text(json.dumps({"fine": [1]}))
    assert read_json(path) == {"fine": [1]}
