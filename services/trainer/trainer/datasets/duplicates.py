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
_MAX_DIFFERING = 0.1
_MEASURED = 20_000
_UNMEASURED = 0.7
# A group of more faces than this share (or count, in small sets) is a chain of look-alikes, no person.
_LARGEST_SHARE, _LARGEST_COUNT = 0.01, 100


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

    Pairs of one person agree in gender but for errors in the labels, pairs of strangers do in half of the
    cases. So: the lowest cosine, of angles up to 60 degrees in steps of 2.5, such that of all pairs at or
    above it at most 10 % differ. It ends where look-alikes (babies, mostly) begin, and no space needs a
    constant of its own. One pair more is forgiven, for small sets. At most 20,000 faces, evenly spaced, are
    measured; where no gender is known, 0.7 is taken.

    embedding : [faces, dimension], unit norm. gender : [faces], -1 where unknown.
    """
    known = np.flatnonzero(gender >= 0)
    if len(known) == 0:
        return _UNMEASURED
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
    above, differing_above = (np.cumsum(counts[::-1])[::-1] for counts in (agreeing + differing, differing))
    alike = np.flatnonzero(differing_above <= _MAX_DIFFERING * above + 1)
    return float(edges[alike[0]]) if len(alike) else 1.0


def find_near_duplicates(
    embedding: Embeddings, gender: npt.NDArray[np.integer], block: int = _BLOCK
) -> tuple[Groups, NearDuplicates]:
    """Groups of faces that count as the same, numbered as `near_duplicate_groups` does, and what was found.

    Starts from `duplicate_cosine`. A space that was trained on gender puts strangers of one gender near each
    other, and pair by pair they would chain into one group of nearly all faces: so the cosine is raised, by
    2.5 degrees at a time, until the largest group is one that a person could have.
    """
    largest = max(_LARGEST_COUNT, int(_LARGEST_SHARE * len(embedding)))
    lowest = duplicate_cosine(embedding, gender, block)
    higher = [float(cosine) for cosine in np.cos(np.radians(_ANGLES[::-1])) if cosine > lowest]
    for cosine in (lowest, *higher):
        groups = near_duplicate_groups(embedding, cosine, block)
        if np.bincount(groups, minlength=1).max() <= largest:
            break
    return groups, summarise(groups, cosine)


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
