"""YuNet finds faces of a wide range of sizes, and places their five landmarks, in one small network.

YuNet (Wu et al. 2023, doi:10.1007/s11633-023-1423-y) has no anchors: each cell of three grids, of 8, 16 and
32 pixels, predicts one face. It finds faces of about 10 to 300 pixels, so an image is searched at several
sizes. On the same input, boxes, scores and landmarks equal those of OpenCV's `FaceDetectorYN`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from agegender.faces import Rotation, turned_box

from embedder.detection.search import TURNS, Detections
from embedder.sessions import Network

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]
Found = tuple[Array, Array, Array]  # boxes [n, 4], scores [n], landmarks [n, 5, 2]
Part = tuple[int, int, int, int]  # of an image: left, top, right, bottom

STRIDES = (8, 16, 32)
_OUTPUTS = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in STRIDES]
_MIN_SCORE = 0.6
_MIN_SCORE_OF_WHOLE = 0.2  # of an image that is known to be a face
# On an upside-down face the landmarks are those of an upright one, with a lower score, which depends on the
# size of the face: pixels of the box's mean side, and the score from which a face is certainly upright
# (docs/results/embedding-experiments.md).
_NO_EVIDENCE, _ALL_EVIDENCE = 0.7, 0.95  # a cat on its side has 0.78, most upright faces more than 0.9
_SIZES, _SURE = (40, 80, 160), (0.86, 0.91, 0.925)
_NEARLY = 0.08  # below that score, searches in the other turns decide
_SAME_FACE = 0.4  # intersection over the smaller area
_LARGE = 0.5  # of the largest face's mean side; smaller faces do not decide the orientation of the image
_AROUND = 1.0  # searched on each side of a doubtful face, in its longer sides
_ENOUGH = 60  # pixels of a face's mean side at which a search in another turn need not look closer
_MOST_CANDIDATES = 5000  # as in OpenCV
# An image of more pixels is searched in strips, which takes less time and memory. A face that is higher than
# the rows that two strips share is left to the search at a smaller size.
_WHOLE_PIXELS = 1_000_000
_STRIP_ROWS, _SHARED_ROWS, _EDGE_ROWS = 512, 128, 4

# Long sides in pixels at which an image is searched. A face that fills the image is found at the smallest,
# small faces of a large image at the largest. Enlarging an image further finds textures, not faces.
_LONG_SIDES = (160, 320, 640)
_LARGE_IMAGES = {960: 960, 1600: 1920}  # images longer than this are searched at this size too
_MOST_ENLARGED = 1.6
_NEARLY_EQUAL = 0.9  # shrunk by less, an image needs no average over areas, which takes five times as long


class YuNet:
    """Run the network on one image of any size."""

    def __init__(self, model: Path | bytes, threads: int) -> None:
        self._network = Network(model, threads, _OUTPUTS, any_size=True)

    def __call__(self, image: Image, min_score: float) -> Found:
        """Return the faces of an RGB image with at least this score; a face may be found by several cells."""
        height, width = image.shape[:2]
        if height * width <= _WHOLE_PIXELS or height <= _STRIP_ROWS:
            return self._strip(image, min_score)
        return _joined(list(self._strips(image, min_score)))

    def _strips(self, image: Image, min_score: float) -> Iterator[Found]:
        """Yield the faces of each strip that are at most as high as the rows that it shares with the next.

        A face that ends at an inner edge is cut; the strip beside shows it whole.
        """
        height, margin = _padded(len(image)), _SHARED_ROWS // 2
        for top in range(0, height - _SHARED_ROWS, _STRIP_ROWS - _SHARED_ROWS):
            bottom = min(top + _STRIP_ROWS, height)
            boxes, scores, landmarks = self._strip(image[top:bottom], min_score)
            middle, high = boxes[:, 1::2].mean(axis=1), boxes[:, 3] - boxes[:, 1]
            kept = high <= _SHARED_ROWS - 2 * _EDGE_ROWS
            if top:
                kept &= (middle >= margin) & (boxes[:, 1] > _EDGE_ROWS)
            if bottom < height:
                rows = bottom - top
                kept &= (middle < rows - margin) & (boxes[:, 3] < rows - _EDGE_ROWS)
            down = np.array([0, top], np.float32)
            yield boxes[kept] + np.tile(down, 2), scores[kept], landmarks[kept] + down

    def _strip(self, image: Image, min_score: float) -> Found:
        height, width = image.shape[:2]
        canvas = np.zeros((1, 3, _padded(height), _padded(width)), np.float32)
        for channel in range(3):  # blue first, as in OpenCV
            canvas[0, channel, :height, :width] = image[..., 2 - channel]
        outputs = self._network(canvas)
        levels = len(STRIDES)
        return _joined(
            [
                _decoded([output[0] for output in outputs[level::levels]], stride, canvas.shape[3], min_score)
                for level, stride in enumerate(STRIDES)
            ]
        )


def _padded(side: int) -> int:
    """Return a multiple of the widest stride; the image is in the upper left corner, as in OpenCV."""
    return -(-side // STRIDES[-1]) * STRIDES[-1]


def _decoded(outputs: list[Array], stride: int, width: int, min_score: float) -> Found:
    """Decode one grid: class and object scores [cells, 1], boxes [cells, 4] and key points [cells, 10]."""
    cls, obj, bbox, kps = outputs
    scores = np.sqrt(np.clip(cls, 0, 1) * np.clip(obj, 0, 1))[:, 0]
    cells = np.flatnonzero(scores >= min_score)
    columns = width // stride
    origin = np.stack([cells % columns, cells // columns], axis=1).astype(np.float32)
    centre = (origin + bbox[cells, :2]) * stride
    half = np.exp(bbox[cells, 2:]) * (stride / 2)
    landmarks = (origin[:, None] + kps[cells].reshape(-1, 5, 2)) * stride
    return np.concatenate([centre - half, centre + half], axis=1), scores[cells], landmarks


def _joined(found: list[Found]) -> Found:
    boxes, scores, landmarks = (np.concatenate(column) for column in zip(*found, strict=True))
    return boxes, scores, landmarks


class YuNetDetector:
    """Find faces with YuNet at several sizes of the image, each face once."""

    def __init__(self, model: Path | bytes, threads: int) -> None:
        self._yunet = YuNet(model, threads)

    def detect(self, image: Image) -> Detections:
        """Return the faces of an RGB image [height, width, 3], best first.

        A face is certainly upright if its score is high for its size. If most large ones are not, the parts
        around them are searched in the other three turns too, and a face is upright if its score is nearly as
        high, and higher than in these turns.
        """
        sides = _sides(max(image.shape[:2]))
        boxes, scores, landmarks = self._faces(image, sides)
        widths = _mean_sides(boxes)
        needed = np.interp(widths, _SIZES, _SURE)
        sure = scores >= needed
        large = widths >= _LARGE * widths.max(initial=0)
        doubtful = np.flatnonzero(~sure & large & (scores >= needed - _NEARLY))
        if len(doubtful) and sure[large].mean() < 0.5:
            side = _close_enough(sides, widths[doubtful].min() / max(image.shape[:2]))
            small = next(_sized(image, [side]))
            scale = _scale(small, image)
            parts = _around(boxes[doubtful] / scale, small)
            turned = [self._scored_boxes(small, part, turn) for part in parts for turn in TURNS[1:]]
            others, their_scores = (np.concatenate(column) for column in zip(*turned, strict=True))
            others = others * scale
            for face in doubtful:
                same = overlap(boxes[face], others) >= _SAME_FACE
                sure[face] = scores[face] > their_scores[same].max(initial=0)
        evidence = np.clip((scores - _NO_EVIDENCE) / (_ALL_EVIDENCE - _NO_EVIDENCE), 0, 1)
        return Detections(boxes, scores, landmarks, evidence, sure)

    def _scored_boxes(self, image: Image, part: Part, rotation: Rotation) -> tuple[Array, Array]:
        """Return boxes [n, 4], in pixels of the image, and scores [n] of faces in one part of it, turned."""
        left, top, right, bottom = part
        turned = np.ascontiguousarray(np.rot90(image[top:bottom, left:right], -(rotation // 90)))
        boxes, scores, _ = self._yunet(turned, _MIN_SCORE)
        back = [turned_box(box, 360 - rotation, turned.shape[1], turned.shape[0]) for box in boxes.tolist()]
        return np.array(back, np.float32).reshape(-1, 4) + np.array([left, top] * 2, np.float32), scores

    def _faces(self, image: Image, sides: Sequence[int]) -> Found:
        """Search the image with each of the long sides; return each face once, best first."""
        sizes = _sized(image, sides)
        boxes, scores, landmarks = _joined([self._at(resized, image, _MIN_SCORE) for resized in sizes])
        kept = suppressed(boxes, scores)
        return boxes[kept], scores[kept], landmarks[kept]

    def place(self, image: Image) -> Array | None:
        """Return the landmarks [5, 2] of an image that is one upright face; None without a sign of it."""
        (resized,) = _sized(image, _LONG_SIDES[:1])
        _, scores, landmarks = self._at(resized, image, _MIN_SCORE_OF_WHOLE)
        return np.asarray(landmarks[scores.argmax()], np.float32) if len(scores) else None

    def _at(self, resized: Image, image: Image, min_score: float) -> Found:
        """Return the faces of a resized image, in pixels of the image."""
        boxes, scores, landmarks = self._yunet(resized, min_score)
        back = _scale(resized, image)
        return boxes * back, scores, landmarks * back[:2]


def _sized(image: Image, sides: Sequence[int]) -> Iterator[Image]:
    """Yield the image with each of the long sides, largest first.

    Each is shrunk from the one before, because a large image takes longer to shrink than to search. For the
    same reason a very large one is first shrunk by a whole number.
    """
    height, width = image.shape[:2]
    long_side = max(height, width)
    whole = long_side // max(sides)
    if whole > 1 and min(height, width) >= whole:  # OpenCV is fast if both sides are multiples
        rows, columns = height // whole, width // whole
        image = _resized(image[: rows * whole, : columns * whole], columns, rows)
    for side in sorted(sides, reverse=True):
        scale = side / long_side
        resized = _resized(image, max(1, round(width * scale)), max(1, round(height * scale)))
        yield resized
        if scale < 1:
            image = resized


def _resized(image: Image, width: int, height: int) -> Image:
    shrunk = min(width / image.shape[1], height / image.shape[0]) < _NEARLY_EQUAL
    method = cv2.INTER_AREA if shrunk else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def _sides(long_side: int) -> list[int]:
    """Return the long sides in pixels at which an image is searched."""
    sides = [side for side in _LONG_SIDES if side <= _MOST_ENLARGED * long_side] or [_LONG_SIDES[0]]
    return sides + [side for beyond, side in _LARGE_IMAGES.items() if long_side > beyond]


def _around(boxes: Array, image: Image) -> list[Part]:
    """Return the parts of the image around boxes [n, 4]; the whole image if they are not smaller together."""
    height, width = image.shape[:2]
    sides = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])[:, None]
    first = np.clip(np.floor(boxes[:, :2] - _AROUND * sides), 0, None).astype(int)
    last = np.minimum(np.ceil(boxes[:, 2:] + _AROUND * sides), (width, height)).astype(int)
    if (last - first).prod(axis=1).sum() >= width * height:
        return [(0, 0, width, height)]
    return [(left, top, right, bottom) for left, top, right, bottom in np.hstack([first, last]).tolist()]


def _close_enough(sides: Sequence[int], share: float) -> int:
    """Return the first long side that shows a face of this share of the long side well, or the last one."""
    return next((side for side in sides if side * share >= _ENOUGH), sides[-1])


def _scale(resized: Image, image: Image) -> Array:
    """Return the factors [4] from coordinates x, y, x, y in the resized image to those in the image."""
    return np.tile(np.array(image.shape[1::-1]) / resized.shape[1::-1], 2).astype(np.float32)


def _mean_sides(boxes: Array) -> Array:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).mean(axis=1))


def suppressed(boxes: Array, scores: Array) -> npt.NDArray[np.intp]:
    """Return the positions of the best of overlapping boxes (greedy non-maximum suppression), best first.

    The overlap is relative to the smaller of two boxes, because a part of a face may be found as a face.
    """
    order = np.argsort(-scores, kind="stable")[:_MOST_CANDIDATES]
    kept: list[int] = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        order = order[overlap(boxes[best], boxes[order]) < _SAME_FACE]
    return np.array(kept, dtype=np.intp)


def overlap(box: Array, boxes: Array) -> Array:
    """Return the intersection of one box [4] with boxes [n, 4], over the smaller area of the two.

    The smaller area replaces the union because a search that shows half a face yields a smaller box in it.
    """
    size = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.clip(size, 0, None).prod(axis=1)
    area = np.clip(box[2:] - box[:2], 0, None).prod()
    areas = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)
    return np.asarray(shared / np.maximum(np.minimum(area, areas), 1e-9))
