"""Each pack, with its real weights, on a real photograph: six adults."""

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from agegender.faces import Face, ImageFaces, turned_points
from agegender.images import ImageLimits, decode
from embedder.detection.search import Detections
from embedder.packs.pack import Pack
from embedder.packs.store import HUMAN_PACKS, load_pack
from PIL import Image
from predictor.quality import face_quality
from trainer.extraction.embed import same_face_mirrored

from tests.support.colour_profiles import in_space, rgb_profile
from tests.support.packs import buffalo_sc_dir, human_pack_dir
from tools.stack import PHOTOGRAPH

THREADS = 1  # a second one would take as much of a core to wait for the first as to compute
Found = tuple[Detections, list[Face]]


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    picture = cv2.imread(str(PHOTOGRAPH))
    assert picture is not None
    return np.ascontiguousarray(picture[..., ::-1])


@pytest.fixture(scope="module", params=["human-2", "human-3", "buffalo_sc", "human+buffalo_sc"])
def pack(request: pytest.FixtureRequest) -> Pack:
    folder = None if request.param in HUMAN_PACKS else buffalo_sc_dir()
    return load_pack(request.param, Path("unused"), folder, human_pack_dir(), THREADS)


@pytest.fixture(scope="module")
def upright(pack: Pack, photograph: np.ndarray) -> list[Face]:
    """Return the faces of the photograph as it is."""
    return pack.faces([photograph])[0]


@pytest.fixture(scope="module")
def turned(pack: Pack, photograph: np.ndarray) -> Callable[[int], Found]:
    """Return what is found in the photograph after a turn counter-clockwise by so many degrees."""

    @cache
    def found(rotation: int) -> Found:
        return searched(pack, np.ascontiguousarray(np.rot90(photograph, rotation // 90)))

    return found


def searched(pack: Pack, image: np.ndarray) -> Found:
    detections = pack.detect([image])
    return detections[0], pack.embed([image], detections)[0]


def as_adobe_rgb(image: Image.Image) -> bytes:
    file = io.BytesIO()
    in_space("Adobe RGB", image).save(file, "PNG", icc_profile=rgb_profile("Adobe RGB"))
    return file.getvalue()


def centres(faces: list[Face]) -> np.ndarray:
    return np.array([[(f.bbox[0] + f.bbox[2]) / 2, (f.bbox[1] + f.bbox[3]) / 2] for f in faces])


def cosine(a: Face, b: Face) -> float:
    return float(np.dot(a.embedding, b.embedding))


def test_six_faces_with_unit_embeddings_and_ordered_landmarks(pack: Pack, upright: list[Face]) -> None:
    assert len(upright) == 6
    for face in upright:
        assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-4)
        assert len(face.embedding) == pack.space.dimension
        (left_eye, right_eye, nose, left_mouth, right_mouth) = face.landmarks
        assert left_eye[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
        assert left_eye[1] < left_mouth[1] and right_eye[1] < right_mouth[1]
        assert face.bbox[0] < nose[0] + 15 and nose[0] - 15 < face.bbox[2]


def test_batch_equals_one_by_one(pack: Pack, photograph: np.ndarray, upright: list[Face]) -> None:
    mirrored = np.ascontiguousarray(photograph[:, ::-1])
    together = pack.faces([photograph, mirrored])
    alone = [upright, pack.faces([mirrored])[0]]
    for batch, single in zip(together, alone, strict=True):
        assert all(cosine(a, b) > 0.9999 for a, b in zip(batch, single, strict=True))


def test_half_the_size_finds_the_same_people(pack: Pack, photograph: np.ndarray, upright: list[Face]) -> None:
    half = np.asarray(cv2.resize(photograph, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)
    smaller = pack.faces([half])[0]
    assert len(smaller) == 6
    distance = np.linalg.norm(centres(upright)[:, None] - 2 * centres(smaller)[None], axis=2)
    for index, match in enumerate(distance.argmin(axis=1)):
        assert distance[index, match] < 25
        assert cosine(upright[index], smaller[int(match)]) > 0.8


def test_photograph_in_another_colour_space_has_the_same_faces(
    pack: Pack, photograph: np.ndarray, upright: list[Face]
) -> None:
    content = as_adobe_rgb(Image.fromarray(photograph))
    faces = pack.faces([decode(content, ImageLimits())])[0]
    assert np.abs(centres(faces) - centres(upright)).max() < 1
    assert all(cosine(a, b) > 0.998 for a, b in zip(faces, upright, strict=True))


def test_tight_crop_of_a_face_is_found(pack: Pack, photograph: np.ndarray, upright: list[Face]) -> None:
    for face in upright:
        x1, y1, x2, y2 = (round(value) for value in face.bbox)
        tight = np.ascontiguousarray(photograph[max(y1 - 5, 0) : y2 + 5, max(x1 - 5, 0) : x2 + 5])
        assert len(pack.faces([tight])[0]) >= 1


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_scene_on_its_side_is_answered_as_if_it_were_upright(
    turned: Callable[[int], Found], photograph: np.ndarray, upright: list[Face], rotation: int
) -> None:
    back = 360 - rotation
    found, faces = turned(rotation)
    assert (found.rotation, found.border, len(faces)) == (rotation, False, 6)
    height, width = photograph.shape[:2]
    for face in faces:
        same = max(upright, key=lambda other: cosine(face, other))
        assert cosine(face, same) > 0.999
        truth = turned_points(same.landmarks, back, width, height)
        np.testing.assert_allclose(face.landmarks, truth, atol=1)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_extraction_finds_each_face_of_a_turned_image_in_its_mirror_image(
    pack: Pack, turned: Callable[[int], Found], photograph: np.ndarray, rotation: int
) -> None:
    given = np.rot90(photograph, rotation // 90)
    height, width = given.shape[:2]
    found, turns = [], []
    for detections, faces in (turned(rotation), searched(pack, np.ascontiguousarray(given[:, ::-1]))):
        turns.append(detections.rotation)
        found.append(ImageFaces(width=width, height=height, rotation=detections.rotation, faces=faces))
    assert turns == [rotation, (360 - rotation) % 360]
    matches = [same_face_mirrored(face, found[1]) for face in found[0].faces]
    assert len(matches) == 6 and None not in matches


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_face_of_a_large_turned_image_is_answered_as_if_it_were_upright(
    pack: Pack, photograph: np.ndarray, upright: list[Face], rotation: int
) -> None:
    """Searches in other turns look at a large image only as closely as its faces need."""
    face = max(upright, key=lambda face: face.det_score)
    x1, y1, x2, y2 = (round(value) for value in face.bbox)
    margin = (x2 - x1) // 2
    crop = photograph[max(y1 - margin, 0) : y2 + margin, max(x1 - margin, 0) : x2 + margin]
    large = cv2.resize(crop, None, fx=2000 / len(crop), fy=2000 / len(crop), interpolation=cv2.INTER_CUBIC)
    found = pack.detect([np.ascontiguousarray(np.rot90(large, rotation // 90))])
    assert found[0].rotation == rotation


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_turned_crop_of_a_face_is_answered_as_if_it_were_upright(
    pack: Pack, photograph: np.ndarray, upright: list[Face], rotation: int
) -> None:
    right = 0
    for face in upright:
        x1, y1, x2, y2 = (round(value) for value in face.bbox)
        margin = (x2 - x1) // 3
        crop = photograph[max(y1 - margin, 0) : y2 + margin, max(x1 - margin, 0) : x2 + margin]
        given = np.ascontiguousarray(np.rot90(crop, rotation // 90))  # needs a clockwise turn by `rotation`
        found = pack.detect([given])
        faces = pack.embed([given], found)[0]
        right += found[0].rotation == rotation and cosine(faces[0], face) > 0.7
    assert right == 6


def test_face_cut_to_eyes_and_mouth_is_found_with_a_border(
    pack: Pack, photograph: np.ndarray, upright: list[Face]
) -> None:
    found = []
    for face in upright:
        x1, y1, x2, y2 = face.bbox
        x, y = round((x2 - x1) * 0.15), round((y2 - y1) * 0.15)
        cut = photograph[round(y1) + y : round(y2) - y, round(x1) + x : round(x2) - x]
        found += [(cut.shape, one) for one in pack.faces([np.ascontiguousarray(cut)])[0]]
    assert len(found) >= 5
    for (height, width, _), face in found:
        if pack.space.id != "human-3":  # the only one to find it without a border
            assert face.border
            assert min(face.bbox) >= 0 and face.bbox[2] <= width and face.bbox[3] <= height


IMAGES_WITHOUT_FACES = ("brick", "chelsea", "coffee", "gravel", "grass", "page", "text")


@pytest.mark.parametrize("name", IMAGES_WITHOUT_FACES)
def test_further_searches_find_no_face_in_an_image_without_one(pack: Pack, name: str) -> None:
    data = pytest.importorskip("skimage.data")
    image = np.asarray(getattr(data, name)(), np.uint8)
    image = np.stack([image] * 3, axis=-1) if image.ndim == 2 else image
    for pixels in (image, image[: image.shape[0] // 2], image[: image.shape[0] // 4, : image.shape[1] // 4]):
        assert pack.faces([np.ascontiguousarray(pixels)]) == [[]]


@pytest.mark.parametrize("seed", range(3))
def test_further_searches_find_no_face_in_noise(pack: Pack, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    texture = np.asarray(cv2.resize(noise, (600, 600), interpolation=cv2.INTER_CUBIC), np.uint8)
    assert pack.faces([texture]) == [[]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (64, 64), (700, 30)])
def test_picture_without_a_face_gives_none(pack: Pack, shape: tuple[int, int]) -> None:
    assert pack.faces([np.full((*shape, 3), 127, np.uint8)]) == [[]]


def test_crop_that_is_taken_whole_has_nearly_the_embedding_of_its_face(
    pack: Pack, photograph: np.ndarray, upright: list[Face]
) -> None:
    """By the mesh (human) or typical landmarks, and by those of a face that is found."""
    none = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty((0, 5, 2), np.float32))
    cosines = []
    for face in upright:
        x1, y1, x2, y2 = (round(value) for value in face.bbox)
        crop = np.ascontiguousarray(photograph[y1:y2, x1:x2])
        for found in (none, pack.detect([crop])[0]):
            (taken,) = pack.embed([crop], [pack.whole(crop, found)])[0]
            assert taken.whole and taken.bbox == (0, 0, crop.shape[1], crop.shape[0])
            assert (taken.det_score == 0) == (not len(found.score))
            cosines.append(cosine(taken, face))
    assert min(cosines) > 0.4 and np.median(cosines) > 0.75


def test_largest_face_of_an_image_that_is_taken_whole_keeps_its_embedding(
    pack: Pack, turned: Callable[[int], Found], photograph: np.ndarray
) -> None:
    image = np.ascontiguousarray(np.rot90(photograph))
    found, _ = turned(90)
    whole = pack.whole(image, found)
    (taken,), (largest, *others) = pack.embed([image, image], [whole, found])
    assert taken.embedding == largest.embedding and taken.landmarks == largest.landmarks
    assert (whole.rotation, whole.found, taken.det_score) == (90, 6, largest.det_score)
    assert len(others) == 5


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (64, 64), (700, 30)])
def test_any_image_can_be_taken_whole(pack: Pack, shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 127, np.uint8)
    (face,) = pack.embed([image], [pack.whole(image, pack.detect([image])[0])])[0]
    assert (face.bbox, face.det_score, face.whole) == ((0, 0, shape[1], shape[0]), 0, True)
    assert np.isfinite(face.embedding).all() and np.isfinite(face.landmarks).all()


def test_face_cut_off_by_the_image_is_named_and_its_interval_widened() -> None:
    """Only the part of the astronaut above the mouth remains; its quality was 1, without a reason."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    pack = load_pack("human", Path("unused"), human_pack_dir(), None, THREADS)
    whole = np.asarray(data.astronaut(), np.uint8)
    qualities = {}
    for height in (512, 138):
        (face,) = pack.faces([np.ascontiguousarray(whole[:height])])[0][:1]
        qualities[height] = face_quality(face, (512, height))
    assert (qualities[512].score, qualities[512].reasons) == (1.0, [])
    assert qualities[138].reasons[0] == "cut"
    assert qualities[138].score < 0.3 and qualities[138].interval_scale > 1.1
