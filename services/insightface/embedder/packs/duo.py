"""Both kinds of embedder side by side: the `human` embedders and an InsightFace pack's, on SCRFD landmarks.

The most accurate space here; its InsightFace half is for non-commercial research.
"""

from pathlib import Path

from agegender.spaces import Space

from embedder.packs.human import human_embedders
from embedder.packs.insightface import (
    SPACE_VERSION,
    ScrfdDetector,
    find_models,
    recogniser_embedder,
)
from embedder.packs.pack import Pack


def duo_pack(name: str, human: Path, insightface: Path, threads: int) -> Pack:
    detector, recogniser = find_models(insightface)
    return Pack(
        Space(id=f"human-{name}-{SPACE_VERSION}", dimension=2304 + 512),
        [detector.stem, "faceres-deep", "mobileface", recogniser.stem],
        ScrfdDetector(detector, threads),
        [
            *human_embedders(human, threads),
            recogniser_embedder(recogniser, threads),
        ],
    )
