"""`python -m tools.add_familiarity DATA_DIR HEADS_DIR`: add familiarity to age heads that lack it.

HEADS_DIR is laid out as the trainer's `models` (`services/predictor/heads` has the shipped ones). For each
served age head, the data sets that its card names are read from DATA_DIR; they must be the files that the
head was trained on, by their SHA-256. The networks and their calibration stay as they are. The card states
the intended domain.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from agegender.heads.calibration import Familiarity
from agegender.heads.head import Head, HeadManifest, Task, load_head, read_current, save_head
from trainer.datasets.embedding_set import EmbeddingSet, combine, data_path, file_sha256, read_embedding_set
from trainer.experiments.promote import DOMAIN


def training_faces(data_dir: Path, manifest: HeadManifest) -> EmbeddingSet:
    """Read the data sets that a head's card names. Raises SystemExit if one is another file."""
    hashes = manifest.card["data"]["sha256"]
    sets = {}
    for name, sha256 in hashes.items():
        pattern = data_path(data_dir, name, manifest.space, "*")
        paths = [path for path in pattern.parent.glob(pattern.name) if file_sha256(path) == sha256]
        if not paths:
            raise SystemExit(
                f"{pattern}: no file has the SHA-256 {sha256}, which the card of {manifest.version} states. "
                "Name the data folder that this head was trained from, or train and promote it again."
            )
        image_set = paths[0].stem.removeprefix("data-")
        sets[name] = read_embedding_set(data_dir, name, manifest.space, image_set)
    return next(iter(sets.values())) if len(sets) == 1 else combine(sets)


def with_familiarity(directory: Path, data_dir: Path) -> Head:
    """Save the head in `directory` again, with the familiarity of the faces that it was trained on."""
    head = load_head(directory)
    faces = training_faces(data_dir, head.manifest)
    rows = np.flatnonzero((faces.has_age | faces.has_gender) & (faces.fold >= 0))
    tensors = {**head.tensors, **Familiarity.fit(faces.embedding, rows).tensors}
    card = {**head.manifest.card, "domain": DOMAIN}
    manifest = head.manifest.model_copy(update={"format": 2, "familiarity": True, "card": card})
    return save_head(directory, manifest, tensors)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools.add_familiarity", description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("heads_dir", type=Path)
    arguments = parser.parse_args()
    folders = sorted(path.parent for path in (arguments.heads_dir / Task.AGE.value).glob("*/current.json"))
    if not folders:
        raise SystemExit(f"{arguments.heads_dir} has no age heads (age/SPACE/current.json).")
    for folder in folders:
        current = read_current(folder)
        assert current is not None
        head = with_familiarity(folder / current.version, arguments.data_dir)
        print(f"{folder.name}/{head.manifest.version}: familiarity added", file=sys.stderr)


if __name__ == "__main__":
    main()
