"""Where the original project puts the faces that it extracted."""

from pathlib import Path

KIND = "original"


def original_file(folder: Path, variant: str) -> Path:
    """`data-aligned.npy` holds the variant aligned; `data.npy`, of IMDB and WIKI, the variant images."""
    return folder / ("data.npy" if variant == "images" else f"data-{variant}.npy")


def original_variants(folder: Path) -> list[str]:
    return [name for name in ("aligned", "faces", "images") if original_file(folder, name).is_file()]
