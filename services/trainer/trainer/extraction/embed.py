"""Embed the images of a shard through the embedder-proxy, chunk by chunk; select the labelled face of each.

Extraction resumes from chunks: a chunk that is on disk is not embedded again.
"""

import hashlib
import io
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, fields
from pathlib import Path
from unicodedata import normalize

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem
from agegender.faces import Face, FaceSelection, ImageFaces
from agegender.files import read_npz, write_npz
from agegender.images import ImageLimits, decode
from agegender_service.faces_client import BlockingFacesClient
from PIL import Image

from trainer.datasets.catalog import dataset_folder
from trainer.datasets.duplicates import hash_image, stacked_hashes
from trainer.datasets.embedding_set import IMAGE_HASH_BYTES, SHA256_BYTES
from trainer.datasets.formats import require_format
from trainer.datasets.labels import LabelledImage, Reason
from trainer.extraction.extraction import (
    CHUNK,
    Extraction,
    advance,
    mark_shard_done,
    shard_path,
    work_dir,
)
from trainer.extraction.plan import shard_images
from trainer.extraction.variation import varied
from trainer.runs.attempt import Attempt, PutOff
from trainer.settings import TrainerSettings

_LIMITS = ImageLimits()
_TOO_LARGE = frozenset({"image-too-large", "too-many-pixels", "body-too-large"})
_SAME_FACE = 0.3  # least overlap (IoU) of the boxes of one face in an image and its mirror image

PATIENCE_SECONDS = 300.0  # pauses between attempts at a proxy that is away, before the step waits


@dataclass(frozen=True)
class Chunk:
    """Faces of `CHUNK` consecutive images of a shard (fewer at its end), as the proxy answered them.

    row : [kept], int32; position in the shard of each image that was kept.
    embedding, embedding_mirrored : [kept, dimension], float32; the second, of the mirrored or varied
        image, has no rows unless it was requested.
    faces : [kept], int32; number of faces found in the image.
    selected : [kept], int32; index of the selected face, in the proxy's order (largest first).
    mirror_found : [kept], bool; if False, embedding_mirrored repeats the embedding.
    file_sha256, image_hash : [kept, 32] and [kept, 64], uint8; as in `agegender.datasets.FaceLabels`. They
        have no rows in chunks that release 0.1.0 wrote.
    removed_row : [removed], int32. reason : [removed], the `Reason`.
    """

    row: npt.NDArray[np.int32]
    embedding: npt.NDArray[np.float32]
    embedding_mirrored: npt.NDArray[np.float32]
    faces: npt.NDArray[np.int32]
    selected: npt.NDArray[np.int32]
    mirror_found: npt.NDArray[np.bool_]
    file_sha256: npt.NDArray[np.uint8]
    image_hash: npt.NDArray[np.uint8]
    removed_row: npt.NDArray[np.int32]
    reason: npt.NDArray[np.str_]


def chunk_paths(work: Path, extraction: Extraction, shard: bytes, images: int) -> list[Path]:
    """Return the files of all chunks of a shard, whether they exist or not.

    The folder is named by a hash of everything that the chunks depend on, so a chunk of other labels is never
    used.

    shard : content of its file, which has so many `images`.
    """
    depends = [
        str(extraction.space),
        extraction.mirrored,
        extraction.min_det_score,
        extraction.label_format,
        CHUNK,
    ]
    if extraction.which_faces != "found":  # chunks of earlier releases stay valid
        depends.append(extraction.which_faces)
    if extraction.varied:
        depends.append("varied")
    directory = work / hashlib.sha256(repr(depends).encode() + shard).hexdigest()[:16]
    return [directory / f"chunk-{number:04d}.npz" for number in range(-(-images // CHUNK))]


def write_chunk(path: Path, chunk: Chunk) -> None:
    write_npz(path, {field.name: getattr(chunk, field.name) for field in fields(chunk)})


def read_chunk(path: Path) -> Chunk:
    none = {
        "file_sha256": np.zeros((0, SHA256_BYTES), np.uint8),
        "image_hash": np.zeros((0, IMAGE_HASH_BYTES), np.uint8),
    }
    arrays = {**none, **read_npz(path)}
    if "chosen" in arrays:  # the name in release 0.1.0
        arrays["selected"] = arrays.pop("chosen")
    return Chunk(**{field.name: arrays[field.name] for field in fields(Chunk)})


def run_shard(
    data_dir: Path, extraction: Extraction, attempt: Attempt, *, shard: int, settings: TrainerSettings
) -> None:
    """Embed the images of a shard, and mark it as done.

    Raises `GivenUp` if the attempt must stop or the proxy is unavailable, and other problems of the proxy.
    """
    try:
        with BlockingFacesClient(
            settings.proxy_url, headers=settings.service_headers, patience=PATIENCE_SECONDS
        ) as client:
            images = embed_shard(
                data_dir, extraction, shard, client, attempt, in_flight=settings.extract_in_flight
            )
    except Problem as problem:
        if problem.retry_after is None:
            raise
        advance(data_dir, extraction, problem=problem.document())
        raise PutOff(problem.detail) from problem
    attempt.check()
    mark_shard_done(data_dir, extraction, shard, images)


def embed_shard(
    data_dir: Path,
    extraction: Extraction,
    shard: int,
    client: BlockingFacesClient,
    attempt: Attempt,
    *,
    in_flight: int,
) -> int:
    """Write the missing chunks of a shard, several at a time; return the number of images.

    Raises `GivenUp` if the attempt must stop, and the problems of `BlockingFacesClient`.
    """
    folder = dataset_folder(data_dir, extraction.dataset)
    label_format = require_format(folder)
    image_dir = label_format.image_dir(folder, extraction.image_set)
    work = work_dir(data_dir, extraction)
    content = shard_path(work, shard).read_bytes()
    images = shard_images(content)
    paths = chunk_paths(work, extraction, content, len(images))
    missing = [number for number, path in enumerate(paths) if not path.is_file()]

    def rows(number: int) -> slice:
        return slice(number * CHUNK, (number + 1) * CHUNK)

    def embed(number: int) -> int:
        attempt.check()
        chunk_images = images[rows(number)]
        chunk = embed_images(
            client,
            extraction,
            image_dir,
            data_dir,
            chunk_images,
            first_row=number * CHUNK,
            one_face_only=label_format.one_face_only,
        )
        write_chunk(paths[number], chunk)
        return len(chunk_images)

    progress = _ShardProgress(attempt, len(images), sum(len(images[rows(number)]) for number in missing))
    with ThreadPoolExecutor(in_flight, thread_name_prefix="embed") as pool:
        futures = [pool.submit(embed, number) for number in missing]
        try:
            for future in as_completed(futures):
                progress.advance(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return len(images)


class _ShardProgress:
    """Report the progress of a shard. Its rate counts only what this attempt embedded."""

    def __init__(self, attempt: Attempt, images: int, missing: int) -> None:
        self._attempt, self._images, self._missing = attempt, images, missing
        self._embedded = 0
        self._started = time.monotonic()
        self.advance(0)

    def advance(self, images: int) -> None:
        self._embedded += images
        running = 0 < self._embedded < self._missing
        rate = self._embedded / max(time.monotonic() - self._started, 1e-3) if running else None
        done = self._images - self._missing + self._embedded
        self._attempt.write({"done": done, "rate": rate, "at": time.time()}, last=not running)


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
    """Send the images of one chunk and select the labelled face of each.

    The requests depend on the images alone, never on what else is in flight. Raises what
    `BlockingFacesClient.faces` raises.

    data_dir : symbolic links may lead to files below it, or below the image folder.
    first_row : position of the first image in its shard.
    """
    roots = (image_dir.resolve(), data_dir.resolve())
    checked = [_readable(roots, image.file) for image in images]
    hashes: dict[Path, tuple[bytes, bytes]] = {}

    def read(path: Path) -> bytes:
        """Read the bytes to embed, and hash these very bytes."""
        content = path.read_bytes()
        hashes[path] = _hashes(content)
        return content

    contents = (read(path) for path in checked if isinstance(path, Path))
    answers = iter(client.faces(contents, extraction.space, FaceSelection(faces=extraction.which_faces)))
    kept: list[tuple[int, Path, ImageFaces, int]] = []
    removed: list[tuple[int, Reason]] = []
    for row, path in enumerate(checked, start=first_row):
        if isinstance(path, Reason):
            removed.append((row, path))
            continue
        outcome = _select_face(next(answers), extraction.min_det_score, one_face_only)
        if isinstance(outcome, Reason):
            removed.append((row, outcome))
        else:
            kept.append((row, path, *outcome))
    faces = [found.faces[index] for _, _, found, index in kept]
    mirrors = _second_faces(client, extraction, [path for _, path, *_ in kept], faces)
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
        selected=np.array([index for *_, index in kept], dtype=np.int32),
        mirror_found=np.array([mirror is not None for mirror in mirrors], dtype=np.bool_),
        file_sha256=hashed.file_sha256,
        image_hash=hashed.image_hash,
        removed_row=np.array([row for row, _ in removed], dtype=np.int32),
        reason=np.array([reason.value for _, reason in removed], dtype=np.str_),
    )


def _hashes(content: bytes) -> tuple[bytes, bytes]:
    """Hash an image. The hash of the bytes stands for the content if only the embedder can read the image."""
    try:
        return hash_image(content)
    except Problem:
        digest = hashlib.sha256(content).digest()
        return digest, digest + digest


def _readable(roots: Sequence[Path], file: str) -> Path | Reason:
    """Return the file behind a name in the first folder; links may lead to any of the folders."""
    try:
        # Archives made on a Mac write é as two characters, tables as one, or the other way round.
        forms = [roots[0] / form for form in (file, normalize("NFC", file), normalize("NFD", file))]
        path = next((form for form in forms if form.exists()), forms[0]).resolve()
        if not any(path.is_relative_to(root) for root in roots):
            return Reason.LINK_OUTSIDE
        if not path.is_file():
            return Reason.IMAGE_MISSING
        if path.stat().st_size > _LIMITS.max_bytes:
            return Reason.IMAGE_TOO_LARGE
    except RuntimeError:  # circular links
        return Reason.IMAGE_MISSING
    except OSError:
        return Reason.UNREADABLE_IMAGE
    return path if os.access(path, os.R_OK) else Reason.UNREADABLE_IMAGE


def _select_face(
    answer: ImageFaces | Problem, min_det_score: float, one_face_only: bool
) -> tuple[ImageFaces, int] | Reason:
    if isinstance(answer, Problem):
        if answer.slug == "invalid-request":  # not the image's fault: the embedder lacks an option
            raise answer
        return Reason.IMAGE_TOO_LARGE if answer.slug in _TOO_LARGE else Reason.UNREADABLE_IMAGE
    if not answer.faces:
        return Reason.NO_FACE
    if answer.faces[0].whole:
        return answer, 0
    if one_face_only and answer.faces_found > 1:
        return Reason.SEVERAL_FACES
    index = labelled_face(answer)
    if answer.faces[index].det_score < min_det_score:
        return Reason.LOW_DETECTION_SCORE
    return answer, index


def _second_faces(
    client: BlockingFacesClient, extraction: Extraction, paths: Sequence[Path], faces: Sequence[Face]
) -> list[Face | None]:
    """Return the faces in the mirrored or varied images, None for each not found; empty if neither is on."""
    if not extraction.twice:
        return []
    second, same = (_varied, same_face_varied) if extraction.varied else (_mirrored, same_face_mirrored)
    selection = FaceSelection(faces=extraction.which_faces)
    images = (second(path.read_bytes(), face) for path, face in zip(paths, faces, strict=True))
    answers = client.faces(images, extraction.space, selection)
    return [
        None if isinstance(answer, Problem) else same(face, answer)
        for face, answer in zip(faces, answers, strict=True)
    ]


def _mirrored(content: bytes, face: Face) -> bytes:
    """Return the upright image, left and right exchanged, as PNG."""
    return _png(decode(content, _LIMITS)[:, ::-1])


def _varied(content: bytes, face: Face) -> bytes:
    return _png(varied(decode(content, _LIMITS), face.bbox, hashlib.sha256(content).digest()))


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.copy()).save(file, "PNG", compress_level=1)
    return file.getvalue()


def labelled_face(image: ImageFaces) -> int:
    """Return the index of the largest face whose box contains the centre of the image, or of the nearest one.

    Data sets of faces are crops around the labelled face, which is therefore at the centre. A false detection
    may be nearer to the centre, but is smaller.
    """
    middle = np.array([image.width, image.height]) / 2
    boxes = np.array([face.bbox for face in image.faces])
    holds = (boxes[:, :2] <= middle).all(axis=1) & (middle <= boxes[:, 2:]).all(axis=1)
    if holds.any():
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        return int(np.argmax(np.where(holds, area, -1.0)))
    return int(np.argmin(np.linalg.norm((boxes[:, :2] + boxes[:, 2:]) / 2 - middle, axis=1)))


def same_face_mirrored(face: Face, mirrored: ImageFaces) -> Face | None:
    """Return the face of the mirrored image at the place of `face`, None if there is none."""
    x1, y1, x2, y2 = face.bbox
    flipped = (mirrored.width - x2, y1, mirrored.width - x1, y2)
    overlaps = [_overlap(flipped, other.bbox) for other in mirrored.faces]
    if not overlaps or max(overlaps) < _SAME_FACE:
        return None
    return mirrored.faces[int(np.argmax(overlaps))]


def same_face_varied(face: Face, image: ImageFaces) -> Face | None:
    """Return the face in the middle of the varied copy, which shows the surroundings of `face`; None if none.

    Of several it is the most similar one. A copy taken as one face counts only if the image was, too.
    """
    x, y = image.width / 2, image.height / 2
    central = [
        other
        for other in image.faces
        if other.whole == face.whole
        and other.bbox[0] <= x <= other.bbox[2]
        and other.bbox[1] <= y <= other.bbox[3]
    ]
    own = np.array(face.embedding)
    return max(central, key=lambda other: float(own @ np.array(other.embedding)), default=None)


def _overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(width, 0.0) * max(height, 0.0)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return common / (area - common) if area > common else 0.0
