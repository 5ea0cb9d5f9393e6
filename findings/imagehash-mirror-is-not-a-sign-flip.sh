#!/usr/bin/env bash
# Library:  ImageHash 4.3.2 (PyPI), with pillow 13.0.0, Python 3.11.
# Expected: a mirrored image changes the sign of every odd horizontal DCT coefficient, so the perceptual hash of the
#           mirror image is that of the image with the bits of the odd columns inverted; one stored hash finds both.
# Observed: phash compares each coefficient with the median of all, and the median is not zero, so several bits do
#           not follow. Whoever looks for mirrored copies has to store a second hash. Saw, over 200 images:
#             bits of 256 that differ from the prediction: median 10, largest 28
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q ImageHash==4.3.2 pillow==13.0.0
"$dir/venv/bin/python" - <<'PYTHON'
import imagehash
import numpy as np
from PIL import Image, ImageFilter, ImageOps

generator = np.random.default_rng(0)
wrong = []
for _ in range(200):
    pixels = generator.integers(0, 256, (200, 200, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(6))
    image = ImageOps.autocontrast(image)
    predicted = imagehash.phash(image, hash_size=16).hash.copy()
    predicted[:, 1::2] ^= True
    wrong.append(int((predicted != imagehash.phash(ImageOps.mirror(image), hash_size=16).hash).sum()))
print(f"bits of 256 that differ from the prediction: median {np.median(wrong):g}, largest {max(wrong)}")
assert max(wrong) > 0 and np.median(wrong) >= 1, "the behaviour has changed"
PYTHON
