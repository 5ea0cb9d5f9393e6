"""Near-duplicate faces: pictures so alike that a head which saw one has seen the other."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Embeddings = npt.NDArray[np.float32]
Groups = npt.NDArray[np.int64]

_BLOCK = 2048
_MAX_PAIRS = 1_000_000


# 60 degrees between two faces and less, in steps of 2.5.
_ANGLES = np.arange(0.0, 60.1, 2.5)
_MAX_MIXED = 0.05
_MEASURED = 20_000


@dataclass(frozen=True)
class NearDuplicates:
    """What was found, for the meta-data.

    threshold : cosine from which two faces count as the same picture or person.
    groups, faces : groups of at least two faces, and the faces in them.
    """

    threshold: float
    groups: int
    faces: int


def duplicate_cosine(embedding: Embeddings, gender: npt.NDArray[np.integer], block: int = _BLOCK) -> float:
    """The lowest cosine from which faces may count as the same, measured by their gender labels.

    Two pictures of one person agree in gender, strangers do in half of the cases. Going from equal faces to
    ever greater angles, the first step in which more than one pair, and more than 5 % of the pairs, differ in
    gender ends the range: there look-alikes begin (babies, mostly). So no space needs a constant of its own.
    At most 20,000 faces, evenly spaced, are measured.

    embedding : [faces, dimension], unit norm. gender : [faces], -1 where unknown.
    """
    known = np.flatnonzero(gender >= 0)
    chosen = known[:: max(1, -(-len(known) // _MEASURED))]
    embedding, gender = embedding[chosen], gender[chosen]
    edges = np.cos(np.radians(_ANGLES[::-1]))
    edges[-1] = np.inf  # rounding may take equal faces beyond 1
    agreeing = np.zeros(len(edges) - 1, dtype=np.int64)
    differing = np.zeros_like(agreeing)
    for pairs, cosine in _similar_pairs(embedding, float(edges[0]), block):
        differ = gender[pairs[0]] != gender[pairs[1]]
        differing += np.histogram(cosine[differ], edges)[0]
        agreeing += np.histogram(cosine[~differ], edges)[0]
    mixed = np.flatnonzero(differing > _MAX_MIXED * (agreeing + differing) + 1)
    return float(edges[mixed[-1] + 1] if len(mixed) else edges[0])


def near_duplicate_groups(embedding: Embeddings, threshold: float, block: int = _BLOCK) -> Groups:
    """Number the connected components of faces whose cosine is at least `threshold`.

    embedding : [faces, dimension], unit norm. Gives [faces]: the row of the first face of each one's group.
    Memory is a few blocks [block, block] and at most a million pairs, whatever the number of faces.
    """
    faces = len(embedding)
    label = np.arange(faces, dtype=np.int64)
    pairs: list[npt.NDArray[np.int64]] = []
    waiting = 0
    for found, _ in _similar_pairs(embedding, threshold, block):
        pairs.append(found)
        waiting += found.shape[1]
        if waiting > _MAX_PAIRS:
            label, pairs, waiting = _joined(label, pairs), [], 0
    return _joined(label, pairs)


def summarise(groups: Groups, threshold: float) -> NearDuplicates:
    _, sizes = np.unique(groups, return_counts=True)
    several = sizes[sizes > 1]
    return NearDuplicates(threshold, groups=len(several), faces=int(several.sum()))


def _similar_pairs(
    embedding: Embeddings, threshold: float, block: int
) -> Iterator[tuple[npt.NDArray[np.int64], Embeddings]]:
    """Pairs [2, found] of rows and their cosines, block by block of the upper triangle of all cosines."""
    for top in range(0, len(embedding), block):
        rows = np.asarray(embedding[top : top + block])
        for left in range(top, len(embedding), block):
            cosine = rows @ np.asarray(embedding[left : left + block]).T
            first, second = np.nonzero(cosine >= threshold)
            above_diagonal = first + top < second + left
            if above_diagonal.any():
                first, second = first[above_diagonal], second[above_diagonal]
                yield np.stack([first + top, second + left]), cosine[first, second]


def _joined(label: Groups, pairs: list[npt.NDArray[np.int64]]) -> Groups:
    """Join the groups that pairs connect; each is named by its first row."""
    if not pairs:
        return label
    first, second = label[np.concatenate(pairs, axis=1)]
    faces = len(label)
    graph = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(faces, faces))
    _, component = connected_components(graph, directed=False)
    component = component[label]
    names, where = np.unique(component, return_index=True)
    return np.asarray(where[np.searchsorted(names, component)], dtype=np.int64)
