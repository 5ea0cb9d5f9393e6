"""Measure the overhead of our code around the networks, and compare it with the insightface library."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
from agegender.images import ImageLimits, decode
from embedder.packs.insightface import DET_SIZE
from embedder.packs.pack import Image, Pack
from embedder.sessions import images_at_once
from insightface.app import FaceAnalysis

from benchmarks.packs import BUFFALO_SC, HUMAN, human, standard_buffalo_sc
from benchmarks.table import Goal, Row, compared
from tools.stack import PHOTOGRAPH

BATCH = 64
_LIBRARY_GOAL = 2.5
LIBRARY = ("buffalo_sc, t1.jpg (six faces)", "insightface's FaceAnalysis.get, same pack and size")


def rows() -> list[Row]:
    return [*_batch(), *_face_analysis(), *_human_3()]


def _batch() -> Iterator[Row]:
    embedder = human()._embedders[0]
    crops = np.random.default_rng(0).integers(0, 256, (BATCH, embedder.size, embedder.size, 3), np.uint8)
    session = onnxruntime.InferenceSession(
        HUMAN / "faceres-deep-int8.onnx", providers=["CPUExecutionProvider"]
    )
    images = crops[..., ::-1].astype(np.float32)

    def bare(step: int) -> list[Any]:
        batches = (images[start : start + step] for start in range(0, BATCH, step))
        return [session.run(["features"], {"image": batch}) for batch in batches]

    few = images_at_once(session)
    graph = "bare ONNX Runtime on the same graph, its own default threads"
    for step, batching, goal in ((BATCH, "all at once", 0.97), (few, f"{few} at once, as ours", None)):
        yield compared(
            f"embedder, {BATCH} aligned faces",
            f"{graph}, {batching}",
            goal,
            lambda: embedder.embed(crops),
            partial(bare, step),
            11,
            "`faceres-deep` in INT8, 224 pixels",
        )


def _human_3() -> Iterator[Row]:
    """Compare `human-3` with `human-2` on the photograph and on crops of its faces."""
    new, old = human(), human(name="human-2")
    photograph = decode(PHOTOGRAPH.read_bytes(), ImageLimits())
    boxes = np.array([face.bbox for face in new.faces([photograph])[0]])
    margins = np.tile((boxes[:, 2:] - boxes[:, :2]) / 4, 2) * [-1, -1, 1, 1]
    crops = [
        np.ascontiguousarray(photograph[max(y1, 0) : y2, max(x1, 0) : x2])
        for x1, y1, x2, y2 in np.round(boxes + margins).astype(int)
    ]
    for name, goal, images in (
        ("six crops, one by one", 2.5, crops),
        ("t1.jpg (six faces)", 3, [photograph]),
    ):
        for stage, own in (("detect", None), ("detect and embed", goal)):

            def run(pack: Pack, images: list[Image] = images, stage: str = stage) -> list[Any]:
                return [(pack.detect if stage == "detect" else pack.faces)([image]) for image in images]

            yield compared(
                f"`human-3`, {stage}, {name}", "`human-2`", own, partial(run, new), partial(run, old), 11
            )


def _face_analysis() -> list[Row]:
    pack = standard_buffalo_sc()
    if pack is None:
        return [Row(*LIBRARY, None, Goal(_LIBRARY_GOAL), note=f"no {BUFFALO_SC}: set AGEGENDER_DATA")]
    with TemporaryDirectory() as root:
        return [_against_the_library(pack, _library(Path(root)))]


def _against_the_library(pack: Pack, library: FaceAnalysis) -> Row:
    rgb = decode(PHOTOGRAPH.read_bytes(), ImageLimits())
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    theirs = {tuple(np.round(face.bbox).tolist()): face.normed_embedding for face in library.get(bgr)}
    cosines, distances = [], []
    for face in pack.faces([rgb])[0]:
        apart = {box: float(np.abs(np.subtract(box, face.bbox)).max()) for box in theirs}
        nearest = min(apart, key=lambda box: apart[box])
        distances.append(apart[nearest])
        cosines.append(float(np.dot(theirs[nearest], face.embedding)))
    return compared(
        *LIBRARY,
        _LIBRARY_GOAL,
        lambda: pack.faces([rgb]),
        lambda: library.get(bgr),
        15,
        f"{len(cosines)} faces, ArcFace's crop on both sides, lowest cosine between the embeddings "
        f"{min(cosines):.5f}, boxes within {max(distances):.1f} pixels",
        "both sides run the same two networks; on a CPU a face in a batch takes as long as one alone",
    )


def _library(root: Path) -> FaceAnalysis:
    """Return a FaceAnalysis of our pack; it reads packs from ROOT/models/NAME, so a link is created there."""
    (root / "models").mkdir()
    (root / "models" / "buffalo_sc").symlink_to(BUFFALO_SC)
    library = FaceAnalysis("buffalo_sc", str(root), providers=["CPUExecutionProvider"])
    library.prepare(0, det_size=DET_SIZE)
    return library
