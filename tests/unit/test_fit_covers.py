"""The fit of the network that recognises covered faces runs from end to end, on a few faces."""

import sys
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import pytest
from embedder.alignment import (
    COVER_MODEL,
    SIZE,
    CoverModel,
    Image,
    cover_features,
    crop,
    similarity,
    template,
)
from safetensors.numpy import load_file

from tests.support.packs import human_pack_dir
from tools import fit_covers
from tools.damage import DAMAGE, damaged

skimage_data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")

LANDMARKS = np.array([[204, 102], [247, 105], [224, 127], [201, 139], [246, 141]], np.float32)
FACES = 2


def names(first: str) -> list[str]:
    """Return names of files that the fit uses, or that it leaves for judging."""
    hashed = ((f"{number}.jpg", sha256(f"{number}.jpg".encode()).hexdigest()) for number in range(100))
    return [name for name, value in hashed if value[0] in first]


def probability(model: CoverModel, image: Image) -> float:
    return model.probability(cover_features(crop(image, similarity(LANDMARKS, template(SIZE, 1.0)), SIZE)))


def test_fit_writes_a_network_of_the_shipped_format_that_sees_covers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    human_pack_dir()
    astronaut = np.asarray(skimage_data.astronaut(), np.uint8)
    folder, target = tmp_path / "crops", tmp_path / "covers.safetensors"
    folder.mkdir()
    for name in (*names("0123")[: FACES + 2], *names("456789abcdef")[:2]):
        cv2.imwrite(str(folder / name), cv2.cvtColor(astronaut[:260, 100:360], cv2.COLOR_RGB2BGR))
    command = ["fit_covers", str(folder), "--faces", str(FACES), "--to", str(target)]
    monkeypatch.setattr(sys, "argv", command)
    before = COVER_MODEL.read_bytes()
    fit_covers.main()
    assert f"{FACES} faces, " in capsys.readouterr().out
    assert COVER_MODEL.read_bytes() == before
    written, shipped = load_file(target), load_file(COVER_MODEL)
    assert {name: (one.shape, one.dtype) for name, one in written.items()} == {
        name: (one.shape, one.dtype) for name, one in shipped.items()
    }
    model = CoverModel(**written)
    covers = [name for name, (reason, _) in DAMAGE.items() if reason == "covered"]
    covered = [probability(model, damaged(astronaut, LANDMARKS, name, "other")) for name in covers]
    assert probability(model, astronaut) < min(0.5, float(np.median(covered)))
    fit_covers.main()  # the same faces give the same network
    assert all(np.array_equal(one, load_file(target)[name]) for name, one in written.items())


def test_fit_without_faces_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    human_pack_dir()
    monkeypatch.setattr(sys, "argv", ["fit_covers", str(tmp_path), "--to", str(tmp_path / "x.safetensors")])
    with pytest.raises(SystemExit, match="No face was found"):
        fit_covers.main()
    assert not (tmp_path / "x.safetensors").exists()
