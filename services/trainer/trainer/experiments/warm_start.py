"""Warm start: train from the weights of another experiment, as the original does from IMDB-WIKI."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem
from agegender.heads.head import Head
from agegender.spaces import Space
from safetensors.numpy import load as load_safetensors

from trainer.datasets.embedding_set import (
    BadDataset,
    FaceLabels,
    data_path,
    file_sha256,
    is_dataset_name,
    read_labels,
)
from trainer.datasets.exclusiveness import Overlap, shared_faces
from trainer.experiments.experiment import Experiment, fold_dir, load_experiment, refused
from trainer.experiments.experiment_data import image_sets_of, load_label_sets
from trainer.training.config import TrainingOptions

WEIGHTS = "weights.safetensors"
Array = npt.NDArray[np.float32]


def require_warm_start(
    data_dir: Path, source_id: str, datasets: list[str], space: Space, options: TrainingOptions
) -> None:
    """Raise ``invalid-request`` 422 naming `warm_start` if the source's weights do not fit the experiment."""
    try:
        source = load_experiment(data_dir, source_id)
    except Problem as problem:
        raise _refused(problem.detail) from problem
    if not _weights_path(data_dir, source_id).exists():
        raise _refused(f"The first fold of experiment {source_id} is not trained yet.")
    if shared := sorted(_seen(data_dir, source) & set(datasets)):
        raise _refused(f"It was trained on {', '.join(shared)}, which would be evaluated here.")
    if source.space != space:
        raise _refused(f"It was trained in space {source.space}, this experiment is in {space}.")
    for name in ("head", "tasks"):
        ours, theirs = getattr(options, name), getattr(source.options, name)
        if ours != theirs:
            raise _refused(f"Its {name} are {theirs}, those of this experiment {ours}; they must be equal.")


def require_unseen(
    data_dir: Path, source_id: str, sets: Mapping[str, FaceLabels], overlap: Overlap
) -> list[str]:
    """Reject a source that was trained on faces of these data sets under another name; return warnings.

    Raises ``invalid-request`` 422 naming `warm_start`, unless `overlap` is "allow".
    """
    warnings: list[str] = []
    for source in _sources(data_dir, load_experiment(data_dir, source_id)):
        try:
            seen = load_label_sets(data_dir, source.datasets, source.space, source.image_set)
        except Problem:
            seen = {}
        if missing := sorted(set(source.datasets) - {name for name, one in seen.items() if one.has_hashes}):
            warnings.append(
                f"It was not checked whether experiment {source.id} was trained on these images, because "
                f"{' and '.join(missing)} is absent or was extracted without hashes of its images."
            )
        elif changed := _changed(data_dir, source):
            warnings.append(_compared_today(f"experiment {source.id}", changed))
        count, examples = shared_faces(seen, sets)
        if not count:
            continue
        what = f"Experiment {source.id} was trained on {count} of these faces, such as {examples[0]}"
        if overlap != "allow":
            raise _refused(f'{what}. Use other data, or set overlap to "allow" to train anyway.')
        warnings.append(f"{what}; the metrics are too optimistic.")
    return warnings


def require_unseen_by(
    data_dir: Path, heads: Iterable[Head], dataset: str, sha256: str, faces: FaceLabels
) -> list[str]:
    """Reject heads that were trained on these faces; return warnings about what could not be checked.

    Compares the data sets that the heads' cards name, by name, content, files, photographs and subjects.
    Raises ``invalid-request`` 422 naming `head`.

    sha256 : of the extracted data set.
    """
    warnings: list[str] = []
    for head in heads:
        version, card = head.manifest.version, head.manifest.card
        parts = [part for part in (card.get("data"), card.get("calibrated")) if isinstance(part, dict)]
        names = {str(name) for part in parts for name in part.get("sets", [])}
        if not names:
            warnings.append(f"It is not known which data {version} was trained on.")
        hashes = {value for part in parts for value in dict(part.get("sha256", {})).values()}
        with suppress(Problem):  # deleted, or another installation's
            sources = _sources(data_dir, load_experiment(data_dir, str(card.get("experiment"))))
            names |= {name for source in sources for name in source.datasets}
            if changed := sorted({name for source in sources for name in _changed(data_dir, source)}):
                warnings.append(_compared_today(version, changed))
        if dataset in names or sha256 in hashes:
            raise refused(
                "head",
                f"{version} was trained or calibrated on {dataset}, so its error there would be too low. "
                "Evaluate it on other faces, or train without these. If they are others under the same name, "
                "rename the folder.",
            )
        seen = _labels_of(data_dir, names, head.manifest.space)
        if missing := sorted(names - {name.partition("/")[0] for name in seen}):
            warnings.append(
                f"It was not checked whether {version} was trained on these images, because "
                f"{' and '.join(missing)} is absent or was extracted without hashes of its images."
            )
        count, examples = shared_faces(seen, {dataset: faces})
        if count:
            raise refused(
                "head",
                f"{version} was trained on {count} of these faces, such as {examples[0]}, so its error there "
                "would be too low. Remove them from the labels, or use other data.",
            )
    return list(dict.fromkeys(warnings))


def changed_sets(
    data_dir: Path, recorded: Mapping[str, str] | None, datasets: list[str], space: Space, image_set: str
) -> list[str]:
    """Return which data sets of a run are not as they were at its creation.

    recorded : data set → SHA-256 then; None, of a run of an earlier release, returns none. Absent files are
        not compared.
    """
    image_sets = image_sets_of(datasets, image_set)
    found = []
    for name, sha256 in (recorded or {}).items():
        path = data_path(data_dir, name, space, image_sets[name])
        if path.is_file() and file_sha256(path) != sha256:
            found.append(name)
    return found


def _changed(data_dir: Path, source: Experiment) -> list[str]:
    return changed_sets(data_dir, source.data_sha256, source.datasets, source.space, source.image_set)


def _compared_today(what: str, changed: list[str]) -> str:
    names = " and ".join(changed)
    return (
        f"{names} was extracted or grouped again after {what} was trained on it. Only its present faces were "
        "compared."
    )


def _labels_of(data_dir: Path, names: Iterable[str], space: Space) -> dict[str, FaceLabels]:
    """Return the labels of all image sets that have hashes, by data set and image set."""
    found = {}
    for name in names:
        for path in sorted((data_dir / name / space.id).glob("data-*.npz")) if is_dataset_name(name) else []:
            image_set = path.stem.removeprefix("data-")
            with suppress(BadDataset):
                labels = read_labels(data_dir, name, space, image_set)
                if labels.has_hashes:
                    found[f"{name}/{image_set}"] = labels
    return found


def read_warm_start(data_dir: Path, source_id: str | None, seeds: int) -> dict[str, Array] | None:
    """Return the weights of the source's first fold for `seeds` members, repeated if it has fewer.

    Return None if `source_id` is None: members then start from random weights.
    """
    if source_id is None:
        return None
    weights = load_safetensors(_weights_path(data_dir, source_id).read_bytes())
    members = np.arange(seeds) % len(weights["input.mean"])
    return {name: value[members] for name, value in weights.items()}


def _seen(data_dir: Path, source: Experiment) -> set[str]:
    """Return the data sets that an experiment and the sources of its warm start were trained on."""
    return {name for one in _sources(data_dir, source) for name in one.datasets}


def _sources(data_dir: Path, source: Experiment) -> list[Experiment]:
    """Return the experiment, the source of its warm start, that source's source, and so on."""
    found = [source]
    while found[-1].warm_start is not None:
        found.append(load_experiment(data_dir, found[-1].warm_start))
    return found


def _weights_path(data_dir: Path, source_id: str) -> Path:
    return fold_dir(data_dir, source_id, load_experiment(data_dir, source_id).folds[0]) / WEIGHTS


def _refused(detail: str) -> Problem:
    return refused("warm_start", detail)
