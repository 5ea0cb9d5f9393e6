"""Check that no photograph and no subject is on both sides of a split, across all data sets used together.

The check compares the bytes of the image files, their perceptual hashes, and the names of subjects. A subject
that was joined from several has all of their names. Persons that only a recogniser finds are grouped within
each data set at its extraction, but not across data sets.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem

from trainer.datasets.duplicates import Groups, Pairs, copies, join, same_bytes
from trainer.datasets.embedding_set import FaceLabels
from trainer.datasets.folds import AUTOMATIC, groups_of, joined_subjects, labelled_subjects

Overlap = Literal["refuse", "merge", "allow"]
Reason = Literal["same-file", "same-photograph", "same-subject", "subject-in-several-folds"]

_WORDS: dict[Reason, str] = {
    "same-file": "image files that occur more than once",
    "same-photograph": "photographs of which there are several copies",
    "same-subject": "names of subjects that several data sets use",
    "subject-in-several-folds": "subjects that are in several folds",
}
_EXAMPLES = 5


@dataclass(frozen=True)
class Exclusiveness:
    """Result of a check.

    Attributes
    ----------
    found : reason → number of groups and of faces that are in several folds or have several subjects.
    examples : some of them, each with "reason", "files" and "folds".
    not_checked : data sets without image hashes.
    group : [faces]; faces that must stay together have the same number, which is the row of the first.
    """

    found: dict[Reason, dict[str, int]]
    examples: list[dict[str, Any]]
    not_checked: list[str]
    group: Groups

    def report(self, overlap: Overlap) -> dict[str, Any]:
        """Return the result as it is stored with an experiment or a search."""
        return {
            "overlap": overlap,
            "found": self.found,
            "examples": self.examples,
            "not_checked": self.not_checked,
        }


def check(faces: FaceLabels, sets: Mapping[str, FaceLabels]) -> Exclusiveness:
    """Find photographs and subjects that several folds, or several subjects, have in common.

    faces : the data sets combined by `combine_labels`. sets : name → labels of each, in the same order.
    """
    offsets = dict(zip(sets, np.cumsum([0, *(len(one) for one in sets.values())]).tolist(), strict=False))
    every = np.arange(len(faces), dtype=np.int64)
    files, photographs, names = every, every, every
    for name, one in sets.items():
        if one.has_hashes:
            own = every[offsets[name] : offsets[name] + len(one)]
            files = join(files, [np.stack([own, own[same_bytes(one.file_sha256)]])])
        if one.has_hashes and len(one.photograph) == len(one):
            photographs = join(photographs, [np.stack([own, own[one.photograph]])])
    for (first, one), (second, other) in combinations(sets.items(), 2):
        shift = np.array([[offsets[first]], [offsets[second]]])
        files = join(files, [same_files(one, other) + shift])
        photographs = join(photographs, (pairs + shift for pairs in same_photographs(one, other)))
        names = join(names, [same_subjects(one, other) + shift])
    photographs = join(photographs, [np.stack([every, files])])
    subject = join(every, [_first_of_each(groups_of(faces.subject))])
    names = join(names, [np.stack([every, subject])])
    found: dict[Reason, dict[str, int]] = {}
    examples: list[dict[str, Any]] = []
    links: dict[Reason, Groups] = {
        "same-file": files,
        "same-photograph": photographs,
        "same-subject": names,
        "subject-in-several-folds": subject,
    }
    for reason, group in links.items():
        apart = _has_several(group, subject)
        if reason != "same-subject":
            apart |= _has_several(group, faces.fold.astype(np.int64))
        if apart.any():
            found[reason] = {"groups": len(np.unique(group[apart])), "faces": int(apart.sum())}
            examples += _examples(reason, faces, group, apart)
    whole = subject
    for group in (photographs, names):
        whole = join(whole, [np.stack([every, group])])
    return Exclusiveness(found, examples, [name for name, one in sets.items() if not one.has_hashes], whole)


def require_exclusive(result: Exclusiveness) -> None:
    """Raise ``overlapping-faces`` 409, with counts and examples, if anything was found."""
    if not result.found:
        return
    raise Problem(
        "overlapping-faces",
        409,
        f"There are {described(result.found)}, in several folds or under several subjects, such as "
        f"{_shown(result.examples[0])}. Networks would be judged on faces that they were trained on. Set "
        'overlap to "merge" to make each group one subject in one fold, or to "allow" to train all the same, '
        "which makes the metrics optimistic.",
        found=result.found,
        examples=result.examples,
    )


def described(found: Mapping[Reason, Mapping[str, int]]) -> str:
    """Return the counts of a check in words."""
    return " and ".join(
        f"{counts['groups']:,} {_WORDS[reason]} ({counts['faces']:,} faces)"
        for reason, counts in found.items()
    )


def exclusiveness_warnings(report: dict[str, Any]) -> list[str]:
    """Return what `exclusive_labels` found and tolerated, and what it could not check."""
    warnings = []
    if report["found"] and report["overlap"] == "allow":
        warnings.append(f"In several folds or under several subjects are {described(report['found'])}.")
    if report["found"] and report["overlap"] == "merge":
        warnings.append(
            f"Merged were {described(report['found'])}; {report['moved']:,} faces changed their fold."
        )
    warnings += [
        f"Copies of images in {name} were not detected, because it was extracted without their hashes; run "
        f"`agegender regroup {name}`."
        for name in report["not_checked"]
    ]
    return warnings


def merged(faces: FaceLabels, group: Groups) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.int16]]:
    """Return subject and fold [faces] with one subject and one fold per group.

    The fold is the one with most faces of the group, the lowest of equals.
    """
    names, index = np.unique(group, return_inverse=True)
    counts = np.zeros((len(names), int(faces.fold.max(initial=0)) + 1), dtype=np.int64)
    known = faces.fold >= 0
    np.add.at(counts, (index[known], faces.fold[known]), 1)
    fold = np.where(known, counts.argmax(axis=1)[index], faces.fold).astype(np.int16)
    return joined_subjects(faces.subject, group, faces.file), fold


def shared_faces(first: Mapping[str, FaceLabels], second: Mapping[str, FaceLabels]) -> tuple[int, list[str]]:
    """Count the faces of `second` that are also in `first`, by file, photograph or subject; name a few.

    Data sets without hashes are compared by subject only.
    """
    count = 0
    examples: list[str] = []
    for name, other in second.items():
        shared = np.zeros(len(other), dtype=np.bool_)
        first_face = _first_of_each(groups_of(other.subject))[1]
        for one in first.values():
            shared |= np.isin(first_face, same_subjects(one, other)[1])
            for pairs in (same_files(one, other), *same_photographs(one, other)):
                shared[pairs[1]] = True
        count += int(shared.sum())
        examples += [f"{name}/{file}" for file in other.file[shared][:_EXAMPLES].tolist()]
    return count, examples[:_EXAMPLES]


def same_files(first: FaceLabels, second: FaceLabels) -> Pairs:
    """Return pairs [2, n] of rows whose files have the same bytes: each of `second` with one of `first`."""
    if not (first.has_hashes and second.has_hashes):
        return np.zeros((2, 0), np.int64)
    return _matching(_as_text(first.file_sha256), _as_text(second.file_sha256))


def same_photographs(first: FaceLabels, second: FaceLabels) -> Iterator[Pairs]:
    """Yield pairs [2, n] of rows whose images are copies."""
    if first.has_hashes and second.has_hashes:
        for pairs, _ in copies(first.image_hash, second.image_hash):
            yield pairs


def same_subjects(first: FaceLabels, second: FaceLabels) -> Pairs:
    """Return pairs [2, n] of rows whose subjects have a labelled name in common.

    A row is that of a subject's first face. Every such subject of either data set is in a pair.
    """
    (names, rows), (other_names, other_rows) = _names(first), _names(second)
    found = [_matching(names, other_names), _matching(other_names, names)[::-1]]
    pairs = np.concatenate(found, axis=1)
    return np.stack([rows[pairs[0]], other_rows[pairs[1]]])


def _names(faces: FaceLabels) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.int64]]:
    """Return the names [n] of all subjects as they are compared, and the row [n] of each one's first face.

    A joined subject has the labelled names of its faces and its own, which may be from another space.
    """
    first = _first_of_each(groups_of(faces.subject))[1].tolist()
    columns = (faces.subject, labelled_subjects(faces))
    found = {pair for column in columns for pair in zip(column.tolist(), first, strict=True)}
    compared = {name: _compared(name) for name, _ in found}
    pairs = sorted({(compared[name], row) for name, row in found if compared[name]})
    return np.array([name for name, _ in pairs], np.str_), np.array([row for _, row in pairs], np.int64)


def _compared(name: str) -> str:
    """Return a name in lower case and Unicode form NFC, with single blanks; "" for an automatic name."""
    if name.startswith(AUTOMATIC):
        return ""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
    return " ".join(folded.replace("_", " ").split()) or name


def _matching(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> Pairs:
    values, position = np.unique(first, return_index=True)
    if len(values) == 0 or len(second) == 0:
        return np.zeros((2, 0), np.int64)
    place = np.minimum(np.searchsorted(values, second), len(values) - 1)
    rows = np.flatnonzero(values[place] == second)
    return np.stack([position[place[rows]], rows]).astype(np.int64)


def _as_text(digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.str_]:
    return np.array([digest.tobytes().hex() for digest in digests], dtype=np.str_)


def _first_of_each(group: npt.NDArray[np.int64]) -> Pairs:
    _, first, index = np.unique(group, return_index=True, return_inverse=True)
    return np.stack([np.arange(len(group)), first[index]])


def _has_several(group: Groups, value: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return whether the group of each face has several values [faces]."""
    low = np.full(len(group), np.iinfo(np.int64).max)
    high = np.full(len(group), np.iinfo(np.int64).min)
    np.minimum.at(low, group, value)
    np.maximum.at(high, group, value)
    return np.asarray(low[group] != high[group])


def _examples(
    reason: Reason, faces: FaceLabels, group: Groups, apart: npt.NDArray[np.bool_]
) -> list[dict[str, Any]]:
    found = []
    for name in np.unique(group[apart])[:_EXAMPLES]:
        rows = np.flatnonzero(group == name)
        # Two faces of different folds are more informative than the first two.
        other = rows[np.argmax(faces.fold[rows] != faces.fold[rows[0]])] if len(rows) > 1 else rows[0]
        pair = [rows[0], other if other != rows[0] else rows[-1]]
        found.append(
            {"reason": reason, "files": faces.file[pair].tolist(), "folds": faces.fold[pair].tolist()}
        )
    return found


def _shown(example: Mapping[str, Any]) -> str:
    return " and ".join(
        f"{file} (fold {fold})" for file, fold in zip(example["files"], example["folds"], strict=True)
    )
