"""Run a bank of heads in NumPy: all members at once, no torch at serving."""

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
    """Logits of every member of a bank.

    Parameters
    ----------
    layers : of the architecture.
    tensors : named and shaped as `architecture.tensor_shapes` says, float32.
    embeddings : [faces, dimension].
    dropout : draws the masks of Monte-Carlo dropout (arXiv 1506.02142); without it dropout is off.

    Returns
    -------
    [members, faces, outputs], float32.
    """
    features = (embeddings[None] - tensors["input.mean"][:, None]) / tensors["input.std"][:, None]
    return _run(layers, tensors, features, dropout)


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
                features = features * _sigmoid(features)
            case Dropout(probability=probability):
                if dropout is not None and probability > 0:
                    kept = dropout.random(features.shape, dtype=np.float32) >= probability
                    features = features * kept / np.float32(1 - probability)
            case _:
                features = features + _run(layer.body, tensors, features, dropout)
    return features


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)), dtype=np.float32)


def softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))
