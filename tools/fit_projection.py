"""`python -m tools.fit_projection PACK_DIR IMAGES…`: fit the projection of an InsightFace pack's recogniser.

Takes every so many of the images below the given folders, without any label, and writes
services/insightface/embedder/packs/projections/RECOGNISER.safetensors.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from agegender.images import ImageLimits, decode
from embedder.alignment import crop, similarity, template
from embedder.packs.insightface import ProjectedArcFaceEmbedder, ScrfdDetector, find_models
from embedder.packs.projection import PROJECTIONS, Projection, feature_map_name, fit_projection
from rich.progress import track

SIZE = ProjectedArcFaceEmbedder.size
LARGEST_FILE = 5_000_000  # bytes; what the repository takes


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools.fit_projection", description=__doc__)
    parser.add_argument("pack", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--faces", type=int, default=8000, help="how many images are looked at")
    arguments = parser.parse_args()
    detector, recogniser = find_models(arguments.pack)
    threads = os.cpu_count() or 1
    files = sorted(file for folder in arguments.images for file in folder.rglob("*.jpg"))
    files = files[:: max(1, len(files) // arguments.faces)]
    raw = unprojected(recogniser, threads)
    crops = _crops(files, ScrfdDetector(detector, threads))
    features = np.concatenate([raw.embed(batch) for batch in _batches(crops)])
    projection = fit_projection(features)
    PROJECTIONS.mkdir(exist_ok=True)
    target = PROJECTIONS / f"{recogniser.stem}.safetensors"
    projection.save(target)
    if target.stat().st_size > LARGEST_FILE:
        raise SystemExit(f"{target.name} is larger than {LARGEST_FILE} bytes: give it fewer dimensions")
    print(f"{len(features)} faces of {len(files)} images, {features.shape[1]} features → {target}")


def unprojected(recogniser: Path, threads: int) -> ProjectedArcFaceEmbedder:
    """The feature map itself: projected by the identity."""
    model = onnx.load(recogniser)
    name = feature_map_name(model)
    consumer = next(node for node in model.graph.node if name in node.input)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    size = max(max(shapes[given]) for given in consumer.input if len(shapes.get(given, ())) == 2)
    identity = Projection(np.eye(size, dtype=np.float32), np.zeros(size, np.float32))
    return ProjectedArcFaceEmbedder(recogniser, identity, threads)


def _crops(files: list[Path], detector: ScrfdDetector) -> Iterator[np.ndarray]:
    places = template(SIZE, ProjectedArcFaceEmbedder.zoom, ProjectedArcFaceEmbedder.down)
    for file in track(files, "faces"):
        picture = decode(file.read_bytes(), ImageLimits())
        for landmarks in detector.detect(picture).landmarks[:1]:
            yield crop(picture, similarity(landmarks, places), SIZE)


def _batches(crops: Iterator[np.ndarray], size: int = 64) -> Iterator[np.ndarray]:
    batch: list[np.ndarray] = []
    for one in crops:
        batch.append(one)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


if __name__ == "__main__":
    main()
