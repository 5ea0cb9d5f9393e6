"""Find and load the pack that the settings name."""

from collections.abc import Sequence
from pathlib import Path

from agegender.spaces import Space

from embedder.packs.human import (
    HUMAN_2_FILES,
    HUMAN_3_FILES,
    human_2_embedders,
    human_2_pack,
    human_3_pack,
)
from embedder.packs.pack import Pack
from embedder.packs.store import MANIFEST, RELEASED, BadPack, install_human, install_insightface, verify

HUMAN = "human"
# Each is a selection of the models in the folder `human`.
HUMAN_PACKS = {
    "human": (HUMAN_3_FILES, human_3_pack),
    "human-2": (HUMAN_2_FILES, human_2_pack),
    "human-3": (HUMAN_3_FILES, human_3_pack),
}
_DUO = "human+"


def load_pack(name: str, packs: Path, pack_dir: Path | None, human_dir: Path | None, threads: int) -> Pack:
    """Load a pack, fetching what is missing first.

    Parameters
    ----------
    name : `human` (the default, `human-3`), `human-2`; a pack of InsightFace (`buffalo_l`, …); or both,
        `human+buffalo_l`.
    packs : folder for fetched packs.
    pack_dir : existing folder of the named pack (of the InsightFace half of a pair); None to fetch it.
    human_dir : existing folder of the models of the `human` packs; None to fetch it.

    Raises `NotFetched` if the network failed, and `BadPack` if another attempt would fail in the same way.
    """
    if name in HUMAN_PACKS:
        files, load = HUMAN_PACKS[name]
        return load(_human(packs, pack_dir or human_dir, files), threads)
    insightface_name = name.removeprefix(_DUO)
    directory = _given(pack_dir) or _insightface(packs / insightface_name)
    if name.startswith(_DUO):
        return duo_pack(insightface_name, _human(packs, human_dir, HUMAN_2_FILES), directory, threads)
    # Takes as long to import as all else of this service, which the packs of `human` need not wait for.
    from embedder.packs.insightface import insightface_pack

    return insightface_pack(insightface_name, directory, threads)


def duo_pack(name: str, human: Path, insightface: Path, threads: int) -> Pack:
    """Load the embedders of `human-2` and of an InsightFace pack side by side, on SCRFD's landmarks.

    The most accurate space here; its InsightFace half is for non-commercial research.
    """
    from embedder.packs.insightface import SPACE_VERSION, ScrfdDetector, find_models, recogniser_embedder

    detector, recogniser = find_models(insightface)
    return Pack(
        Space(id=f"human-{name}-{SPACE_VERSION}", dimension=2304 + 512),
        [detector.stem, "faceres-deep", "mobileface", recogniser.stem],
        ScrfdDetector(detector, threads),
        [*human_2_embedders(human, threads), recogniser_embedder(recogniser, threads)],
    )


def _human(packs: Path, directory: Path | None, files: Sequence[str]) -> Path:
    folder = _given(directory) or install_human(packs / HUMAN)
    if missing := [name for name in files if not (folder / name).exists()]:
        raise BadPack(
            f"{folder} is not the human pack of this release: {', '.join(missing)} is missing. Run "
            f"make setup, or python -m embedder fetch human --to {folder}"
        )
    return folder


def _insightface(target: Path) -> Path:
    if target.name not in RELEASED and not target.exists():
        raise BadPack(
            f"no pack is named {target.name!r}; available packs are {', '.join([*HUMAN_PACKS, *RELEASED])}. "
            "For another pack set EMBEDDER_PACK_DIR to its folder"
        )
    return install_insightface(target)


def _given(directory: Path | None) -> Path | None:
    if directory is None:
        return None
    if not directory.is_dir():
        raise BadPack(f"there is no folder {directory}; correct EMBEDDER_PACK_DIR or EMBEDDER_HUMAN_DIR")
    if (directory / MANIFEST).exists():
        verify(directory)
    return directory
