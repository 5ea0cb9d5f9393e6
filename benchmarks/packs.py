"""The packs that are measured: `human` from set-up, `buffalo_sc` where the research data are at hand."""

import os
from pathlib import Path

from agegender.cpus import available_cpus
from embedder.packs.load import load_pack
from embedder.packs.pack import Pack

ROOT = Path(__file__).parent.parent
HUMAN = ROOT / "data" / "packs" / "human"
BUFFALO_SC = Path(os.environ.get("AGEGENDER_DATA", ROOT.parent / "shared" / "data")) / "packs" / "buffalo_sc"


def human(threads: int | None = None) -> Pack:
    return load_pack("human", HUMAN.parent, HUMAN, None, threads or available_cpus())


def buffalo_sc(threads: int | None = None) -> Pack | None:
    if not BUFFALO_SC.is_dir():
        return None
    return load_pack("buffalo_sc", BUFFALO_SC.parent, BUFFALO_SC, None, threads or available_cpus())
