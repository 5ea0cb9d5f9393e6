"""A face and its mirror image have the same embedding."""

import numpy as np
import numpy.typing as npt
from embedder.packs.pack import MirroredEmbedder


class Left:
    """The mean colours of a crop's left half and of all of it."""

    size, zoom, down = 8, 1.2, -0.1

    def embed(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        halves = [crops[:, :, :4].mean(axis=(1, 2)), crops.mean(axis=(1, 2))]
        return np.concatenate(halves, axis=1).astype(np.float32)


def test_a_crop_and_its_mirror_image_have_one_embedding_between_theirs() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    mirrored = crops[:, :, ::-1]
    plain, embedder = Left(), MirroredEmbedder(Left())
    assert not np.allclose(plain.embed(crops), plain.embed(mirrored), rtol=0.01)
    embeddings = embedder.embed(crops)
    assert embeddings.shape == (3, 6)
    np.testing.assert_allclose(embeddings, embedder.embed(mirrored), rtol=1e-5)
    unit = [
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for vectors in map(plain.embed, (crops, mirrored))
    ]
    np.testing.assert_allclose(embeddings, unit[0] + unit[1], rtol=1e-5)


def test_the_crop_asked_for_is_that_of_the_embedder_within() -> None:
    embedder = MirroredEmbedder(Left())
    assert (embedder.size, embedder.zoom, embedder.down) == (8, 1.2, -0.1)
    assert embedder.embed(np.zeros((0, 8, 8, 3), np.uint8)).shape == (0, 6)
