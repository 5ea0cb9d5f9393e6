"""Answer frames in this process as the services do, and store the answers beside the clip.

So many studies of tracking and combination cost one pass over the clips.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock

import numpy as np
from agegender.faces import ImageFaces
from agegender.heads.calibration import added_years
from agegender.heads.head import Head
from agegender.images import ImageLimits, decode
from agegender.predictions import (
    AgeGenderAnswer,
    FaceAnswer,
    ImageAnswer,
    age_answers,
    gender_answers,
)
from embedder.packs.pack import Pack
from predictor.quality import face_quality, scaled

COVERAGE = 0.9


def answer(pack: Pack, heads: Sequence[Head], image: bytes) -> AgeGenderAnswer:
    """Return what `POST /age-gender?embeddings=true` returns for one image.

    heads : age first.
    """
    pixels = decode(image, ImageLimits())
    (found,) = pack.detect([pixels])
    height, width = pixels.shape[:2]
    (embedded,) = pack.embed([pixels], [found])
    faces = ImageFaces(width=width, height=height, rotation=found.rotation, faces=embedded)
    age, gender = heads
    answers: list[FaceAnswer] = []
    if embedded:
        points = np.array([face.embedding for face in embedded], np.float32)
        conformal = age.manifest.conformal
        assert conformal is not None
        ages = age_answers(age.probabilities(points), conformal, COVERAGE)
        genders = gender_answers(gender.probabilities(points))
        familiarity = age.familiarity(points)
        assert familiarity is not None
        years = added_years(familiarity, COVERAGE)
        for number, face in enumerate(embedded):
            quality = face_quality(faces.upright(face), faces.upright_size)
            answers.append(
                FaceAnswer(
                    bbox=face.bbox,
                    det_score=face.det_score,
                    landmarks=face.landmarks,
                    quality=quality,
                    age=scaled(ages[number], quality.interval_scale, float(years[number])),
                    gender=genders[number],
                    familiarity=round(float(familiarity[number]), 3),
                    embedding=[round(value, 6) for value in face.embedding],
                )
            )
    return AgeGenderAnswer(
        space=pack.space,
        models={head.manifest.task: head.manifest.version for head in heads},
        images=[
            ImageAnswer(
                width=width,
                height=height,
                rotation=faces.rotation,
                faces=answers,
                faces_found=len(embedded),
            )
        ],
        timings={},
    )


class Stored:
    """Answers by the hash of the image, in a file of one JSON line each.

    compute : answers an image that the file lacks.
    """

    def __init__(self, file: Path, compute: Callable[[bytes], AgeGenderAnswer]) -> None:
        self._file, self._compute, self._lock = file, compute, Lock()
        self._answers: dict[str, AgeGenderAnswer] = {}
        self._by_box: dict[tuple[float, float, float, float], FaceAnswer] = {}
        self._faces_of = 0
        if file.exists():
            for line in file.read_text().splitlines():
                digest, _, document = line.partition(" ")
                self._answers[digest] = AgeGenderAnswer.model_validate_json(document)

    def __call__(self, images: Sequence[bytes], min_face: float = 0) -> AgeGenderAnswer:
        """Answer a list of one image, as `agegender.video.analysis.Observe`."""
        (image,) = images
        digest = hashlib.sha256(image).hexdigest()
        with self._lock:
            if digest not in self._answers:
                self._answers[digest] = self._compute(image)
                with self._file.open("a") as file:
                    file.write(f"{digest} {self._answers[digest].model_dump_json()}\n")
            return self._answers[digest]

    @property
    def by_box(self) -> dict[tuple[float, float, float, float], FaceAnswer]:
        """Return the faces that were answered by their boxes, which have two decimals."""
        if self._faces_of != len(self._answers):
            self._by_box = {
                face.bbox: face
                for one in self._answers.values()
                for image in one.images
                for face in image.faces
            }
            self._faces_of = len(self._answers)
        return self._by_box
