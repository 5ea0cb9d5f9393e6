"""Find and load the pack that the settings name."""

from pathlib import Path

from embedder.packs.duo import duo_pack
from embedder.packs.human import GRAPHS, human_pack
from embedder.packs.insightface import insightface_pack
from embedder.packs.pack import Pack
from embedder.packs.store import MANIFEST, RELEASED, BadPack, install_human, install_insightface, verify

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

    Raises `NotFetched` if the network failed, and `BadPack` if another try cannot succeed either.
    """
    if name == HUMAN:
        return human_pack(_human(packs, pack_dir or human_dir), threads)
    insightface_name = name.removeprefix(_DUO)
    directory = _given(pack_dir) or _insightface(packs / insightface_name)
    if name.startswith(_DUO):
        return duo_pack(insightface_name, _human(packs, human_dir), directory, threads)
    return insightface_pack(insightface_name, directory, threads)


def _human(packs: Path, directory: Path | None) -> Path:
    found = _given(directory) or install_human(packs / HUMAN)
    if missing := [name for name in GRAPHS if not (found / name).exists()]:
        raise BadPack(f"{found} is not the human pack: {', '.join(missing)} is missing")
    return found


def _insightface(target: Path) -> Path:
    if target.name not in RELEASED and not target.exists():
        raise BadPack(
            f"no pack is named {target.name!r}; there are human, {', '.join(RELEASED)}. "
            "For a pack of your own set EMBEDDER_PACK_DIR to its folder"
        )
    return install_insightface(target)


def _given(directory: Path | None) -> Path | None:
    if directory is None:
        return None
    if not directory.is_dir():
        raise BadPack(f"there is no folder {directory}; EMBEDDER_PACK_DIR and EMBEDDER_HUMAN_DIR name one")
    if (directory / MANIFEST).exists():
        verify(directory)
    return directory
