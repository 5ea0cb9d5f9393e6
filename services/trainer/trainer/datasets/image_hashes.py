"""Hashes of an image file: of its bytes, and of what it shows.

The perceptual hash is that of the library ImageHash (`phash`, a discrete cosine transform), with 256 bits. It
survives other compression, size, brightness and colour; it does not survive another framing.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np
import numpy.typing as npt
from agegender.cpus import available_cpus
from agegender.datasets import IMAGE_HASH_BYTES, SHA256_BYTES
from agegender.errors import Problem
from agegender.images import ImageLimits, decode
from PIL import Image, ImageOps

_SIDE = 16  # 16 × 16 bits
_LIMITS = ImageLimits()


@dataclass(frozen=True)
class ImageHashes:
    """file_sha256 [images, 32] and image_hash [images, 64] (the image's, then its mirror image's), uint8."""

    file_sha256: npt.NDArray[np.uint8]
    image_hash: npt.NDArray[np.uint8]


def hash_image(content: bytes) -> tuple[bytes, bytes]:
    """Return the 32 bytes of the file's hash and the 64 of the image's. Raises `Problem` as `decode` does."""
    import imagehash  # imports SciPy and PyWavelets, which the API does not need

    grey = Image.fromarray(decode(content, _LIMITS)).convert("L")
    bits = [imagehash.phash(image, hash_size=_SIDE).hash for image in (grey, ImageOps.mirror(grey))]
    return hashlib.sha256(content).digest(), np.packbits(np.stack(bits)).tobytes()


def stacked_hashes(hashes: Sequence[tuple[bytes, bytes]]) -> ImageHashes:
    return ImageHashes(
        np.frombuffer(b"".join(one for one, _ in hashes), np.uint8).reshape(-1, SHA256_BYTES),
        np.frombuffer(b"".join(one for _, one in hashes), np.uint8).reshape(-1, IMAGE_HASH_BYTES),
    )


def hash_files(folder: Path, files: Sequence[str]) -> ImageHashes:
    """Hash the image files of a folder, several at once.

    Raises ``missing-images`` 422, which counts and names the files that cannot be read.
    """

    def hashed(file: str) -> tuple[bytes, bytes] | None:
        try:
            # Archives made on a Mac have é as two characters where a table has one, or the other way round.
            forms = [folder / form for form in (file, normalize("NFC", file), normalize("NFD", file))]
            return hash_image(next((form for form in forms if form.exists()), forms[0]).read_bytes())
        except (OSError, Problem):
            return None

    with ThreadPoolExecutor(available_cpus()) as pool:
        found = list(pool.map(hashed, files))
    if missing := [file for file, one in zip(files, found, strict=True) if one is None]:
        raise Problem(
            "missing-images",
            422,
            f"{len(missing)} of {len(files)} images cannot be read in {folder}, such as {missing[0]!r}. Put "
            "the images back where they were when the data set was extracted, or extract it again.",
            files=missing[:50],
        )
    return stacked_hashes([one for one in found if one is not None])
