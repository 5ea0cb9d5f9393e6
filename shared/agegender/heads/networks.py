"""The networks of heads: their architectures as lists of layers, and a forward pass in NumPy.

Serving needs no torch: NumPy runs all members of a bank at once. Training interprets the same layers in
torch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

Array = npt.NDArray[np.float32]
Activation = Literal["relu", "silu"]


@dataclass(frozen=True)
class Linear:
    """``x @ weight + bias``; weight [members, inputs, outputs], bias [members, outputs]."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Norm:
    """Batch normalisation; a saved head has it folded into scale and shift [members, features]."""

    name: str
    features: int


@dataclass(frozen=True)
class Dropout:
    """Dropout with a probability of each feature."""

    probability: float


@dataclass(frozen=True)
class Activate:
    """An activation function."""

    function: Activation


@dataclass(frozen=True)
class Residual:
    """``x + body(x)``."""

    body: tuple["Layer", ...]


Layer = Linear | Norm | Dropout | Activate | Residual


class _Architecture(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    dropout: float = Field(0.1, ge=0, lt=1)


class Mlp(_Architecture):
    """Linear layers of the given widths, each followed by normalisation (optional), activation and dropout.

    Without hidden layers it is multinomial logistic regression.
    """

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[Annotated[int, Field(gt=0, le=4096)], ...] = Field((256, 128), max_length=8)
    activation: Activation = "silu"
    norm: bool = True
    input_dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the embedding's features")

    def layers(self, inputs: int, outputs: int) -> tuple[Layer, ...]:
        layers: list[Layer] = [Dropout(self.input_dropout)] if self.input_dropout else []
        for index, width in enumerate(self.hidden):
            layers.append(Linear(f"hidden{index}", inputs, width))
            if self.norm:
                layers.append(Norm(f"norm{index}", width))
            layers += [Activate(self.activation), Dropout(self.dropout)]
            inputs = width
        return (*layers, Linear("output", inputs, outputs))


class ResMlp(_Architecture):
    """The head of tae898/age-gender (arXiv 2108.08186, section 3).

    A block has `residuals_per_block` residual units of constant width and a layer that halves the width. Each
    linear layer but the first is preceded by an independent-component layer: batch normalisation, then
    dropout (arXiv 1905.05928). A residual unit applies its activation after the addition.
    """

    kind: Literal["resmlp"] = "resmlp"
    dropout: float = Field(0.05, ge=0, lt=1)
    blocks: int = Field(2, ge=0, le=8)
    residuals_per_block: int = Field(1, ge=0, le=8)
    add_residual: bool = True
    add_independent_component: bool = True

    def layers(self, inputs: int, outputs: int) -> tuple[Layer, ...]:
        layers: list[Layer] = []
        width = inputs
        for block in range(self.blocks):
            for unit in range(self.residuals_per_block):
                name = f"block{block}.unit{unit}"
                first = () if block == unit == 0 else self._independent_component(f"{name}.norm0", width)
                body: tuple[Layer, ...] = (
                    *first,
                    Linear(f"{name}.linear0", width, width),
                    Activate("relu"),
                    *self._independent_component(f"{name}.norm1", width),
                    Linear(f"{name}.linear1", width, width),
                )
                layers += (Residual(body),) if self.add_residual else body
                layers.append(Activate("relu"))
            layers += self._independent_component(f"block{block}.norm", width)
            layers += [Linear(f"block{block}.down", width, width // 2), Activate("relu")]
            width //= 2
        return (*layers, Linear("output", width, outputs))

    def _independent_component(self, name: str, width: int) -> tuple[Layer, ...]:
        return (Norm(name, width), Dropout(self.dropout)) if self.add_independent_component else ()


Architecture = Annotated[Mlp | ResMlp, Field(discriminator="kind")]


def flat(layers: tuple[Layer, ...]) -> Iterator[Linear | Norm | Dropout | Activate]:
    """Yield the layers in order, those of residual bodies included."""
    for layer in layers:
        if isinstance(layer, Residual):
            yield from flat(layer.body)
        else:
            yield layer


def tensor_shapes(layers: tuple[Layer, ...], members: int, inputs: int) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a saved bank's tensors."""
    shapes: dict[str, tuple[int, ...]] = {"input.mean": (members, inputs), "input.std": (members, inputs)}
    for layer in flat(layers):
        if isinstance(layer, Linear):
            shapes[f"{layer.name}.weight"] = (members, layer.inputs, layer.outputs)
            shapes[f"{layer.name}.bias"] = (members, layer.outputs)
        elif isinstance(layer, Norm):
            shapes[f"{layer.name}.scale"] = (members, layer.features)
            shapes[f"{layer.name}.shift"] = (members, layer.features)
    return shapes


def bank_logits(
    layers: tuple[Layer, ...],
    tensors: Mapping[str, Array],
    embeddings: Array,
    dropout: np.random.Generator | None = None,
) -> Array:
    """Return the logits of every member of a bank.

    Parameters
    ----------
    layers : layers of the architecture.
    tensors : float32, with the names and shapes of `tensor_shapes`.
    embeddings : [faces, dimension].
    dropout : generator of the masks of Monte-Carlo dropout (arXiv 1506.02142); None turns dropout off.

    Returns
    -------
    [members, faces, outputs], float32.
    """
    features = (embeddings[None] - tensors["input.mean"][:, None]) / tensors["input.std"][:, None]
    return _run(layers, tensors, features, dropout)


class FoldedBank:
    """`bank_logits` without dropout, but faster: scales and shifts are folded into the linear layers.

    With the standardisation of the input folded too, all members have the same input, so the first layer is
    one matrix product for the whole bank.
    """

    def __init__(self, first: Linear, rest: tuple[Layer, ...], tensors: Mapping[str, Array]) -> None:
        weight = tensors[f"{first.name}.weight"] / tensors["input.std"][:, :, None]
        shift = np.matmul(tensors["input.mean"][:, None], weight)[:, 0]
        self._bias = tensors[f"{first.name}.bias"] - shift
        self._weight = np.ascontiguousarray(weight.transpose(1, 0, 2).reshape(first.inputs, -1))
        self._rest = rest
        self._tensors = {  # without those of the first layer, the largest, which are no longer needed
            name: tensor for name, tensor in tensors.items() if not name.startswith(f"{first.name}.")
        }

    def logits(self, embeddings: Array) -> Array:
        """embeddings : [faces, dimension]. Returns [members, faces, outputs]."""
        members, width = self._bias.shape
        features = (embeddings @ self._weight).reshape(len(embeddings), members, width) + self._bias
        return _run(self._rest, self._tensors, features.transpose(1, 0, 2), None)


def folded(layers: tuple[Layer, ...], tensors: Mapping[str, Array]) -> FoldedBank | None:
    """Return the folded bank, or None if the first layer is not linear (a residual unit keeps its input)."""
    (first, *rest), tensors = _without_norms(
        [layer for layer in layers if not isinstance(layer, Dropout)], tensors
    )
    return FoldedBank(first, tuple(rest), tensors) if isinstance(first, Linear) else None


def _without_norms(layers: list[Layer], tensors: Mapping[str, Array]) -> tuple[list[Layer], dict[str, Array]]:
    """Return equivalent layers in which each norm after a linear layer is folded into that layer."""
    kept, merged = list[Layer](), dict(tensors)
    for layer in layers:
        if isinstance(layer, Norm) and kept and isinstance(before := kept[-1], Linear):
            scale, shift = tensors[f"{layer.name}.scale"], tensors[f"{layer.name}.shift"]
            weight, bias = f"{before.name}.weight", f"{before.name}.bias"
            merged[weight] = merged[weight] * scale[:, None]
            merged[bias] = merged[bias] * scale + shift
        else:
            kept.append(layer)
    return kept, merged


def _run(
    layers: tuple[Layer, ...],
    tensors: Mapping[str, Array],
    features: Array,
    dropout: np.random.Generator | None,
) -> Array:
    for layer in layers:
        match layer:
            case Linear(name=name):
                features = np.matmul(features, tensors[f"{name}.weight"])
                features += tensors[f"{name}.bias"][:, None]
            case Norm(name=name):
                features = features * tensors[f"{name}.scale"][:, None] + tensors[f"{name}.shift"][:, None]
            case Activate(function="relu"):
                features = np.maximum(features, 0)
            case Activate():
                features = _silu(features)
            case Dropout(probability=probability):
                if dropout is not None and probability > 0:
                    kept = dropout.random(features.shape, dtype=np.float32) >= probability
                    features = features * kept / np.float32(1 - probability)
            case _:
                features = features + _run(layer.body, tensors, features, dropout)
    return features


def _silu(x: Array) -> Array:
    """Return ``x / (1 + exp(-x))``; if the exponential overflows, the quotient is zero, which is correct."""
    with np.errstate(over="ignore"):
        divisor = np.exp(np.negative(x))
    divisor += 1
    return np.divide(x, divisor, out=divisor)


def softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return the softmax over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))
