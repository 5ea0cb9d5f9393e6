#!/usr/bin/env bash
# Library:  datasets 5.2.0 (PyPI), with pyarrow 26.0.1 and pillow 13.0.0, Python 3.11.
# Expected: Dataset.to_parquet() of an image folder holds the images, since the column's type is
#           struct<bytes, path> and a Parquet file is what people pass on.
# Observed: `bytes` is null in every row; `path` is the absolute path on the writer's machine. The file
#           cannot be used anywhere else, and nothing warns. Saw:
#             image: struct<bytes: binary, path: string>
#             bytes null in 3 of 3 rows, absolute path in 3 of 3 rows
#             images readable after the folder moved: False (FileNotFoundError)
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q datasets==5.2.0 pyarrow==26.0.1 pillow==13.0.0
cd "$dir"; export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1
"$dir/venv/bin/python" - <<'PYTHON'
from pathlib import Path

import datasets
import pyarrow.parquet as parquet
from PIL import Image

folder = Path("faces/train")
folder.mkdir(parents=True)
for number in range(3):
    Image.new("RGB", (16, 16), (80 * number, 0, 0)).save(folder / f"{number}.png")
(folder / "metadata.csv").write_text("file_name,age\n0.png,25\n1.png,30\n2.png,40\n")
datasets.load_dataset("imagefolder", data_dir="faces", split="train").to_parquet("faces.parquet")

image = parquet.read_table("faces.parquet")["image"]
rows = image.to_pylist()
empty = sum(row["bytes"] is None for row in rows)
absolute = sum(Path(row["path"]).is_absolute() for row in rows)
print("image:", image.type)
print(f"bytes null in {empty} of 3 rows, absolute path in {absolute} of 3 rows")
folder.rename("elsewhere")
try:
    datasets.Dataset.from_parquet("faces.parquet")[0]["image"].load()
    readable = "True"
except FileNotFoundError:
    readable = "False (FileNotFoundError)"
print("images readable after the folder moved:", readable)
assert (empty, absolute, readable[:5]) == (3, 3, "False"), "the behaviour has changed"
PYTHON
