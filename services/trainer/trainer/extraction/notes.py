"""What is noted of single images: which were removed and why, and which had several faces.

`removed-<variant>.jsonl` has a line {"file", "reason"} for each image removed.
`several-faces-<variant>.jsonl` has a line {"file", "faces", "chosen"} for each image of which one face was
taken; `chosen` counts from the largest, which is 0.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from agegender.files import atomic_file

from trainer.datasets.labels import LabelledImage
from trainer.extraction.chunks import Chunk
from trainer.extraction.outcome import Removals


class Notes:
    """Writes both files; they appear when the block ends. Counts as it goes."""

    def __init__(self, folder: Path, variant: str, removed_by_labels: Iterable[dict[str, str]]) -> None:
        self.removals = Removals()
        self.several_faces = 0
        self.mirrored_not_found = 0
        self._first_of_several = ""
        self._stack = ExitStack()
        self._removed_by_labels = removed_by_labels
        self._paths = (folder / f"removed-{variant}.jsonl", folder / f"several-faces-{variant}.jsonl")

    def __enter__(self) -> Self:
        self._removed, self._several = (self._stack.enter_context(atomic_file(path)) for path in self._paths)
        for row in self._removed_by_labels:
            self._removed.write(_line(row))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, images: Sequence[LabelledImage], chunk: Chunk) -> None:
        """Note the images of one chunk; `images` are those of its shard."""
        self.mirrored_not_found += int((~chunk.mirror_found).sum())
        for row, reason in zip(chunk.removed_row, chunk.reason, strict=True):
            self.removals.add(str(reason), images[row].file)
            self._removed.write(_line({"file": images[row].file, "reason": str(reason)}))
        for row, faces, chosen in zip(chunk.row, chunk.faces, chunk.chosen, strict=True):
            if faces > 1:
                self.several_faces += 1
                self._first_of_several = self._first_of_several or images[row].file
                note = {"file": images[row].file, "faces": int(faces), "chosen": int(chosen)}
                self._several.write(_line(note))

    def remarks(self) -> Iterator[str]:
        """What a user must hear of the faces that were kept."""
        if self.several_faces:
            yield f"{self.several_faces:,} images with several faces, e.g. {self._first_of_several}"
        if self.mirrored_not_found:
            yield f"{self.mirrored_not_found:,} without a face in the mirrored image"


def _line(note: dict[str, Any]) -> bytes:
    return json.dumps(note, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
