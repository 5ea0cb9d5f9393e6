"""`python -m benchmarks.quality_intervals [human|buffalo_sc]`: intervals against quality.

UTKFace crops are made worse step by step. For faces of about the same quality score it prints the factor on
the interval's half-width with which the stated share of ages lies inside, relative to faces that lack
nothing. The shipped heads were trained on UTKFace, so only the ratio between the scores is of use.
"""

import itertools
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from agegender.heads.checkpoints import heads_directory, load_head, read_current
from agegender.heads.head import Task
from agegender.images import ImageLimits, decode
from embedder.packs.load import load_pack
from embedder.packs.pack import Image as Pixels
from PIL import Image, ImageFilter
from predictor.quality import face_quality

from tools.stack import RESEARCH_DATA, ROOT

HEADS = ROOT / "services" / "predictor" / "heads"
COVERAGE = 0.9
FACES = 400
EDGES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)


def pictures() -> Iterator[tuple[float, Image.Image]]:
    """Age and crop of faces spread evenly over the archive, which is sorted by age."""
    with tarfile.open(RESEARCH_DATA / "utkface.tar") as archive:
        names = sorted(name for name in archive.getnames() if name.endswith(".jpg"))
        for name in names[:: len(names) // FACES]:
            file = archive.extractfile(name)
            assert file is not None
            yield float(Path(name).name.split("_")[0]), Image.fromarray(decode(file.read(), ImageLimits()))


def worse(picture: Image.Image) -> Iterator[Image.Image]:
    """The picture, blurred and shrunk step by step."""
    yield picture
    for radius in (2.0, 4.0, 6.0, 8.0):
        yield picture.filter(ImageFilter.GaussianBlur(radius))
    for side in (70, 50, 36, 28):
        yield picture.resize((side, side), Image.Resampling.BILINEAR)


def main(pack_name: str) -> None:
    pack_dir = (
        ROOT / "data" / "packs" / "human" if pack_name == "human" else RESEARCH_DATA / "packs" / pack_name
    )
    pack = load_pack(pack_name, pack_dir.parent, pack_dir, None, 1)
    directory = heads_directory(HEADS, Task.AGE, pack.space)
    current = read_current(directory)
    assert current is not None
    head = load_head(directory / current.version)
    conformal = head.manifest.conformal
    assert conformal is not None
    scores, needed = [], []
    for age, picture in pictures():
        for shown in worse(picture):
            pixels: Pixels = np.asarray(shown)
            for face in pack.faces([pixels])[0][:1]:
                years = head.probabilities(np.array([face.embedding], np.float32))
                low, high = (float(end[0]) for end in conformal.intervals(years, COVERAGE))
                scores.append(face_quality(face).score)
                needed.append(abs(age - (low + high) / 2) / max((high - low) / 2, 0.5))
    table(np.array(scores), np.array(needed))


def table(scores: np.ndarray, needed: np.ndarray) -> None:
    best = float(np.quantile(needed[scores == 1], COVERAGE))
    print(f"score 1: {np.sum(scores == 1)} faces, {np.mean(needed[scores == 1] <= 1):.3f} inside")
    for low, high in itertools.pairwise(EDGES):
        within = needed[(scores >= low) & (scores < high)]
        factor = float(np.quantile(within, COVERAGE)) / best
        inside = np.mean(within <= 1)
        print(
            f"score {low:.2f} to {high:.2f}: {len(within):4} faces, {inside:.3f} inside, factor {factor:.2f}"
        )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "human")
