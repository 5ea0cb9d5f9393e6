"""Find and load the pack that the settings name."""

from pathlib import Path

from embedder.packs.duo import duo_pack
from embedder.packs.human import human_pack
from embedder.packs.insightface import insightface_pack
from embedder.packs.pack import Pack
from embedder.packs.store import MANIFEST, install_human, install_insightface, verify

HUMAN = "human"
_DUO = "human+"


def load_pack(name: str, packs: Path, pack_dir: Path | None, human_dir: Path | None, threads: int) -> Pack:
    """Load a pack, fetching what is missing first.

    Parameters
    ----------
    name : `human`; a pack of InsightFace (`buffalo_l`, …); or both, `human+buffalo_l`.
    packs : folder that fetched packs are kept in.
    pack_dir : folder of the named pack (of the InsightFace half of a pair), where it need not be fetched.
    human_dir : folder of the `human` pack, where it need not be fetched.
    """
    if name == HUMAN:
        return human_pack(_human(packs, pack_dir or human_dir), threads)
    insightface_name = name.removeprefix(_DUO)
    directory = _given(pack_dir) or install_insightface(packs / insightface_name)
    if name.startswith(_DUO):
        return duo_pack(insightface_name, _human(packs, human_dir), directory, threads)
    return insightface_pack(insightface_name, directory, threads)


def _human(packs: Path, directory: Path | None) -> Path:
    return _given(directory) or install_human(packs / HUMAN)


def _given(directory: Path | None) -> Path | None:
    if directory is not None and (directory / MANIFEST).exists():
        verify(directory)
    return directory
