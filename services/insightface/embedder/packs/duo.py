"""Both kinds of embedder side by side: the `human` embedders and an InsightFace pack's, on SCRFD landmarks.

The most accurate space here; its InsightFace half is for non-commercial research.
"""

from pathlib import Path

from agegender.spaces import Space

from embedder.packs.human import human_embedders
from embedder.packs.insightface import ArcFaceEmbedder, ScrfdDetector, find_models, load_arcface
from embedder.packs.pack import Pack


def duo_pack(name: str, human: Path, insightface: Path, threads: int) -> Pack:
    detector, recogniser = find_models(insightface)
    arcface = load_arcface(recogniser, threads)
    return Pack(
        Space(id=f"human-{name}-2", dimension=2304 + 2 * 512),
        [detector.stem, "faceres-deep", "mobileface", recogniser.stem],
        ScrfdDetector(detector, threads),
        [
            *human_embedders(human, threads),
            ArcFaceEmbedder(arcface),
            ArcFaceEmbedder(
                arcface, zoom=1.18, down=-0.18
            ),  # the hair and the brow, closer; docs/embedding.md
        ],
    )
