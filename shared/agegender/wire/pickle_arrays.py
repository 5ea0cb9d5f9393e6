"""Read a pickled NumPy array of numbers, protocols 0 to 5, without executing anything.

`pickletools.genops` only parses the pickle into opcodes and arguments. The machine below interprets the
opcodes that arrays need and rejects all others.
"""

import io
import pickletools
import struct
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from agegender.files import read_npy_header
from agegender.wire.arrays import ArrayBuilder, WireError, array_from_bytes, finished, symbol

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
