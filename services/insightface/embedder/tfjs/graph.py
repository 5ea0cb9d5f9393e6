"""Read a TensorFlow.js graph model: a JSON topology beside shards of weights.

The format is that of the tfjs converter (https://www.tensorflow.org/js/guide/conversion): nodes are
TensorFlow's, weights lie one after another in the shards, and may be stored as float16.
"""

import base64
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "int32": np.dtype("<i4"),
    "float16": np.dtype("<f2"),
}


@dataclass(frozen=True)
class Node:
    """One operation. `inputs` are names of nodes, without output index or control edges."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any]

    def integers(self, attribute: str) -> list[int]:
        return [int(value) for value in self.attributes[attribute]["list"]["i"]]

    def string(self, attribute: str) -> str:
        return base64.b64decode(self.attributes[attribute]["s"]).decode()

    def strings(self, attribute: str) -> list[str]:
        values = self.attributes.get(attribute, {}).get("list", {}).get("s", [])
        return [base64.b64decode(value).decode() for value in values]

    def flag(self, attribute: str) -> bool:
        return bool(self.attributes.get(attribute, {}).get("b", False))


@dataclass(frozen=True)
class Graph:
    nodes: tuple[Node, ...]
    weights: dict[str, npt.NDArray[Any]]

    @cached_property
    def by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    def needed_for(self, outputs: list[str]) -> list[Node]:
        """The nodes that the outputs depend on, each after its inputs."""
        ordered: dict[str, Node] = {}
        waiting = [(name, False) for name in reversed(outputs)]
        while waiting:
            name, inputs_done = waiting.pop()
            if name in ordered:
                continue
            node = self.by_name[name]
            if inputs_done:
                ordered[name] = node
            else:
                waiting.append((name, True))
                waiting.extend((source, False) for source in node.inputs)
        return list(ordered.values())


def read_graph(model_json: Path) -> Graph:
    """Read a graph and its weights, float32 and int64.

    Raises ValueError where the shards are shorter than the manifest says.
    """
    description = json.loads(model_json.read_text())
    nodes = tuple(
        Node(
            node["name"],
            node["op"],
            tuple(name.split(":")[0] for name in node.get("input", []) if not name.startswith("^")),
            node.get("attr", {}),
        )
        for node in description["modelTopology"]["node"]
    )
    weights: dict[str, npt.NDArray[Any]] = {}
    for group in description["weightsManifest"]:
        content = b"".join((model_json.parent / name).read_bytes() for name in group["paths"])
        offset = 0
        for entry in group["weights"]:
            stored = _DTYPES[entry.get("quantization", {}).get("dtype") or entry["dtype"]]
            count = int(np.prod(entry["shape"], dtype=np.int64))
            array = np.frombuffer(content, stored, count, offset).reshape(entry["shape"])
            offset += array.nbytes
            weights[entry["name"]] = array.astype(np.int64 if entry["dtype"] == "int32" else np.float32)
    return Graph(nodes, weights)
