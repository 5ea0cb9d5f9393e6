"""Export heads as one ONNX graph that runs in plain ONNX Runtime."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from agegender import __version__
from agegender.heads.calibration import (
    COVERAGES,
    FAMILIAR,
    GROUP_EDGES,
    ConformalIntervals,
    Familiarity,
    added_years,
)
from agegender.heads.head import Classes, Head, Task, over_years
from agegender.heads.networks import Activate, Dropout, Layer, Linear, Norm, Residual
from agegender.labels import AGE_GROUPS, MAX_AGE, YEARS, group_probabilities

_OPSET, _IR = 17, 9  # of ONNX 1.14 (2023), for older runtimes too


def as_onnx(heads: Mapping[Task, Head], coverage: float = 0.9) -> bytes:
    """Return heads of one space as one ONNX graph, with their cards in its metadata.

    The graph has the standardisation of the input, all members, their mean, the temperature, the conformal
    intervals and familiarity. Weights stay float16; the rest is computed as `Head` does.

    Input: `embedding` [faces, dimension]. Outputs per face: `age_probabilities` (101 years), `age_mean`,
    `age_interval` (low, high, in years, of `coverage`), `familiarity` (0 to 1; heads of releases up to 0.1
    have none), `age_groups` (Adience's eight) and `gender_probabilities` (female, male).
    """
    import onnx  # of this function alone
    from onnx import TensorProto, helper

    space = next(iter(heads.values())).manifest.space
    graph = _Graph()
    shapes: dict[str, list[int | str]] = {"embedding": ["faces", space.dimension]}
    for task, head in heads.items():
        probabilities = graph.head(head, "embedding", task.value)
        if task is Task.GENDER:
            shapes[graph.named("Identity", "gender_probabilities", probabilities)] = ["faces", 2]
            continue
        if head.manifest.classes is Classes.GROUPS:
            eye = np.eye(head.manifest.classes.outputs, dtype=np.float32)
            spread = graph.constant(over_years(eye, head.manifest.classes))
            probabilities = graph.add("MatMul", probabilities, spread)
        shapes[graph.named("Identity", "age_probabilities", probabilities)] = ["faces", YEARS]
        groups = graph.constant(group_probabilities(np.eye(YEARS, dtype=np.float32)))
        shapes[graph.named("MatMul", "age_groups", probabilities, groups)] = ["faces", len(AGE_GROUPS)]
        mean = graph.add("MatMul", probabilities, graph.constant(np.arange(YEARS, dtype=np.float32)[:, None]))
        shapes[graph.named("Squeeze", "age_mean", mean, graph.constant(np.array([1])))] = ["faces"]
        if head.manifest.conformal is not None:
            interval = graph.interval(probabilities, mean, head.manifest.conformal, coverage)
            if head.manifest.familiarity:
                familiarity = graph.familiarity(Familiarity.from_tensors(head.tensors), "embedding")
                interval = graph.extended(interval, familiarity, coverage)
                single = graph.add("Cast", familiarity, to=TensorProto.FLOAT)
                shapes[graph.named("Squeeze", "familiarity", single, graph.constant(np.array([1])))] = [
                    "faces"
                ]
            shapes[graph.named("Cast", "age_interval", interval, to=TensorProto.FLOAT)] = ["faces", 2]
    described = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "age-gender", described[:1], described[1:], graph.constants),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="age-gender",
        producer_version=__version__,
    )
    metadata = {
        "space": space.model_dump(),
        "coverage": coverage,
        "versions": {task.value: head.manifest.version for task, head in heads.items()},
        "cards": {task.value: head.manifest.card for task, head in heads.items()},
    }
    helper.set_model_props(model, {name: json.dumps(value) for name, value in metadata.items()})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


class _Graph:
    """Nodes and constants of an ONNX graph. Methods return the name of what they add."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        return self.named(operator, f"value{len(self.nodes)}", *inputs, **attributes)

    def named(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, [*inputs], [name], **attributes))
        return name

    def constant(self, array: npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def head(self, head: Head, embedding: str, task: str) -> str:
        """Add a head; its output is [faces, classes]."""
        from onnx import TensorProto

        tensors = head.tensors

        def weight(name: str) -> str:
            array = tensors[name].astype(np.float16)  # as they are stored
            array = array if name.endswith(".weight") else array[:, None]
            return self.add("Cast", self.constant(array), to=TensorProto.FLOAT)

        def run(layers: tuple[Layer, ...], features: str) -> str:
            for layer in layers:
                match layer:
                    case Linear(name=name):
                        features = self.add("MatMul", features, weight(f"{name}.weight"))
                        features = self.add("Add", features, weight(f"{name}.bias"))
                    case Norm(name=name):
                        features = self.add("Mul", features, weight(f"{name}.scale"))
                        features = self.add("Add", features, weight(f"{name}.shift"))
                    case Activate(function="relu"):
                        features = self.add("Relu", features)
                    case Activate():
                        features = self.add("Mul", features, self.add("Sigmoid", features))
                    case Residual(body=body):
                        features = self.add("Add", features, run(body, features))
                    case Dropout():
                        pass
            return features

        one = self.add("Unsqueeze", embedding, self.constant(np.array([0])))
        centred = self.add("Sub", one, weight("input.mean"))
        members = self.add(
            "Softmax", run(head.manifest.layers, self.add("Div", centred, weight("input.std"))), axis=-1
        )
        mean = self.add("ReduceMean", members, axes=[0], keepdims=0)
        if head.manifest.temperature == 1:
            return mean
        positive = self.add("Max", mean, self.constant(np.array([1e-12], np.float32)))
        divisor = self.constant(np.array([head.manifest.temperature], np.float32))
        return self.add("Softmax", self.add("Div", self.add("Log", positive), divisor), axis=-1)

    def interval(self, years: str, mean: str, conformal: ConformalIntervals, coverage: float) -> str:
        """Add `ConformalIntervals.intervals`; its output is [faces, 2], in double precision."""
        from onnx import TensorProto

        double = self.add("Cast", years, to=TensorProto.DOUBLE)
        cumulative = self.add("CumSum", double, self.constant(np.array(1)))
        total = self.add("Gather", cumulative, self.constant(np.array([YEARS - 1])), axis=1)
        cumulative = self.add("Div", cumulative, total)
        tail = (1 - coverage) / 2
        ends = [self._quantile(cumulative, level) for level in (tail, 1 - tail)]
        column = COVERAGES.index(round(coverage, 2))
        margin = self.constant(np.array([[row[column] for row in conformal.widening]]))
        first, last = (self.constant(np.array([edges])) for edges in zip(*GROUP_EDGES, strict=True))
        low = self.add("Max", self.add("Sub", ends[0], margin), first)
        high = self.add("Min", self.add("Add", ends[1], margin), last)
        fits = self.add("LessOrEqual", low, high)
        middle = self.add("Cast", mean, to=TensorProto.DOUBLE)
        # An age group that no age of the interval is in does not count.
        low = self.add("Where", fits, low, self.constant(np.array(np.inf)))
        high = self.add("Where", fits, high, self.constant(np.array(-np.inf)))
        hull = [
            self.add("Min", middle, self.add("ReduceMin", low, axes=[1])),
            self.add("Max", middle, self.add("ReduceMax", high, axes=[1])),
        ]
        return self._clipped(self.add("Concat", *hull, axis=1), 0, MAX_AGE)

    def familiarity(self, familiarity: Familiarity, embedding: str) -> str:
        """Add `Familiarity.of`; its output is [faces, 1], in double precision."""
        from onnx import TensorProto

        centred = self.add("Sub", embedding, self.constant(familiarity.mean))
        features = self.add("Div", centred, self.constant(familiarity.std))
        distance = self.add("ReduceMean", self.add("Mul", features, features), axes=[1])
        distance = self.add("Cast", distance, to=TensorProto.DOUBLE)
        steps = familiarity.distances.astype(np.float64)
        lengths = np.maximum(np.diff(steps), np.finfo(np.float64).tiny)
        done = self.add("Div", self.add("Sub", distance, self.constant(steps[:-1])), self.constant(lengths))
        exceeded = self.add("ReduceMean", self._clipped(done, 0, 1), axes=[1])
        return self.add("Sub", self.constant(np.array(1.0)), exceeded)

    def extended(self, interval: str, familiarity: str, coverage: float) -> str:
        """Add `extended` of an interval [faces, 2]."""
        at_most = float(added_years(np.zeros(1), coverage)[0])
        strange = self.add("Sub", self.constant(np.array(FAMILIAR)), familiarity)
        share = self._clipped(self.add("Div", strange, self.constant(np.array(FAMILIAR))), 0, 1)
        outwards = self.constant(np.array([[-at_most, at_most]]))
        moved = self.add("Add", interval, self.add("Mul", share, outwards))
        return self._clipped(moved, 0, MAX_AGE)

    def _clipped(self, value: str, low: float, high: float) -> str:
        ends = self.constant(np.array(float(low))), self.constant(np.array(float(high)))
        return self.add("Clip", value, *ends)

    def _quantile(self, cumulative: str, level: float) -> str:
        """Add `year_quantiles` of a cumulative distribution [faces, 101]; its output is [faces, 1]."""
        from onnx import TensorProto

        at = self.constant(np.array(level))
        below = self.add("Cast", self.add("Less", cumulative, at), to=TensorProto.INT64)
        count = self.add("ReduceSum", below, self.constant(np.array([1])))
        year = self.add("Min", count, self.constant(np.array(YEARS - 1)))
        zero, one = self.constant(np.array(0)), self.constant(np.array(1))
        earlier = self.add(
            "GatherElements", cumulative, self.add("Max", self.add("Sub", year, one), zero), axis=1
        )
        exists = self.add("Cast", self.add("Greater", year, zero), to=TensorProto.DOUBLE)
        before = self.add("Mul", earlier, exists)
        here = self.add("GatherElements", cumulative, year, axis=1)
        mass = self.add("Max", self.add("Sub", here, before), self.constant(np.array(1e-12)))
        share = self.add("Div", self.add("Sub", at, before), mass)
        share = self._clipped(share, 0, 1)
        start = self.add("Sub", self.add("Cast", year, to=TensorProto.DOUBLE), self.constant(np.array(0.5)))
        return self.add("Add", start, share)
