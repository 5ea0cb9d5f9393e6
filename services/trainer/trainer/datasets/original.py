"""Faces that the original extracted (`data-aligned.npy`, `data.npy`), made a data set of ours."""

from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from agegender.datasets import EmbeddingSet, write_embedding_set
from agegender.errors import Problem
from agegender.labels import AGE_GROUPS, Gender
from agegender.spaces import Space
from agegender.wire.datasets import OriginalSamples, read_original_dataset
from agegender.wire.errors import WireError

from trainer.datasets.grouping import with_folds
from trainer.datasets.meta_data import face_counts
from trainer.datasets.original_files import KIND, original_file

_GENDERS = {"m": Gender.MALE, "f": Gender.FEMALE}


def import_original(data_dir: Path, dataset: str, variant: str, space: Space) -> int:
    """Write an original file of a data set's folder as extracted faces; gives their number.

    The space is named by whoever imports, for the file does not tell it. Raises ``bad-original`` 422.
    """
    path = original_file(data_dir / dataset, variant)
    try:
        samples = read_original_dataset(path)
        faces, told = with_folds(_embedding_set(samples, space))
    except (OSError, WireError, ValueError) as error:
        raise Problem("bad-original", 422, f"{dataset}/{path.name}: {error}") from error
    meta_data = {
        "dataset": dataset,
        "kind": KIND,
        "variant": variant,
        "imported_from": path.name,
        "images": len(faces),
        "removed": {},
        **told,
        **face_counts(faces),
    }
    write_embedding_set(data_dir, dataset, variant, faces, meta_data)
    return len(faces)


def _embedding_set(samples: OriginalSamples, space: Space) -> EmbeddingSet:
    paths = [PurePosixPath(path) for path in samples.image_path]
    low, high = _intervals(samples)
    norm = np.linalg.norm(samples.embedding, axis=1, keepdims=True)
    if not (np.isfinite(norm) & (norm > 0)).all():
        raise ValueError("an embedding has no direction")
    return EmbeddingSet(
        space=space,
        file=np.array(["/".join(path.parts[-2:]) for path in paths]),
        embedding=np.asarray(samples.embedding / norm, dtype=np.float32),
        age_low=low,
        age_high=high,
        gender=np.array([_GENDERS.get(gender, Gender.UNKNOWN) for gender in samples.gender], dtype=np.int8),
        subject=np.array([path.parent.name if _is_adience(samples) else "" for path in paths], dtype=np.str_),
        fold=samples.fold,
        embedding_mirrored=np.zeros((0, space.dimension), np.float32),
    )


def _is_adience(samples: OriginalSamples) -> bool:
    return bool((samples.fold >= 0).all())


def _intervals(samples: OriginalSamples) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """For Adience the group whose middle stands in the file, for others the year."""
    if not _is_adience(samples):
        return samples.age, samples.age
    bounds = np.array(AGE_GROUPS, dtype=np.float32)
    group = np.abs(samples.age[:, None] - bounds.mean(axis=1)).argmin(axis=1)
    return bounds[group, 0], bounds[group, 1]
