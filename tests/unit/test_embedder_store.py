"""A pack on disk is whole or it is not trusted."""

from pathlib import Path

import pytest
from embedder.packs.store import MANIFEST, BadPack, convert_from, install, verify


def fill(directory: Path) -> None:
    (directory / "a.onnx").write_bytes(b"weights")


def test_installed_pack_is_verified_and_not_fetched_again(tmp_path: Path) -> None:
    target = install(tmp_path / "p", "here", "MIT", fill)
    verify(target)

    def never(directory: Path) -> None:
        raise AssertionError("fetched twice")

    install(target, "here", "MIT", never)


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
    with pytest.raises(BadPack, match="integrity"):
        convert_from(tmp_path / "p.tgz", tmp_path)
