"""From images to the embeddings of their labelled faces, through the embedder-proxy."""

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np
from agegender.errors import Problem
from agegender.faces import Face, ImageFaces
from agegender.images import ImageLimits, decode
from agegender_service.faces_client import BlockingFacesClient
from PIL import Image

from trainer.datasets.duplicates import hash_image, stacked_hashes
from trainer.datasets.labels import LabelledImage, Reason
from trainer.extraction.chunks import Chunk
from trainer.extraction.selection import labelled_face, same_face_mirrored
from trainer.extraction.state import Extraction

_LIMITS = ImageLimits()
_TOO_LARGE = frozenset({"image-too-large", "too-many-pixels", "body-too-large"})


def embed_images(
    client: BlockingFacesClient,
    extraction: Extraction,
    image_dir: Path,
    data_dir: Path,
    images: Sequence[LabelledImage],
    first_row: int,
    *,
    one_face_only: bool,
) -> Chunk:
    """Send the images of one chunk and choose the labelled face of each.

    data_dir : links may lead to files below it, or below the image folder.
    first_row : position of the first image in its shard. The requests depend on the images alone, never on
    what else is in flight. Raises what `BlockingFacesClient.faces` raises.
    """
    roots = (image_dir.resolve(), data_dir.resolve())
    checked = [_readable(roots, image.file) for image in images]
    hashes: dict[Path, tuple[bytes, bytes]] = {}

    def read(path: Path) -> bytes:
        """The bytes that are embedded; hashed as they pass, so that the hashes belong to them."""
        content = path.read_bytes()
        hashes[path] = _hashes(content)
        return content

    contents = (read(path) for path in checked if isinstance(path, Path))
    answers = iter(client.faces(contents, extraction.space))
    kept: list[tuple[int, Path, ImageFaces, int]] = []
    removed: list[tuple[int, Reason]] = []
    for row, path in enumerate(checked, start=first_row):
        if isinstance(path, Reason):
            removed.append((row, path))
            continue
        outcome = _chosen(next(answers), extraction.min_det_score, one_face_only)
        if isinstance(outcome, Reason):
            removed.append((row, outcome))
        else:
            kept.append((row, path, *outcome))
    faces = [found.faces[chosen] for _, _, found, chosen in kept]
    mirrors = _mirrored_faces(client, extraction, [path for _, path, *_ in kept], faces)
    shape = (-1, extraction.space.dimension)
    hashed = stacked_hashes([hashes[path] for _, path, *_ in kept])
    return Chunk(
        row=np.array([row for row, *_ in kept], dtype=np.int32),
        embedding=np.array([face.embedding for face in faces], dtype=np.float32).reshape(shape),
        embedding_mirrored=np.array(
            [(mirror or face).embedding for mirror, face in zip(mirrors, faces, strict=False)],
            dtype=np.float32,
        ).reshape(shape),
        faces=np.array([found.faces_found for _, _, found, _ in kept], dtype=np.int32),
        chosen=np.array([chosen for *_, chosen in kept], dtype=np.int32),
        mirror_found=np.array([mirror is not None for mirror in mirrors], dtype=np.bool_),
        file_sha256=hashed.file_sha256,
        image_hash=hashed.image_hash,
        removed_row=np.array([row for row, _ in removed], dtype=np.int32),
        reason=np.array([reason.value for _, reason in removed], dtype=np.str_),
    )


def _hashes(content: bytes) -> tuple[bytes, bytes]:
    """An image that only the embedder can read is like no other: its bytes' hash stands for what it shows."""
    try:
        return hash_image(content)
    except Problem:
        digest = hashlib.sha256(content).digest()
        return digest, digest + digest


def _readable(roots: Sequence[Path], file: str) -> Path | Reason:
    """The file behind a name in the first folder; links may lead to any of the folders."""
    try:
        # Archives made on a Mac have é as two characters where a table has one, or the other way round.
        forms = [roots[0] / form for form in (file, normalize("NFC", file), normalize("NFD", file))]
        path = next((form for form in forms if form.exists()), forms[0]).resolve()
        if not any(path.is_relative_to(root) for root in roots):
            return Reason.LINK_OUTSIDE
        if not path.is_file():
            return Reason.IMAGE_MISSING
        if path.stat().st_size > _LIMITS.max_bytes:
            return Reason.IMAGE_TOO_LARGE
    except RuntimeError:  # links in a circle
        return Reason.IMAGE_MISSING
    except OSError:
        return Reason.UNREADABLE_IMAGE
    return path if os.access(path, os.R_OK) else Reason.UNREADABLE_IMAGE


def _chosen(
    answer: ImageFaces | Problem, min_det_score: float, one_face_only: bool
) -> tuple[ImageFaces, int] | Reason:
    if isinstance(answer, Problem):
        return Reason.IMAGE_TOO_LARGE if answer.slug in _TOO_LARGE else Reason.UNREADABLE_IMAGE
    if not answer.faces:
        return Reason.NO_FACE
    if one_face_only and answer.faces_found > 1:
        return Reason.SEVERAL_FACES
    chosen = labelled_face(answer)
    if answer.faces[chosen].det_score < min_det_score:
        return Reason.LOW_DETECTION_SCORE
    return answer, chosen


def _mirrored_faces(
    client: BlockingFacesClient, extraction: Extraction, paths: Sequence[Path], faces: Sequence[Face]
) -> list[Face | None]:
    """The same faces in the mirrored images, None where one is not found; empty where none are wanted."""
    if not extraction.mirrored:
        return []
    answers = client.faces((_mirrored(path.read_bytes()) for path in paths), extraction.space)
    return [
        None if isinstance(answer, Problem) else same_face_mirrored(face, answer)
        for face, answer in zip(faces, answers, strict=True)
    ]


def _mirrored(content: bytes) -> bytes:
    """The upright image, left and right exchanged, without loss."""
    file = io.BytesIO()
    Image.fromarray(decode(content, _LIMITS)[:, ::-1].copy()).save(file, "PNG", compress_level=1)
    return file.getvalue()
