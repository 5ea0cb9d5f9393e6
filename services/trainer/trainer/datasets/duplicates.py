"""Find near-duplicate faces, which must not be on both sides of a split: image copies and same persons.

Copies are found by hashes of the images; persons by the columns of the embedding that come from a face
recogniser. Both thresholds were validated once, on pairs of different people and on copies
(docs/datasets.md); they are not estimated from the data set at hand.

The perceptual hash is `phash` of the library ImageHash (discrete cosine transform) with 256 bits. It
tolerates other compression, size, brightness and colour, but not another crop.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np
import numpy.typing as npt
from agegender.environment import available_cpus
from agegender.errors import Problem
from agegender.images import ImageLimits, decode
from PIL import Image, ImageOps

from trainer.datasets.embedding_set import IMAGE_HASH_BYTES, SHA256_BYTES

Embeddings = npt.NDArray[np.float32]
Groups = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int64]

# Of 256 bits, so many may differ between copies. The smallest distance in 96 million pairs of different
# photographs was 48.
MAX_HASH_DISTANCE = 32
HASH_BITS = 8 * IMAGE_HASH_BYTES // 2  # per hash; IMAGE_HASH_BYTES holds two
_SIDE = 16  # 16 × 16 bits
_LIMITS = ImageLimits()
_BLOCK = 2048
_MAX_PAIRS = 1_000_000
# Longer chains of similar faces are divided, so that look-alikes do not merge into one group.
_LONGEST_CHAIN = 30
_MOST_LINKED = 2000


def photograph_groups(file_sha256: npt.NDArray[np.uint8], image_hash: npt.NDArray[np.uint8]) -> Groups:
    """Group copies of one photograph. Returns, for each face, the row of the first face of its group [faces].

    Copies have the same bytes, or hashes that differ in at most `MAX_HASH_DISTANCE` bits; one of the two may
    be mirrored. Memory does not grow with the number of faces.
    """
    pairs = (found for found, _ in copies(image_hash, image_hash))
    return join(same_bytes(file_sha256), pairs)


def same_bytes(file_sha256: npt.NDArray[np.uint8]) -> Groups:
    """Group files with the same bytes. Returns the row of the first file of each group [faces]."""
    _, first, index = np.unique(file_sha256, axis=0, return_index=True, return_inverse=True)
    return np.asarray(first[index.reshape(-1)], dtype=np.int64)


def copies(
    first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8], block: int = _BLOCK
) -> Iterator[tuple[Pairs, npt.NDArray[np.int64]]]:
    """Yield pairs [2, n] of rows of `first` and `second` that are copies, and the differing bits [n].

    If both are the same array, each pair is yielded once. Mirrored copies are found because the hash of one
    is compared with both hashes of the other.
    """
    half = first.shape[1] // 2
    same = first is second
    for top in range(0, len(first), block):
        rows = _signs(first[top : top + block, :half])
        for left in range(top if same else 0, len(second), block):
            columns = second[left : left + block]
            agreeing = rows @ _signs(columns[:, :half]).T
            np.maximum(agreeing, rows @ _signs(columns[:, half:]).T, out=agreeing)
            row, column = np.nonzero(agreeing >= HASH_BITS - 2 * MAX_HASH_DISTANCE)
            if same:
                above_diagonal = row + top < column + left
                row, column = row[above_diagonal], column[above_diagonal]
            if len(row):
                bits = (HASH_BITS - agreeing[row, column]) / 2
                yield np.stack([row + top, column + left]), bits.astype(np.int64)


def person_groups(
    vectors: Embeddings, threshold: float, block: int = _BLOCK, longest_chain: int = _LONGEST_CHAIN
) -> Groups:
    """Group faces of one person. Returns, for each face, the row of the first face of its group [faces].

    Faces whose cosine is at least `threshold` are joined, also indirectly. A chain of more than
    `longest_chain` faces is divided into groups in which *all* cosines are at least `threshold` (complete
    linkage), because a few look-alikes would otherwise join many people.

    vectors : [faces, dimension], unit norm.
    """
    label = np.arange(len(vectors), dtype=np.int64)
    label = join(label, _similar_pairs(vectors, threshold, block))
    names, sizes = np.unique(label, return_counts=True)
    for name in names[sizes > longest_chain]:
        rows = np.flatnonzero(label == name)
        label[rows] = rows[_complete_linkage(vectors[rows], threshold, block)]
    return label


def join(label: Groups, pairs: Iterable[Pairs]) -> Groups:
    """Join the groups of `label` that pairs [2, n] of rows connect; a group is numbered by its first row."""
    waiting: list[Pairs] = []
    count = 0
    for found in pairs:
        waiting.append(found)
        count += found.shape[1]
        if count > _MAX_PAIRS:
            label, waiting, count = _joined(label, waiting), [], 0
    return _joined(label, waiting)


def _complete_linkage(vectors: Embeddings, threshold: float, block: int) -> Groups:
    """Group by complete linkage. Too many faces for it are first divided with a higher threshold."""
    if len(vectors) > _MOST_LINKED and threshold < 0.999:
        higher = threshold + (1 - threshold) / 4
        return person_groups(vectors, higher, block)
    if len(vectors) > _MOST_LINKED:  # all faces are the same
        return np.zeros(len(vectors), dtype=np.int64)
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist

    distance = np.maximum(pdist(vectors, "cosine"), 0)
    cluster = fcluster(linkage(distance, "complete"), 1 - threshold, "distance")
    _, first, index = np.unique(cluster, return_index=True, return_inverse=True)
    return np.asarray(first[index], dtype=np.int64)


def _similar_pairs(vectors: Embeddings, threshold: float, block: int) -> Iterator[Pairs]:
    """Yield pairs [2, n] of rows, block by block of the upper triangle of the cosine matrix."""
    for top in range(0, len(vectors), block):
        rows = vectors[top : top + block]
        for left in range(top, len(vectors), block):
            first, second = np.nonzero(rows @ vectors[left : left + block].T >= threshold)
            above_diagonal = first + top < second + left
            if above_diagonal.any():
                yield np.stack([first[above_diagonal] + top, second[above_diagonal] + left])


def _signs(hashes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the bits as -1 and 1, so that a product counts agreeing minus differing bits."""
    return np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1


def _joined(label: Groups, pairs: list[Pairs]) -> Groups:
    if not pairs:
        return label
    # Takes a second to import, so not when the API starts.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = label[np.concatenate(pairs, axis=1)]
    faces = len(label)
    graph = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(faces, faces))
    _, component = connected_components(graph, directed=False)
    component = component[label]
    names, where = np.unique(component, return_index=True)
    return np.asarray(where[np.searchsorted(names, component)], dtype=np.int64)


@dataclass(frozen=True)
class ImageHashes:
    """file_sha256 : uint8 [images, 32]. image_hash : uint8 [images, 64], of image and mirror image."""

    file_sha256: npt.NDArray[np.uint8]
    image_hash: npt.NDArray[np.uint8]


def hash_image(content: bytes) -> tuple[bytes, bytes]:
    """Return the hash of the file (32 bytes) and of the image (64). Raises `Problem` as `decode` does."""
    import imagehash  # imports SciPy and PyWavelets, which the API does not use

    grey = Image.fromarray(decode(content, _LIMITS)).convert("L")
    bits = [imagehash.phash(image, hash_size=_SIDE).hash for image in (grey, ImageOps.mirror(grey))]
    return hashlib.sha256(content).digest(), np.packbits(np.stack(bits)).tobytes()


def stacked_hashes(hashes: Sequence[tuple[bytes, bytes]]) -> ImageHashes:
    """Return the results of `hash_image` as arrays."""
    return ImageHashes(
        np.frombuffer(b"".join(one for one, _ in hashes), np.uint8).reshape(-1, SHA256_BYTES),
        np.frombuffer(b"".join(one for _, one in hashes), np.uint8).reshape(-1, IMAGE_HASH_BYTES),
    )


def hash_files(folder: Path, files: Sequence[str]) -> ImageHashes:
    """Hash the image files of a folder in parallel threads.

    Raises ``missing-images`` 422 with the number and names of files that cannot be read.
    """

    def hashed(file: str) -> tuple[bytes, bytes] | None:
        try:
            # An archive made on a Mac may write é as two characters (NFD) and the table as one (NFC).
            forms = [folder / form for form in (file, normalize("NFC", file), normalize("NFD", file))]
            return hash_image(next((form for form in forms if form.exists()), forms[0]).read_bytes())
        except (OSError, Problem):
            return None

    with ThreadPoolExecutor(available_cpus()) as pool:
        found = list(pool.map(hashed, files))
    if missing := [file for file, one in zip(files, found, strict=True) if one is None]:
        raise Problem(
            "missing-images",
            422,
            f"Cannot read {len(missing)} of {len(files)} images in {folder}, such as {missing[0]!r}. Restore "
            "the images as they were when the data set was extracted, or extract it again.",
            files=missing[:50],
        )
    return stacked_hashes([one for one in found if one is not None])
