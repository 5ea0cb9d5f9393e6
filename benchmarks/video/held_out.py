"""Heads that have not seen the persons of the made videos.

The shipped heads are trained on all faces of UTKFace and All-Age-Faces, so their errors on these faces are
too small and depend on what they remember. These heads are trained on another split, with the trainer's code
and its default options, and calibrated on a fifth of it. They are less accurate than the shipped ones,
because they are trained on a tenth of the faces.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from agegender.heads.head import (
    Classes,
    Head,
    HeadManifest,
    Task,
    heads_directory,
    load_head,
    read_current,
    save_head,
    set_current,
)
from agegender.images import ImageLimits, decode
from agegender.labels import Gender
from embedder.packs.pack import Pack
from trainer.datasets.embedding_set import EmbeddingSet
from trainer.evaluation import calibrate, task_tensors
from trainer.training.config import TrainingOptions

from benchmarks.quality_intervals import train_one_fold
from benchmarks.video.portraits import Label, alternating

VERSION = "held-out"


def held_out_heads(pack: Pack, data: Path, models: Path, faces: int) -> list[Head]:
    """Return the heads for the pack's space, age first; train them if `models` does not have them.

    models : as the predictor's `/data/models`. faces : to train and calibrate with.
    """
    if read_current(heads_directory(models, Task.GENDER, pack.space)) is None:
        for head in _trained(_embedded(pack, alternating(data, "training")[:faces])):
            directory = heads_directory(models, head.manifest.task, pack.space)
            save_head(directory / VERSION, head.manifest, head.tensors)
            set_current(directory, VERSION)
    return [load_head(heads_directory(models, task, pack.space) / VERSION) for task in Task]


def _embedded(pack: Pack, found: Sequence[Label]) -> EmbeddingSet:
    """Return the embedding of the largest face of each file."""
    kept, points = [], []
    for label in found:
        faces = pack.faces([decode(label.path.read_bytes(), ImageLimits())])[0]
        if faces:
            kept.append(label)
            points.append(faces[0].embedding)
    ages = np.array([label.age for label in kept], np.float32)
    return EmbeddingSet(
        file=np.array([label.path.name for label in kept]),
        age_low=ages,
        age_high=ages,
        gender=np.array([Gender.FEMALE if label.female else Gender.MALE for label in kept], np.int8),
        subject=np.array([""] * len(kept)),
        fold=np.full(len(kept), -1, np.int16),
        space=pack.space,
        embedding=np.array(points, np.float32),
        embedding_mirrored=np.zeros((0, pack.space.dimension), np.float32),
    )


def _trained(faces: EmbeddingSet) -> list[Head]:
    options = TrainingOptions()
    bank, found = train_one_fold(faces, options)
    every = np.ones(len(found.faces), dtype=bool)
    heads = []
    for task, classes in ((Task.AGE, Classes.YEARS), (Task.GENDER, Classes.GENDERS)):
        fitted = calibrate(found, task, classes, every)
        tensors = {
            **task_tensors(bank.tensors, options, task),
            **(fitted.familiarity.tensors if fitted.familiarity else {}),
        }
        manifest = HeadManifest(
            task=task,
            space=faces.space,
            version=VERSION,
            classes=classes,
            members=len(tensors["input.mean"]),
            architecture=options.head,
            temperature=round(fitted.temperature, 6),
            conformal=fitted.conformal,
            familiarity=fitted.familiarity is not None,
            weights_sha256="",
        )
        heads.append(Head(manifest, {name: np.asarray(one, np.float32) for name, one in tensors.items()}))
    return heads
