"""An embedder that also sees each face mirrored: a face and its mirror image are one to it."""

import numpy as np
import numpy.typing as npt

from embedder.packs.pack import Embedder, unit

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]


class MirroredEmbedder:
    """The sum of a crop's and its mirror image's unit vectors, at twice the cost; `Pack` scales it."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.size = embedder.size
        self.zoom = embedder.zoom
        self.down = embedder.down

    def embed(self, crops: Image) -> Array:
        vectors = unit(self._embedder.embed(np.concatenate([crops, crops[:, :, ::-1]])))
        return vectors[: len(crops)] + vectors[len(crops) :]
