"""Arrays of numbers come back from real pickles; nothing else does, and nothing is ever executed."""

import builtins
import codecs
import datetime
import gc
import io
import os
import pickle
import pickletools
import random
import struct
import subprocess
import threading
import tracemalloc
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from agegender.wire.arrays import WireError, read_array
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
NUMBERS = st.one_of(
    nps.boolean_dtypes(),
    nps.integer_dtypes(endianness="?"),
    nps.unsigned_integer_dtypes(endianness="?"),
    nps.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
)
ARRAYS = nps.arrays(NUMBERS, nps.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of dangerous functions that were called."""
    calls: list[str] = []

    def trap(name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: calls.append(name)

    monkeypatch.setattr(os, "system", trap("os.system"))
    monkeypatch.setattr(os, "popen", trap("os.popen"))
    monkeypatch.setattr(subprocess, "Popen", trap("subprocess.Popen"))
    monkeypatch.setattr(builtins, "eval", trap("eval"))
    yield calls


@given(array=ARRAYS, protocol=st.sampled_from(PROTOCOLS), layout=st.sampled_from("CFT:"))
def test_every_array_of_numbers_comes_back_from_every_protocol(
    array: np.ndarray, protocol: int, layout: str
) -> None:
    if layout == "F":
        array = np.asfortranarray(array)
    elif layout == "T":
        array = array.transpose(np.roll(np.arange(array.ndim), 1))
    elif layout == ":" and array.ndim:
        array = array[::2]
    read = read_array(pickle.dumps(array, protocol))
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


@given(array=ARRAYS)
def test_every_array_of_numbers_comes_back_from_an_npy_file(array: np.ndarray) -> None:
    file = io.BytesIO()
    np.save(file, array)
    read = read_array(file.getvalue())
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_1_names_are_known_as_well(protocol: int) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    new = pickle.dumps(array, protocol)
    if protocol < 4:
        old = new.replace(b"numpy._core.", b"numpy.core.")
    else:  # counted strings, in a frame without a length
        length = len("numpy._core.multiarray" if protocol == 4 else "numpy._core.numeric")
        body = new[11:].replace(bytes([length]) + b"numpy._core.", bytes([length - 1]) + b"numpy.core.")
        old = new[:2] + body
    assert b"_core" not in old
    warnings.simplefilter("ignore", DeprecationWarning)  # NumPy 2 knows the old name of _frombuffer still
    np.testing.assert_array_equal(pickle.loads(old), array)
    np.testing.assert_array_equal(read_array(old), array)


def test_reading_a_large_array_takes_no_memory_beyond_the_message() -> None:
    content = pickle.dumps(np.zeros((5000, 512), np.float32))
    tracemalloc.start()
    read_array(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * len(content)


class Exploit:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduction = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduction


EXPLOITS = {
    "os.system": Exploit(os.system, "true"),
    "os.popen": Exploit(os.popen, "true"),
    "subprocess": Exploit(subprocess.Popen, ["true"]),
    "eval": Exploit(eval, "1+1"),
    "exec": Exploit(exec, "1"),
    "getattr": Exploit(getattr, "x", "upper"),
    "import": Exploit(__import__, "os"),
    "open": Exploit(open, "/etc/passwd"),
    "builtins.bytes": Exploit(bytes, 10**9),
    "bytearray": Exploit(bytearray, 10**9),
    "np.load": Exploit(np.load, "/etc/passwd"),
    "np.fromfile": Exploit(np.fromfile, "/etc/passwd"),
    "np.zeros": Exploit(np.zeros, 10**9),
    "np.array": Exploit(np.array, (1, 2)),
    "ndarray itself": Exploit(np.ndarray, (10**9,)),
    "dict": {"a": 1},
    "list": [np.zeros(3)],
    "ordered dict": OrderedDict(a=1),
    "class": Exploit,
    "date": datetime.date(2020, 1, 1),
    "float": 1.5,
    "text": "text",
    "number": 7,
    "bytes": b"bytes",
    "none": None,
    "scalar": np.float32(1),
    "dtype": np.dtype("f4"),
    "array of objects": np.array([Exploit(os.system, "true"), 1], dtype=object),
    "array of text": np.array(["a", "b"]),
    "array of bytes": np.array([b"a"]),
    "array of complex numbers": np.array([1j]),
    "array of dates": np.array(["2020-01-01"], dtype="M8[D]"),
    "record array": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "void": np.zeros(2, dtype="V8"),
    "long double": np.zeros(2, dtype=np.longdouble),
    "subclass": np.ma.masked_array([1, 2], mask=[True, False]),
}


@contextmanager
def imports() -> Iterator[list[str]]:
    """Record the names that this thread imports; destructors and other threads import undisturbed."""
    names: list[str] = []
    codecs.lookup("raw_unicode_escape")  # of text in protocol 0; its first use imports it
    original, here = builtins.__import__, threading.get_ident()

    def record(name: str, *arguments: Any, **options: Any) -> object:
        if threading.get_ident() == here:
            names.append(name)
        return original(name, *arguments, **options)

    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(builtins, "__import__", record)
            yield names
    finally:
        gc.enable()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", EXPLOITS)
def test_everything_but_arrays_of_numbers_is_refused_and_not_executed(
    name: str, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        content = pickle.dumps(EXPLOITS[name], protocol)
    except Exception:
        pytest.skip("this Python cannot pickle it in this protocol")
    calls: list[str] = []
    monkeypatch.setattr(os, "system", lambda *_: calls.append("system"))
    with imports() as imported, pytest.raises(WireError):
        read_array(content)
    assert not calls
    assert not imported


HANDMADE = {
    "posix.system in protocol 0": b"cposix\nsystem\n(S'true'\ntR.",
    "nt.system": b"cnt\nsystem\n(S'true'\ntR.",
    "INST": b"(S'true'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'true'\no.",
    "NEWOBJ": b"\x80\x02cos\nsystem\n(S'true'\nt\x81.",
    "NEWOBJ_EX": b"\x80\x04\x8c\x02os\x8c\x06system\x93)}\x92.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "nested attribute": b"\x80\x04\x8c\x05numpy\x8c\x12os.system.__call__.\x93.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "PERSID": b"Pfile:///etc/passwd\n.",
    "BINPERSID": b"\x80\x02K\x01Q.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "READONLY_BUFFER": b"\x80\x05C\x01a\x98.",
    "BUILD on nothing": b"\x80\x02}b.",
    "BUILD of __dict__": b"\x80\x02cnumpy\nndarray\n}b.",
    "reduce of ndarray": b"cnumpy\nndarray\n((I1000000000\nttR.",
    "rot13 encode": b"c_codecs\nencode\n(Vabc\nVrot13\ntR.",
    "empty": b"",
    "only STOP": b".",
    "no STOP": b"\x80\x02K\x01",
    "POP of nothing": b"0.",
    "missing memo": b"h\x05.",
    "missing mark": b"t.",
    "LONG of many digits": b"L" + b"9" * 100_000 + b"L\n.",
    "marks without end": b"(" * 100_000,
    "endless tuples": b")" + b"\x85" * 100_000 + b".",
    "protocol 200": b"\x80\xc8K\x01.",
    "huge LONG4": b"\x8b\xff\xff\xff\x7f",
    "huge BINBYTES8": b"\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "huge BINUNICODE8": b"\x8d" + struct.pack("<Q", 2**63 - 1) + b"x.",
    "huge BYTEARRAY8": b"\x96" + struct.pack("<Q", 2**40) + b"x.",
    "huge FRAME": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b".",
    "npy of objects": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(
        128
    )
    + pickle.dumps(Exploit(os.system, "true")),
    "npy of a huge shape": b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, "
    b"'shape': (1000000000000,), }".ljust(128),
    "npy with code in the header": b"\x93NUMPY\x01\x00v\x00__import__('os').system('true')".ljust(128),
    "npy cut short": b"\x93NUMPY\x01",
    "npy of version 9": b"\x93NUMPY\x09\x00v\x00".ljust(128),
}


@pytest.mark.parametrize("name", HANDMADE)
def test_handmade_pickles_are_refused_in_bounded_memory(name: str, executed: list[str]) -> None:
    tracemalloc.start()
    with pytest.raises(WireError):
        read_array(HANDMADE[name])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
    assert not executed


def _array_pickle(shape: tuple[int, ...], data: bytes, dtype: str = "f4") -> bytes:
    """An array's pickle whose shape, data and type lie about each other."""
    honest = pickle.dumps(np.zeros(2, np.float32), 3)
    return (
        honest.replace(b"K\x02\x85", pickle.dumps(shape, 3)[2:-1].replace(b"q\x00", b"q\x63"))
        .replace(b"C\x08" + bytes(8), b"C" + bytes([len(data)]) + data)
        .replace(b"f4", dtype.encode())
    )


def test_the_lying_pickles_below_are_otherwise_well_formed() -> None:
    np.testing.assert_array_equal(read_array(_array_pickle((2,), bytes(8))), np.zeros(2))
    np.testing.assert_array_equal(read_array(_array_pickle((1, 2), bytes(8))), np.zeros((1, 2)))


@pytest.mark.parametrize(
    ("shape", "data", "dtype"),
    [
        ((2**31,), bytes(8), "f4"),
        ((2**62, 2**62), bytes(8), "f4"),
        ((-2,), bytes(8), "f4"),
        ((-1, -2), bytes(8), "f4"),
        ((3,), bytes(8), "f4"),
        ((1,) * 60, bytes(4), "f4"),
        ((2,), bytes(8), "O8"),
        ((2,), bytes(8), "U1"),
        ((2,), bytes(8), "V4"),
        ((2,), bytes(8), "c8"),
        ((2,), bytes(8), "f3"),
        ((), bytes(8), "f4"),
    ],
)
def test_arrays_whose_shape_lies_are_refused(shape: tuple[int, ...], data: bytes, dtype: str) -> None:
    with pytest.raises(WireError):
        read_array(_array_pickle(shape, data, dtype))


CODES = [ord(opcode.code) for opcode in pickletools.opcodes]


@settings(max_examples=300)
@given(
    protocol=st.sampled_from(PROTOCOLS),
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 7)), min_size=1, max_size=8),
)
def test_flipped_bits_either_give_an_array_or_the_one_error(
    protocol: int, flips: list[tuple[int, int]]
) -> None:
    content = bytearray(pickle.dumps(np.arange(8, dtype=np.float32).reshape(2, 4), protocol))
    for position, bit in flips:
        content[position % len(content)] ^= 1 << bit
    with suppress(WireError):
        assert isinstance(read_array(bytes(content)), np.ndarray)


def test_random_opcodes_execute_nothing_and_raise_the_one_error(executed: list[str]) -> None:
    generator = random.Random(20210816)
    names = [b"cos\nsystem\n", b"cnumpy\nndarray\n", b"cbuiltins\neval\n", b"\x8c\x02os\x8c\x06system\x93"]
    pieces = [bytes([code]) for code in CODES] + names + [b"K\x01", b"X\x04\x00\x00\x00true", b"h\x00", b"("]
    read = 0
    for _ in range(20_000):
        content = b"\x80\x04" + b"".join(generator.choices(pieces, k=generator.randint(1, 12))) + b"."
        try:
            read_array(content)
            read += 1
        except WireError:
            pass
    assert read == 0
    assert not executed
