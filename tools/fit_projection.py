"""`python -m tools.fit_projection PACK_DIR IMAGES…`: fit the projection of an InsightFace pack's recogniser.

Uses an evenly spaced sample of the images in the given folders, without labels, and writes
services/insightface/embedder/packs/projections/RECOGNISER.safetensors. The channels of each map are reduced
to their principal components. The maps are scaled to the same total variance, as in multiple factor analysis
(https://doi.org/10.1002/wics.1246), and projected together on 512 principal components. A fixed random
rotation follows, because heads standardise every number, and standardised components of small variance are
noise.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from agegender.images import ImageLimits, decode
from embedder.alignment import crop, similarity, template
from embedder.packs.insightface import (
    PROJECTIONS,
    FeatureMap,
    FeatureMapEmbedder,
    Projection,
    ScrfdDetector,
    find_models,
    mapped_model,
)
from rich.progress import track
from scipy.stats import ortho_group
from sklearn.decomposition import PCA

Array = npt.NDArray[np.float32]

MAPS = {"w600k_mbf": (FeatureMap("513"), FeatureMap("505"), FeatureMap("473", pool=2))}
PLACES = 7 * 7  # positions per map, after pooling
CHANNELS = 64  # per map, after reduction; more would exceed LARGEST_FILE
DIMENSION = 512
SIZE = FeatureMapEmbedder.size
LARGEST_FILE = 5_000_000  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools.fit_projection", description=__doc__)
    parser.add_argument("pack", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--faces", type=int, default=8000, help="number of images to sample")
    arguments = parser.parse_args()
    detector, recogniser = find_models(arguments.pack)
    if recogniser.stem not in MAPS:
        raise SystemExit(f"no feature maps are defined for {recogniser.stem}; add them to MAPS")
    threads = os.cpu_count() or 1
    files = sorted(file for folder in arguments.images for file in folder.rglob("*.jpg"))
    files = files[:: max(1, len(files) // arguments.faces)]
    maps = MAPS[recogniser.stem]
    read = FeatureMapEmbedder(mapped_model(onnx.load(recogniser), maps), threads)
    crops = _crops(files, ScrfdDetector(detector, threads))
    features = np.concatenate([read.embed(batch) for batch in _batches(crops)])
    projection = fit_projection(features, maps, _channels(recogniser, maps))
    PROJECTIONS.mkdir(exist_ok=True)
    target = PROJECTIONS / f"{recogniser.stem}.safetensors"
    projection.save(target)
    if target.stat().st_size > LARGEST_FILE:
        raise SystemExit(f"{target.name} is larger than {LARGEST_FILE} bytes; reduce CHANNELS")
    print(f"{len(features)} faces of {len(files)} images, {features.shape[1]} features → {target}")


def fit_projection(
    features: Array, maps: Sequence[FeatureMap], channels: Sequence[int], dimension: int = DIMENSION
) -> Projection:
    """Fit to `features` [faces, d], the concatenated flattened maps; d faces or more give a better fit."""
    reductions, parts = [], []
    starts = np.cumsum([0, *(count * PLACES for count in channels)])
    for number, count in enumerate(channels):
        part = features[:, starts[number] : starts[number + 1]].reshape(len(features), count, PLACES)
        places = part.transpose(0, 2, 1).reshape(-1, count)
        reduction = PCA(min(CHANNELS, count), svd_solver="covariance_eigh").fit(places).components_
        flat = np.einsum("rc,fcp->frp", reduction, part, optimize=True).reshape(len(features), -1)
        scale = 1 / np.sqrt(flat.var(axis=0, dtype=np.float64).sum())
        reductions.append((reduction * scale).astype(np.float32))
        parts.append((flat * scale).astype(np.float32))
    together = np.concatenate(parts, axis=1)
    pca = PCA(dimension, svd_solver="randomized", random_state=0).fit(together)
    weight = pca.components_.T @ ortho_group.rvs(dimension, random_state=0)
    bias = -pca.mean_ @ weight
    return Projection(tuple(maps), tuple(reductions), weight.astype(np.float32), bias.astype(np.float32))


def _channels(recogniser: Path, maps: Sequence[FeatureMap]) -> list[int]:
    """Return the number of channels of each map."""
    known = onnx.shape_inference.infer_shapes(onnx.load(recogniser)).graph.value_info
    shapes = {one.name: one.type.tensor_type.shape.dim for one in known}
    return [shapes[one.tensor][1].dim_value for one in maps]


def _crops(files: list[Path], detector: ScrfdDetector) -> Iterator[npt.NDArray[np.uint8]]:
    places = template(SIZE, FeatureMapEmbedder.zoom, FeatureMapEmbedder.down)
    for file in track(files, "faces"):
        image = decode(file.read_bytes(), ImageLimits())
        for landmarks in detector.detect(image).landmarks[:1]:
            yield crop(image, similarity(landmarks, places), SIZE)


def _batches(crops: Iterator[npt.NDArray[np.uint8]], size: int = 64) -> Iterator[npt.NDArray[np.uint8]]:
    batch: list[npt.NDArray[np.uint8]] = []
    for one in crops:
        batch.append(one)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


if __name__ == "__main__":
    main()
