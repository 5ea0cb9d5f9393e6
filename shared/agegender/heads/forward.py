"""Run a bank in NumPy, all members at once, so that serving needs no torch."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from agegender.heads.architecture import Activate, Dropout, Layer, Linear, Norm

Array = npt.NDArray[np.float32]


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
    tensors : float32, with the names and shapes of `architecture.tensor_shapes`.
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
