"""ONNX Runtime sessions, and what makes models faster on CPUs: no PRelu, and no tiny weights."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.helper import make_node

Model = Path | bytes
Array = npt.NDArray[np.float32]
Weights = npt.NDArray[np.floating]

_BROADCASTS_SINCE = 7  # opset in which Mul and Add adopted numpy's rules
_SPIN_MICROSECONDS = "50"
_TINY = 1e-20  # weights of layers are mostly between 1e-4 and 1
_STEEPEST = 0.99  # a slope near 1 leaves nothing to fold


class Progress:
    """Count finished steps of this process's work, to distinguish a long request from a hanging model."""

    def __init__(self) -> None:
        self.steps = 0

    def step(self) -> None:
        self.steps += 1


PROGRESS = Progress()


def open_session(
    model: Path | bytes, threads: int, *, any_size: bool = False
) -> onnxruntime.InferenceSession:
    """Open a model with a fixed number of threads, on the GPU if there is one.

    any_size : whether it will run on images of many sizes. ONNX Runtime would plan its memory for each size,
        and keep one large block per plan beside what it has.
    """
    options = onnxruntime.SessionOptions()
    options.enable_mem_pattern = not any_size
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Each model has its own threads, which would keep spinning after its run on the next model's cores. In a
    # run they spin briefly: more takes the cores from other requests, and sleeping at once delays this one.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_MICROSECONDS)
    # The arena of each model keeps its largest run's memory, which malloc shares between models.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    model = faster(model)
    available = onnxruntime.get_available_providers()
    preferred = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model),
        options,
        providers=[name for name in preferred if name in available],
    )


def images_at_once(session: onnxruntime.InferenceSession, on_cpu: int = 8) -> int:
    """Return how many images a session should run at once: 64 on a GPU, 8 on a CPU.

    On a CPU the feature maps of 8 stay in the cache, which takes less time than 64 and a tenth of the memory
    (docs/embedding.md, `python -m benchmarks embedding`).
    """
    return 64 if "CUDAExecutionProvider" in session.get_providers() else on_cpu


class Network:
    """A model with one input, run in batches of bounded size so that memory is bounded too.

    cpu_batch : images that it runs at once on a CPU.
    """

    def __init__(
        self,
        model: Path | bytes,
        threads: int,
        outputs: Sequence[str] | None = None,
        *,
        any_size: bool = False,
        cpu_batch: int = 8,
    ) -> None:
        self._session = open_session(model, threads, any_size=any_size)
        self._input = self._session.get_inputs()[0].name
        self._outputs = list(outputs) if outputs else [output.name for output in self._session.get_outputs()]
        self._batch = images_at_once(self._session, cpu_batch)

    def __call__(self, images: npt.NDArray[np.uint8] | Array) -> list[Array]:
        """Run on images [n, ...], scaled as the model expects; every output has n rows."""
        parts = []
        for start in range(0, len(images), self._batch):
            batch = images[start : start + self._batch].astype(np.float32, copy=False)
            parts.append(self._session.run(self._outputs, {self._input: batch}))
            PROGRESS.step()
        return [np.concatenate(column) for column in zip(*parts, strict=True)]


def faster(model: Model) -> Model:
    """Return a model without tiny weights and PRelu that computes the same; the given one if it has none."""
    loaded = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
    changed = [_without_tiny_weights(loaded), _without_prelu(loaded)]
    return bytes(loaded.SerializeToString()) if any(changed) else model


def _without_tiny_weights(model: ModelProto) -> bool:
    """Replace weights below 1e-20 by zero, which changes no result that float32 can tell.

    Processors compute with denormal numbers, below 1e-38, many times slower. dlib's network for ages has some
    among its weights, and the products of others are such: it takes five times as long for them.

    Returns whether there were any.
    """
    found = False
    for constant in model.graph.initializer:
        if constant.data_type != TensorProto.FLOAT:
            continue
        weights = numpy_helper.to_array(constant)
        tiny = (weights != 0) & (np.abs(weights) < _TINY)
        if tiny.any():
            found = True
            replaced = np.where(tiny, np.float32(0), weights)
            constant.CopyFrom(numpy_helper.from_array(replaced, constant.name))
    return found


def _without_prelu(model: ModelProto) -> bool:
    """Rewrite PRelu in operators for which ONNX Runtime keeps its blocked layout (NCHWc) on CPUs.

    ONNX Runtime has no PRelu in the layout in which its convolutions are fastest, so each one costs two
    reorderings of the whole feature map: half the time of ArcFace's recognisers.

    Results change in the last bits of float32. Returns whether there were any that can be rewritten.
    """
    graph = model.graph
    constants = {constant.name: constant for constant in graph.initializer}
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    prelus = {node.output[0] for node in graph.node if node.op_type == "PRelu" and node.input[1] in constants}
    if not prelus or opset < _BROADCASTS_SINCE:
        return False
    uses = Counter(given for node in graph.node for given in node.input)
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.output[0] not in prelus:
            nodes.append(node)
            continue
        slope = numpy_helper.to_array(constants[node.input[1]])
        following = _folding(graph, constants, uses, node.output[0], slope)
        for convolution in following:
            _scale_inputs(convolution, constants[convolution.input[1]], (1 - slope).ravel())
        written, factors = _folded(node, slope) if following else _rectified(node, slope)
        nodes += written
        graph.initializer.extend(factors)
    del graph.node[:]
    graph.node.extend(nodes)
    return True


def _folding(
    graph: GraphProto, constants: dict[str, TensorProto], uses: Counter[str], name: str, slope: Weights
) -> list[NodeProto]:
    """Return the convolutions that read a PRelu's output, if each can take a factor into its weights.

    Returns none if anything else reads the output.
    """
    by_channel = slope.shape == (slope.size, 1, 1) and bool((slope < _STEEPEST).all())
    if not by_channel or name in {output.name for output in graph.output}:
        return []
    readers = [node for node in graph.node if name in node.input]
    own = all(
        node.op_type == "Conv" and node.input[1] in constants and uses[node.input[1]] == 1 for node in readers
    )
    return readers if own else []


def _scale_inputs(convolution: NodeProto, weight: TensorProto, factor: Weights) -> None:
    """Multiply each input channel of a convolution by its factor [channels]."""
    values = numpy_helper.to_array(weight)
    outputs, inputs_a_group = values.shape[:2]
    groups = next((one.i for one in convolution.attribute if one.name == "group"), 1)
    group = np.arange(outputs) // (outputs // groups)
    channel = group[:, None] * inputs_a_group + np.arange(inputs_a_group)
    scaled = (values * factor[channel][:, :, None, None]).astype(values.dtype)
    weight.CopyFrom(numpy_helper.from_array(scaled, weight.name))


def _folded(node: NodeProto, slope: Weights) -> tuple[list[NodeProto], list[TensorProto]]:
    """Write ``relu(x) + slope / (1 - slope) * x``: the PRelu without the factor ``1 - slope``."""
    given, answer = node.input[0], node.output[0]
    positive, rest, ratio = (f"{answer}.{part}" for part in ("positive", "rest", "ratio"))
    nodes = [
        make_node("Relu", [given], [positive]),
        make_node("Mul", [given, ratio], [rest]),
        make_node("Add", [positive, rest], [answer]),
    ]
    return nodes, [numpy_helper.from_array((slope / (1 - slope)).astype(slope.dtype), ratio)]


def _rectified(node: NodeProto, slope: Weights) -> tuple[list[NodeProto], list[TensorProto]]:
    """Write ``slope * x + (1 - slope) * relu(x)``."""
    (given, slope_name), (answer,) = node.input, node.output
    positive, above, below, rest = (f"{answer}.{part}" for part in ("positive", "above", "below", "rest"))
    nodes = [
        make_node("Relu", [given], [positive]),
        make_node("Mul", [positive, rest], [above]),
        make_node("Mul", [given, slope_name], [below]),
        make_node("Add", [below, above], [answer]),
    ]
    return nodes, [numpy_helper.from_array((1 - slope).astype(slope.dtype), rest)]
