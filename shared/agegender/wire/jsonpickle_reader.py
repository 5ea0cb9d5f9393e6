"""Read jsonpickle text that contains only arrays, numbers, text, bytes, lists and dicts.

jsonpickle numbers the objects of a message and writes `{"py/id": n}` for a repeated one. Versions 2 to 4
count lists, dicts and reduced objects from 0; version 1 does not count dicts.
"""

import base64
import json
from typing import Any

from agegender.wire.arrays import ArrayBuilder, ArrayCell, WireError, finished, symbol
from agegender.wire.pickle_arrays import only_wire_errors

_MAX_DEPTH = 32


def parse_json(text: bytes | str, max_items: int) -> Any:
    """Parse JSON of at most about `max_items` values, without NaN and infinity. Raises `WireError`."""
    with only_wire_errors():
        content = text.encode() if isinstance(text, str) else text
        # Checked before parsing, because a million empty lists are small as text but large in memory.
        if sum(map(content.count, (b",", b"[", b"{"))) > max_items:
            raise WireError("The message has too many items.")
        return json.loads(content, parse_constant=_refuse_constant)


def restore(flat: Any) -> Any:
    """Return the Python value of parsed jsonpickle, whatever its version's numbering. Raises `WireError`."""
    with only_wire_errors():
        try:
            return _Restorer(counts_dicts=True).restore(flat, 0)
        except WireError as error:
            try:
                return _Restorer(counts_dicts=False).restore(flat, 0)
            except WireError:
                raise error from None


class _Restorer:
    def __init__(self, *, counts_dicts: bool) -> None:
        self._counts_dicts = counts_dicts
        self._objects: list[Any] = []
        self._builder = ArrayBuilder(0)

    def restore(self, flat: Any, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise WireError("The message is nested too deeply.")
        if isinstance(flat, list):
            return self._list(flat, depth)
        if not isinstance(flat, dict):
            return flat
        tags = [name for name in flat if name.startswith("py/")]
        if not tags:
            return self._dict(flat, depth)
        if len(flat) != 1:
            raise WireError("The message mixes jsonpickle's tags with other members.")
        return self._tagged(tags[0], flat[tags[0]], depth)

    def _tagged(self, tag: str, content: Any, depth: int) -> Any:
        match tag, content:
            case "py/b64", str():
                return base64.b64decode(content.replace("\n", ""), validate=True)
            case "py/tuple", list():
                return tuple(self.restore(item, depth + 1) for item in content)
            case "py/type" | "py/function", str():
                return symbol(content)
            case "py/id", int():
                return self._earlier(content)
            case "py/reduce", [function, arguments, *state] if len(state) <= 3 and not any(state[1:]):
                return self._reduced(function, arguments, state[0] if state else None, depth)
        raise WireError(f"The message has the jsonpickle tag {tag[:20]!r}, which arrays do not need.")

    def _list(self, flat: list[Any], depth: int) -> list[Any]:
        result: list[Any] = []
        self._objects.append(result)
        result.extend(finished(self.restore(item, depth + 1)) for item in flat)
        return result

    def _dict(self, flat: dict[str, Any], depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        if self._counts_dicts:
            self._objects.append(result)
        for name, item in flat.items():
            result[name] = finished(self.restore(item, depth + 1))
        return result

    def _reduced(self, function: Any, arguments: Any, state: Any, depth: int) -> Any:
        index = len(self._objects)
        self._objects.append(None)
        called, given, set_state = (self.restore(item, depth + 1) for item in (function, arguments, state))
        result = self._builder.call(called, given)
        if set_state is not None:
            self._builder.build(result, set_state)
        if isinstance(result, ArrayCell):
            result = finished(result)
        self._objects[index] = result
        return result

    def _earlier(self, index: int) -> Any:
        if not 0 <= index < len(self._objects) or self._objects[index] is None:
            raise WireError("The message refers to an object that it does not contain.")
        return self._objects[index]


def _refuse_constant(name: str) -> Any:
    raise WireError(f"{name} is not a number.")
