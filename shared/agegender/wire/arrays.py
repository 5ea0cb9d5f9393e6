"""Read the arrays in a pickle, protocols 0 to 5, or a jsonpickle without calling anything that it names.

NumPy pickles an array as `_reconstruct(ndarray, (0,), b"b")` whose state is set afterwards, or as
`_frombuffer(...)` since protocol 5, and a scalar as `scalar(dtype, bytes)`. The module is `numpy.core` in
NumPy 1 and `numpy._core` in NumPy 2. Only these names are accepted, and none is ever imported.

`pickletools.genops` only parses a pickle into opcodes and arguments. `ArrayMachine` interprets the opcodes
that arrays need and rejects all others.
"""

import io
import math
import pickletools
import re
import struct
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np
import numpy.typing as npt

from agegender.errors import Problem
from agegender.files import read_npy_header

_NUMBER = re.compile(r"b1|[iu][1248]|f[248]")
_OBJECT = re.compile(r"O[48]?")
_MAX_DIMENSIONS = 8

_NPY_MAGIC = b"\x93NUMPY"
_MAX_OPCODES = 500  # NumPy needs about 60 for an array
_MAX_MARKS = 32
_MAX_STACK = 10_000  # the pickle module writes lists and dicts in batches of 1,000

_INTEGERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"}
_TEXTS = {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_BYTES = {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_LITERALS = _INTEGERS | _TEXTS | _BYTES
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class WireError(Problem):
    """A message that is not in the original's format, or contains more than values and arrays of numbers."""

    def __init__(self, detail: str) -> None:
        super().__init__("unreadable-message", 400, detail)


class Symbol(Enum):
    """A name that a message may refer to."""

    NDARRAY = auto()
    DTYPE = auto()
    RECONSTRUCT = auto()
    FROMBUFFER = auto()
    SCALAR = auto()
    ARRAY = auto()
    ENCODE = auto()
    BYTES = auto()


_SYMBOLS = {
    "numpy.ndarray": Symbol.NDARRAY,
    "numpy.dtype": Symbol.DTYPE,
    "numpy.array": Symbol.ARRAY,
    "numpy.core.multiarray._reconstruct": Symbol.RECONSTRUCT,
    "numpy._core.multiarray._reconstruct": Symbol.RECONSTRUCT,
    "numpy.core.multiarray.scalar": Symbol.SCALAR,
    "numpy._core.multiarray.scalar": Symbol.SCALAR,
    "numpy.core.numeric._frombuffer": Symbol.FROMBUFFER,
    "numpy._core.numeric._frombuffer": Symbol.FROMBUFFER,
    "_codecs.encode": Symbol.ENCODE,  # bytes in protocols 0 to 2
    "__builtin__.bytes": Symbol.BYTES,  # empty bytes in protocols 0 to 2
}


def symbol(name: str) -> Symbol:
    """Return the symbol of a dotted name. Raises `WireError` for names that arrays of numbers do not need."""
    if name not in _SYMBOLS:
        raise WireError(f"The message refers to {name[:80]!r}; only NumPy arrays of numbers are accepted.")
    return _SYMBOLS[name]


@dataclass(eq=False)
class DtypeCell:
    """A data type whose byte order may be set later."""

    dtype: np.dtype[Any]


@dataclass(eq=False)
class ArrayCell:
    """An array whose content is set later."""

    array: npt.NDArray[Any] | None = None


class ArrayBuilder:
    """Creates the values that symbols stand for.

    Parameters
    ----------
    max_bytes : total size of text converted to bytes; a message needs no more than its own length.
    objects : whether to create arrays of Python objects, from lists that were already read.
    """

    def __init__(self, max_bytes: int, *, objects: bool = False) -> None:
        self._left = max_bytes
        self._objects = objects

    def call(self, function: object, arguments: object) -> object:
        """Return what `function(*arguments)` would: a cell, a NumPy scalar, an array, or bytes."""
        match function, arguments:
            case Symbol.RECONSTRUCT, (Symbol.NDARRAY, (0,), b"b"):
                return ArrayCell()
            case Symbol.DTYPE, (str(name), 0, 1):
                return DtypeCell(self._dtype(name))
            case Symbol.SCALAR, (DtypeCell(dtype=dtype), bytes(data)):
                return array_from_bytes(data, dtype, (), "C")[()]
            case Symbol.FROMBUFFER, (
                bytes() | bytearray() as data,
                DtypeCell(dtype=dtype),
                tuple(shape),
                "K",
                tuple(axes),
            ):
                return array_from_bytes(data, dtype, shape, "C").transpose(axes)
            case Symbol.FROMBUFFER, (
                bytes() | bytearray() as data,
                DtypeCell(dtype=dtype),
                tuple(shape),
                "C" | "F" as order,
            ):
                return array_from_bytes(data, dtype, shape, order)
            case Symbol.ARRAY, (list(values), "float32" | "float64" as name):
                return np.array(values, dtype=name)
            case Symbol.ENCODE, (str(text), "latin1"):
                self._spend(len(text))
                return text.encode("latin1")
            case Symbol.BYTES, ():
                return b""
        raise WireError("The message calls something that arrays of numbers do not need.")

    def build(self, target: object, state: object) -> None:
        """Do what `target.__setstate__(state)` would."""
        match target, state:
            case DtypeCell(), (3, "<" | ">" | "=" | "|" as order, None, None, None, -1, -1, int()):
                target.dtype = target.dtype.newbyteorder(order)
            case ArrayCell(array=None), (
                1,
                tuple(shape),
                DtypeCell(dtype=dtype),
                0 | 1 as fortran,
                bytes(data),
            ):
                target.array = array_from_bytes(data, dtype, shape, "F" if fortran else "C")
            case ArrayCell(array=None), (1, tuple(shape), DtypeCell(dtype=dtype), 0, list(items)) if (
                dtype.hasobject
            ):
                target.array = _array_of_objects(items, shape)
            case _:
                raise WireError("The message sets a state that arrays of numbers do not have.")

    def _dtype(self, name: str) -> np.dtype[Any]:
        if _NUMBER.fullmatch(name) or (self._objects and _OBJECT.fullmatch(name)):
            return np.dtype(name if _NUMBER.fullmatch(name) else "O")
        raise WireError(f"Arrays of {name[:20]!r} are not accepted; expected an array of numbers.")

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise WireError("The message would need more memory than its own size.")


def finished(value: object) -> object:
    """Return the array of a cell, or another value unchanged. Raises `WireError` for an incomplete value."""
    if isinstance(value, ArrayCell):
        if value.array is None:
            raise WireError("The message contains an array without content.")
        return value.array
    if isinstance(value, DtypeCell | Symbol):
        raise WireError("The message contains a name instead of a value.")
    return value


def array_from_bytes(
    data: bytes | bytearray, dtype: np.dtype[Any], shape: tuple[object, ...], order: Any
) -> npt.NDArray[Any]:
    """Return an array that is a view of `data`, so that no memory is allocated."""
    sizes = _sizes(shape)
    if dtype.hasobject or math.prod(sizes) * dtype.itemsize != len(data):
        raise WireError(f"An array of shape {sizes} does not fit its {len(data)} bytes.")
    if not data:
        return np.empty(sizes, dtype)
    return np.frombuffer(data, dtype).reshape(sizes, order=order)


def _array_of_objects(items: list[object], shape: tuple[object, ...]) -> npt.NDArray[Any]:
    sizes = _sizes(shape)
    if math.prod(sizes) != len(items):
        raise WireError(f"An array of shape {sizes} does not fit its {len(items)} objects.")
    flat = np.empty(len(items), dtype=object)
    for position, item in enumerate(items):
        flat[position] = item
    return flat.reshape(sizes)


def _sizes(shape: tuple[object, ...]) -> tuple[int, ...]:
    sizes = tuple(size for size in shape if type(size) is int and 0 <= size < 2**31)
    if len(sizes) != len(shape) or len(sizes) > _MAX_DIMENSIONS:
        raise WireError("An array's shape is not a short tuple of sizes.")
    return sizes


def read_array(data: bytes) -> npt.NDArray[Any]:
    """Return the array of numbers in `pickle.dumps(array)` or in the content of an `.npy` file.

    Raises `WireError` for anything else. The array may be a read-only view of `data`.
    """
    with only_wire_errors():
        if data.startswith(_NPY_MAGIC):
            return _read_npy(data)
        value = ArrayMachine(data).run()
        if not isinstance(value, np.ndarray):
            raise WireError("The pickle does not contain an array.")
        return value


class ArrayMachine:
    """The stack machine of the pickle module, restricted to arrays of numbers."""

    max_opcodes = _MAX_OPCODES
    max_remembered = _MAX_OPCODES
    objects = False

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._builder = ArrayBuilder(len(data), objects=self.objects)
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> object:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self._data)):
            if count == self.max_opcodes:
                raise WireError("The pickle has more opcodes than an array needs.")
            if opcode.name == "STOP":
                return finished(self._stack.pop())
            self.step(opcode.name, argument)
            if len(self._stack) > _MAX_STACK or len(self._memo) > self.max_remembered:
                raise WireError("The pickle has more values at a time than an array needs.")
        raise WireError("The pickle is truncated.")

    def step(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case _ if name in _LITERALS:
                stack.append(argument)
            case _ if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case "MARK":
                self._mark()
            case "TUPLE":
                stack.append(tuple(self.since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack[-_TUPLES[name] :] = [tuple(self._top(_TUPLES[name]))]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                stack.append(symbol(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                module, attribute = self._top(2)
                stack[-2:] = [symbol(f"{module}.{attribute}")]
            case "REDUCE":
                function, arguments = self._top(2)
                stack[-2:] = [self._builder.call(function, arguments)]
            case "BUILD":
                target, state = self._top(2)
                self._builder.build(target, state)
                stack.pop()
            case _:
                raise WireError(f"The pickle has the opcode {name}, which arrays do not need.")

    def since_mark(self) -> list[Any]:
        """Pop the values that were pushed since the last mark."""
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _mark(self) -> None:
        if len(self._marks) == _MAX_MARKS:
            raise WireError("The pickle is nested too deeply.")
        self._marks.append(len(self._stack))

    def _top(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise WireError("The pickle uses more values than it contains.")
        return self._stack[-count:]


def _read_npy(data: bytes) -> npt.NDArray[Any]:
    shape, fortran, dtype, content = split_npy(data)
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise WireError(f"Arrays of {dtype} are not accepted; expected an array of numbers.")
    return array_from_bytes(content, dtype, shape, "F" if fortran else "C")


def split_npy(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], bytes]:
    """Return shape, whether in column-major order, data type and content of an `.npy` file."""
    file = io.BytesIO(data)
    try:
        shape, fortran, dtype = read_npy_header(file)
    except ValueError as error:
        raise WireError(f"The .npy file has a bad header: {error}.") from error
    return shape, fortran, dtype, data[file.tell() :]


@contextmanager
def only_wire_errors() -> Iterator[None]:
    """Turn all errors that a hostile message may cause into `WireError`."""
    try:
        yield
    except WireError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
        EOFError,
        SyntaxError,
        struct.error,
        tokenize.TokenError,
    ) as error:
        raise WireError("The message is damaged or not of the original's format.") from error
