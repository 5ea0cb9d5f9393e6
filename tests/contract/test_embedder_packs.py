"""Each pack, with its real weights, on a real photograph: six adults."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from agegender.faces import Face
from embedder.packs.load import load_pack
from embedder.packs.pack import Pack
from predictor.quality import face_quality

from tests.support.packs import buffalo_sc_dir, human_pack_dir
from tools.stack import PHOTOGRAPH


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    picture = cv2.imread(str(PHOTOGRAPH))
    assert picture is not None
    return np.ascontiguousarray(picture[..., ::-1])


@pytest.fixture(scope="module", params=["human", "buffalo_sc", "human+buffalo_sc"])
def pack(request: pytest.FixtureRequest) -> Pack:
    folder = None if request.param == "human" else buffalo_sc_dir()
    return load_pack(request.param, Path("unused"), folder, human_pack_dir(), 2)


def centres(faces: list[Face]) -> np.ndarray:
    return np.array([[(f.bbox[0] + f.bbox[2]) / 2, (f.bbox[1] + f.bbox[3]) / 2] for f in faces])


def cosine(a: Face, b: Face) -> float:
    return float(np.dot(a.embedding, b.embedding))


def test_six_faces_with_unit_embeddings_and_ordered_landmarks(pack: Pack, photograph: np.ndarray) -> None:
    faces = pack.faces([photograph])[0]
    assert len(faces) == 6
    for face in faces:
        assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-4)
        assert len(face.embedding) == pack.space.dimension
        (left_eye, right_eye, nose, left_mouth, right_mouth) = face.landmarks
        assert left_eye[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
        assert left_eye[1] < left_mouth[1] and right_eye[1] < right_mouth[1]
        assert face.bbox[0] < nose[0] + 15 and nose[0] - 15 < face.bbox[2]


def test_batch_equals_one_by_one(pack: Pack, photograph: np.ndarray) -> None:
    mirrored = np.ascontiguousarray(photograph[:, ::-1])
    together = pack.faces([photograph, mirrored])
    alone = [pack.faces([photograph])[0], pack.faces([mirrored])[0]]
    for batch, single in zip(together, alone, strict=True):
        assert all(cosine(a, b) > 0.9999 for a, b in zip(batch, single, strict=True))


def test_half_the_size_finds_the_same_people(pack: Pack, photograph: np.ndarray) -> None:
    half = np.asarray(cv2.resize(photograph, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)
    faces, smaller = pack.faces([photograph])[0], pack.faces([half])[0]
    assert len(smaller) == 6
    distance = np.linalg.norm(centres(faces)[:, None] - 2 * centres(smaller)[None], axis=2)
    for index, match in enumerate(distance.argmin(axis=1)):
        assert distance[index, match] < 25
        assert cosine(faces[index], smaller[int(match)]) > 0.8


def test_tight_crop_of_a_face_is_found(pack: Pack, photograph: np.ndarray) -> None:
    for face in pack.faces([photograph])[0]:
        x1, y1, x2, y2 = (round(value) for value in face.bbox)
        tight = np.ascontiguousarray(photograph[max(y1 - 5, 0) : y2 + 5, max(x1 - 5, 0) : x2 + 5])
        assert len(pack.faces([tight])[0]) >= 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (64, 64), (700, 30)])
def test_picture_without_a_face_gives_none(pack: Pack, shape: tuple[int, int]) -> None:
    assert pack.faces([np.full((*shape, 3), 127, np.uint8)]) == [[]]


def test_face_cut_off_by_the_image_is_named_and_its_interval_widened() -> None:
    """Of the astronaut only what is above the mouth remains; it was answered with quality 1 and no reason."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    pack = load_pack("human", Path("unused"), human_pack_dir(), None, 2)
    whole = np.asarray(data.astronaut(), np.uint8)
    qualities = {}
    for height in (512, 138):
        (face,) = pack.faces([np.ascontiguousarray(whole[:height])])[0][:1]
        qualities[height] = face_quality(face, (512, height))
    assert (qualities[512].score, qualities[512].reasons) == (1.0, [])
    assert qualities[138].reasons[0] == "cut"
    assert qualities[138].score < 0.3 and qualities[138].widening > 1.1
