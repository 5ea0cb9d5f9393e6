"""Architectures of heads as lists of layers, which NumPy (serving) and torch (training) interpret."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

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
