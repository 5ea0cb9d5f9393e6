#!/usr/bin/env bash
# Library:  datasets 5.2.0 (PyPI), with pillow 13.0.0, Python 3.11.
# Expected: a folder whose metadata.csv and images do not match is refused when it is loaded, or its extra
#           images come without labels.
# Observed: an image without a row is left out silently; a row without an image counts as an example and
#           raises FileNotFoundError only when that example is read. Saw:
#             4 images, 3 rows: 3 examples
#             3 images, 4 rows: 4 examples, reading the last: FileNotFoundError
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q datasets==5.2.0 pillow==13.0.0
cd "$dir"; export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1
"$dir/venv/bin/python" - <<'PYTHON'
from pathlib import Path

import datasets
from PIL import Image


def load(images: int, rows: int) -> datasets.Dataset:
    folder = Path(f"faces-{images}-{rows}/train")
    folder.mkdir(parents=True)
    for number in range(images):
        Image.new("RGB", (16, 16), (60 * number, 0, 0)).save(folder / f"{number}.png")
    lines = [f"{number}.png,{20 + number}" for number in range(rows)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,age", *lines, ""]))
    return datasets.load_dataset("imagefolder", data_dir=str(folder.parent), split="train")


dropped = len(load(images=4, rows=3))
print(f"4 images, 3 rows: {dropped} examples")
missing = load(images=3, rows=4)
try:
    missing[3]
    outcome = "read"
except FileNotFoundError:
    outcome = "FileNotFoundError"
print(f"3 images, 4 rows: {len(missing)} examples, reading the last: {outcome}")
assert (dropped, len(missing), outcome) == (3, 4, "FileNotFoundError"), "the behaviour has changed"
PYTHON
