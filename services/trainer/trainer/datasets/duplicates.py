"""Faces that a head must not see on both sides of a split: copies of one photograph, and one person.

Copies are found by the images' hashes, persons by the part of the embedding that a face recogniser gives.
Neither threshold is estimated from the data set at hand: both were validated once, on pairs of strangers and
on copies (docs/datasets.md has the figures).
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np
import numpy.typing as npt
from agegender.cpus import available_cpus
from agegender.errors import Problem
from agegender.images import ImageLimits, decode
from agegender.spaces import Space
from PIL import Image, ImageOps

from trainer.datasets.embedding_set import IMAGE_HASH_BYTES, SHA256_BYTES

Embeddings = npt.NDArray[np.float32]
Groups = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int64]

# Bits of 256 that may differ between copies. Of 96 million pairs of different photographs none came below 48.
MAX_HASH_DISTANCE = 32
HASH_BITS = 8 * IMAGE_HASH_BYTES // 2  # of each of the two hashes
_SIDE = 16  # 16 × 16 bits
_LIMITS = ImageLimits()
_BLOCK = 2048
_MAX_PAIRS = 1_000_000
# A chain of more faces than this is divided, so that look-alikes never join into one group.
_LONGEST_CHAIN = 30
_MOST_LINKED = 2000


@dataclass(frozen=True)
class Recogniser:
    """The part of a space's embedding that tells people apart.

    columns : of the embedding. threshold : cosine of these columns from which two faces are of one person.
    """

    name: str
    columns: slice
    threshold: float

    def vectors(self, embedding: Embeddings) -> Embeddings:
        """The recogniser's unit vectors [faces, columns]; `embedding` may be a mapped file."""
        own = np.array(embedding[:, self.columns], dtype=np.float32)
        own /= np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-12)
        return own


# By space: other spaces hold no recogniser's output whose threshold was validated.
RECOGNISERS = {"human-2": Recogniser("mobileface", slice(2048, 2304), 0.8)}


def recogniser_of(space: Space) -> Recogniser | None:
    return RECOGNISERS.get(space.id)


def photograph_groups(file_sha256: npt.NDArray[np.uint8], image_hash: npt.NDArray[np.uint8]) -> Groups:
    """Number the copies of one photograph: [faces], the row of the first face of each group.

    Copies have the same bytes, or hashes that differ in at most `MAX_HASH_DISTANCE` bits, one of them perhaps
    mirrored. Memory is a few blocks, whatever the number of faces.
    """
    pairs = (found for found, _ in copies(image_hash, image_hash))
    return join(same_bytes(file_sha256), pairs)


def same_bytes(file_sha256: npt.NDArray[np.uint8]) -> Groups:
    """Number files of the same bytes: [faces], the row of the first of each."""
    _, first, index = np.unique(file_sha256, axis=0, return_index=True, return_inverse=True)
    return np.asarray(first[index.reshape(-1)], dtype=np.int64)


def copies(
    first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8], block: int = _BLOCK
) -> Iterator[tuple[Pairs, npt.NDArray[np.int64]]]:
    """Yield pairs [2, found] of rows of `first` and `second` that are copies, and the bits that differ.

    If both are the same array, each pair comes once. A mirrored copy is one whose hash is near the other's
    mirrored hash.
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
    """Number the faces of one person: [faces], the row of the first face of each group.

    Faces whose cosine is at least `threshold` are joined, also along a chain. A chain of more than
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
    """Join the groups of `label` that pairs [2, n] of rows connect; each is named by its first row."""
    waiting: list[Pairs] = []
    count = 0
    for found in pairs:
        waiting.append(found)
        count += found.shape[1]
        if count > _MAX_PAIRS:
            label, waiting, count = _joined(label, waiting), [], 0
    return _joined(label, waiting)


def _complete_linkage(vectors: Embeddings, threshold: float, block: int) -> Groups:
    """As `person_groups`, without chains. Very many faces are first divided by a higher threshold."""
    if len(vectors) > _MOST_LINKED and threshold < 0.999:
        higher = threshold + (1 - threshold) / 4
        return person_groups(vectors, higher, block)
    if len(vectors) > _MOST_LINKED:  # all the same: nothing to divide
        return np.zeros(len(vectors), dtype=np.int64)
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist

    distance = np.maximum(pdist(vectors, "cosine"), 0)
    cluster = fcluster(linkage(distance, "complete"), 1 - threshold, "distance")
    _, first, index = np.unique(cluster, return_index=True, return_inverse=True)
    return np.asarray(first[index], dtype=np.int64)


def _similar_pairs(vectors: Embeddings, threshold: float, block: int) -> Iterator[Pairs]:
    """Yield pairs [2, found] of rows, block by block of the upper triangle of all cosines."""
    for top in range(0, len(vectors), block):
        rows = vectors[top : top + block]
        for left in range(top, len(vectors), block):
            first, second = np.nonzero(rows @ vectors[left : left + block].T >= threshold)
            above_diagonal = first + top < second + left
            if above_diagonal.any():
                yield np.stack([first[above_diagonal] + top, second[above_diagonal] + left])


def _signs(hashes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Bits as -1 and 1, whose product counts agreeing less differing bits."""
    return np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1


def _joined(label: Groups, pairs: list[Pairs]) -> Groups:
    if not pairs:
        return label
    # Costs a second, which the API need not wait for when it starts.
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
    """file_sha256 [images, 32] and image_hash [images, 64] (the image's, then its mirror image's), uint8."""

    file_sha256: npt.NDArray[np.uint8]
    image_hash: npt.NDArray[np.uint8]


def hash_image(content: bytes) -> tuple[bytes, bytes]:
    """Return the 32 bytes of the file's hash and the 64 of the image's. Raises `Problem` as `decode` does."""
    import imagehash  # imports SciPy and PyWavelets, which the API does not need

    grey = Image.fromarray(decode(content, _LIMITS)).convert("L")
    bits = [imagehash.phash(image, hash_size=_SIDE).hash for image in (grey, ImageOps.mirror(grey))]
    return hashlib.sha256(content).digest(), np.packbits(np.stack(bits)).tobytes()


def stacked_hashes(hashes: Sequence[tuple[bytes, bytes]]) -> ImageHashes:
    return ImageHashes(
        np.frombuffer(b"".join(one for one, _ in hashes), np.uint8).reshape(-1, SHA256_BYTES),
        np.frombuffer(b"".join(one for _, one in hashes), np.uint8).reshape(-1, IMAGE_HASH_BYTES),
    )


def hash_files(folder: Path, files: Sequence[str]) -> ImageHashes:
    """Hash the image files of a folder, several at once.

    Raises ``missing-images`` 422, which counts and names the files that cannot be read.
    """

    def hashed(file: str) -> tuple[bytes, bytes] | None:
        try:
            # Archives made on a Mac have é as two characters where a table has one, or the other way round.
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
            f"{len(missing)} of {len(files)} images cannot be read in {folder}, such as {missing[0]!r}. Put "
            "the images back where they were when the data set was extracted, or extract it again.",
            files=missing[:50],
        )
    return stacked_hashes([one for one in found if one is not None])
