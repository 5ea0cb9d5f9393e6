"""Load the packs to measure: `human` from set-up, and `buffalo_sc` if the research data are available."""

from agegender.environment import available_cpus
from agegender.spaces import Space
from embedder.packs.insightface import ArcFaceEmbedder, ScrfdDetector, find_models, load_arcface
from embedder.packs.pack import Pack
from embedder.packs.store import load_pack

from tools.stack import RESEARCH_DATA, ROOT

HUMAN = ROOT / "data" / "packs" / "human"
BUFFALO_SC = RESEARCH_DATA / "packs" / "buffalo_sc"


def human(threads: int | None = None, name: str = "human") -> Pack:
    return load_pack(name, HUMAN.parent, HUMAN, None, threads or available_cpus())


def buffalo_sc() -> Pack | None:
    """Return the pack as it is served; None if it is not available."""
    if not BUFFALO_SC.is_dir():
        return None
    return load_pack("buffalo_sc", HUMAN.parent, BUFFALO_SC, None, available_cpus())


def standard_buffalo_sc() -> Pack | None:
    """Return detector and recogniser of `buffalo_sc` with ArcFace's own crop, as in `FaceAnalysis`."""
    if not BUFFALO_SC.is_dir():
        return None
    threads = available_cpus()
    detector, recogniser = find_models(BUFFALO_SC)
    return Pack(
        Space(id="buffalo_sc-standard", dimension=512),
        [detector.stem, recogniser.stem],
        ScrfdDetector(detector, threads),
        [ArcFaceEmbedder(load_arcface(recogniser, threads))],
    )
