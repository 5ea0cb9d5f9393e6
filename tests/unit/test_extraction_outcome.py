"""The user learns what an extraction removed, with counts and examples; each file is read once."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
from agegender.errors import Problem
from agegender.faces import EVERY_FACE, FaceSelection, ImageFaces
from agegender.labels import Gender
from agegender.spaces import Space
from agegender_service.faces_client import BlockingFacesClient
from trainer.datasets.catalog import datasets
from trainer.datasets.embedding_set import read_embedding_set, read_meta_data
from trainer.datasets.formats import require_format, tables
from trainer.datasets.labels import LabelledImage, Reason, removal_summary
from trainer.extraction.embed import embed_images, embed_shard
from trainer.extraction.extraction import (
    CHUNK,
    Extraction,
    ExtractionRequest,
    extraction_names,
    extraction_status,
    load_extraction,
    save_extraction,
    shard_dir,
    work_dir,
)
from trainer.extraction.merge import merge
from trainer.extraction.plan import fail, write_plan
from trainer.runs.attempt import Attempt

from tests.support.embedder_double import faces_of, whole

SPACE = Space(id="test-1", dimension=8)
NAME = "My faces (1)"
SIX = [f"{number}.jpg,{number},f" for number in range(6)]  # at least as many subjects as folds


class NoHttp(BlockingFacesClient):
    """Answers each image itself; bytes that begin with `no` have no face, with `two` two."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9", patience=300)

    def faces(self, images: Any, space: Space, selection: FaceSelection = EVERY_FACE) -> list[Any]:
        return [self._answer(image, space, selection) for image in images]

    @staticmethod
    def _answer(image: bytes, space: Space, selection: FaceSelection) -> ImageFaces:
        count = {b"no": 0, b"tw": 2}.get(image[:2], 1)
        found = faces_of(image, space, count)
        taken_whole = selection.takes_whole(count)
        return whole(found, faces_of(image, space), (100, 100)) if taken_whole else found


def extraction(**changes: Any) -> Extraction:
    options = {"label_format": "labels.csv", "image_set": "images", "mirrored": False, "shard_size": CHUNK}
    return Extraction(**{"dataset": NAME, "space": SPACE, "min_det_score": 0.0, **options, **changes})


def made(data_dir: Path, rows: list[str]) -> Path:
    """A data set of these rows (file, age, gender), each of its own subject, with images of their names."""
    folder = data_dir / NAME
    folder.mkdir(parents=True)
    lines = [f"{row},s{number}" for number, row in enumerate(rows)]
    tables.label_file(folder).write_text("\n".join(["file,age,gender,subject", *lines]) + "\n")
    for row in rows:
        name = row.split(",")[0]
        if not name.startswith(("gone", "/", "..", "link")):
            (folder / name.replace("\\", "/")).parent.mkdir(exist_ok=True)
            (folder / name.replace("\\", "/")).write_bytes(name.encode())
    return folder


def extracted(data_dir: Path, **changes: Any) -> Extraction:
    """Planned and embedded, ready to be merged."""
    planned = extraction(**changes)
    folder = data_dir / NAME
    kind = require_format(folder).with_gender_map(planned.genders)
    plan = write_plan(kind, folder, "images", planned.shard_size, work_dir(data_dir, planned))
    ready = planned.model_copy(update={"shards": plan.shards, "images": plan.images})
    with NoHttp() as client:
        for shard in range(plan.shards):
            embed_shard(
                data_dir,
                ready,
                shard,
                client,
                Attempt(shard_dir(data_dir, ready, shard)),
                in_flight=1,
            )
    return ready


def test_the_sentence_has_counts_and_first_examples_most_frequent_first() -> None:
    examples = {"no-face": "a/b.jpg", "age-out-of-range": "c.jpg"}
    sentence = removal_summary(295, {"age-out-of-range": 1, "no-face": 4}, examples)
    assert sentence == "295 of 300 faces (4 no-face, e.g. a/b.jpg; 1 age-out-of-range, e.g. c.jpg)"
    assert removal_summary(17_055, {}) == "17,055 of 17,055 faces"
    assert removal_summary(3, {"no-face": 1_000}) == "3 of 1,003 faces (1,000 no-face)"


@pytest.mark.parametrize(
    ("option", "kept"), [("found", 7), ("found-or-whole", 8), ("whole", 8)], ids=lambda value: str(value)
)
def test_images_without_a_face_are_kept_as_one_face_if_requested(
    tmp_path: Path, option: str, kept: int
) -> None:
    made(tmp_path, ["no.jpg,4,f", "two.jpg,5,m", *SIX])
    merge(tmp_path, extracted(tmp_path, which_faces=option, min_det_score=0.5))
    faces = read_embedding_set(tmp_path, NAME, SPACE, "images")
    assert len(faces) == kept and ("no.jpg" in faces.file) == (option != "found")
    assert read_meta_data(tmp_path, NAME, SPACE, "images")["which_faces"] == option


def test_chunks_of_one_option_are_not_used_for_another(tmp_path: Path) -> None:
    made(tmp_path, ["no.jpg,4,f", *SIX])
    extracted(tmp_path)
    merge(tmp_path, extracted(tmp_path, which_faces="whole"))
    assert len(read_embedding_set(tmp_path, NAME, SPACE, "images")) == 7


def test_embedder_without_the_option_ends_the_extraction(tmp_path: Path) -> None:
    class Older(NoHttp):
        def faces(self, images: Any, space: Space, selection: FaceSelection = EVERY_FACE) -> list[Any]:
            return [Problem("invalid-request", 422, "faces: not available") for _ in images]

    folder = made(tmp_path, ["one.jpg,3,f"])
    images = [LabelledImage("one.jpg", 3, 3, Gender.FEMALE, "s", 0)]
    with Older() as client, pytest.raises(Problem, match="not available"):
        embed_images(
            client, extraction(which_faces="whole"), folder, tmp_path, images, 0, one_face_only=False
        )


def test_everything_removed_is_in_the_meta_data_and_the_list_of_data_sets(tmp_path: Path) -> None:
    rows = [f"{number}.jpg,{number % 90},f" for number in range(CHUNK + 3)]
    rows += ["no1.jpg,3,f", "no2.jpg,3,f", "two.jpg,3,m", "gone.jpg,3,f", "old.jpg,120,f", "/etc/x.jpg,3,f"]
    rows += [r"sub\x.jpg,,m", "./0.jpg,3,f"]
    made(tmp_path, rows)
    outcome = merge(tmp_path, extracted(tmp_path))
    expected = (
        "37 of 43 faces (2 no-face, e.g. no1.jpg; 1 age-out-of-range, e.g. old.jpg: '120'; 1 bad-file-name, "
        "e.g. /etc/x.jpg; 1 image-missing, e.g. gone.jpg; 1 repeated-row, e.g. 0.jpg); 1 images with several "
        "faces, e.g. two.jpg; 1 without age, e.g. sub/x.jpg"
    )
    assert outcome.summary == expected
    meta_data = read_meta_data(tmp_path, NAME, SPACE, "images")
    assert meta_data["summary"] == expected
    assert meta_data["faces"] + sum(meta_data["removed"].values()) == len(rows)
    (listed,) = datasets(tmp_path)
    assert (listed.name, listed.extracted[0].summary) == (NAME, expected)


def test_meta_data_of_an_earlier_release_give_the_counts(tmp_path: Path) -> None:
    made(tmp_path, [f"{number}.jpg,{number},f" for number in range(20)])
    merge(tmp_path, extracted(tmp_path))
    path = tmp_path / NAME / SPACE.id / "meta-data-images.json"
    path.write_text('{"space": {"id": "test-1", "dimension": 8}, "faces": 20, "removed": {"no-face": 2}}')
    (listed,) = datasets(tmp_path)
    assert listed.extracted[0].summary == "20 of 22 faces (2 no-face)"


def test_images_that_are_all_absent_are_no_lack_of_faces(tmp_path: Path) -> None:
    made(tmp_path, ["gone/1.jpg,3,f", "gone/2.jpg,4,m", "old.jpg,120,m"])
    ready = extracted(tmp_path)
    with pytest.raises(Problem) as caught:
        merge(tmp_path, ready)
    assert caught.value.slug == "no-faces"
    assert (
        "0 of 3 faces (2 image-missing, e.g. gone/1.jpg; 1 age-out-of-range, e.g. old.jpg: '120')"
        in caught.value.detail
    )
    assert "Compare the file names" in caught.value.detail
    notes = tmp_path / NAME / SPACE.id / "removed-images.jsonl"
    assert len(notes.read_text().splitlines()) == 3
    save_extraction(tmp_path, ready)
    fail(tmp_path, ready, caught.value)
    (name,) = extraction_names(tmp_path / NAME)
    listed = load_extraction(tmp_path, name)
    assert listed.removed == {"image-missing": 2, "age-out-of-range": 1}
    assert listed.summary in caught.value.detail
    status = extraction_status(tmp_path, listed)
    assert status.removed_file is not None
    assert tmp_path / status.removed_file == notes


def test_faces_that_cannot_be_divided_into_folds_end_with_the_counts_too(tmp_path: Path) -> None:
    made(tmp_path, ["1.jpg,3,f", "no2.jpg,3,f"])
    with pytest.raises(Problem) as caught:
        merge(tmp_path, extracted(tmp_path))
    assert caught.value.slug == "too-few-subjects"
    assert caught.value.extra["summary"] == "1 of 2 faces (1 no-face, e.g. no2.jpg)"


def test_labels_that_leave_nothing_give_the_counts_and_what_to_do(tmp_path: Path) -> None:
    folder = made(tmp_path, [f"{number}.jpg,3,{number % 2}" for number in range(6)] + ["x.jpg,3,w"])
    with pytest.raises(Problem) as caught:
        write_plan(tables.FORMAT, folder, "images", CHUNK, tmp_path / "work")
    assert (
        "0 of 7 faces (6 gender-not-mapped, e.g. 0.jpg: '0'; 1 no-gender, e.g. x.jpg: 'w')"
        in caught.value.detail
    )
    assert "--gender 0=male --gender 1=female" in caught.value.detail
    assert caught.value.extra["removed"] == {"gender-not-mapped": 6, "no-gender": 1}


def test_a_map_of_genders_is_part_of_the_extraction(tmp_path: Path) -> None:
    made(tmp_path, [f"{number}.jpg,{number},{number % 2}" for number in range(20)])
    request = ExtractionRequest.model_validate({"genders": {"0": "female", "1": "male"}})
    outcome = merge(tmp_path, extracted(tmp_path, genders=request.genders))
    assert outcome.summary == "20 of 20 faces"
    faces = read_embedding_set(tmp_path, NAME, SPACE, "images")
    assert faces.gender.tolist() == [0, 1] * 10


def test_names_that_are_no_text_are_counted_and_harmless_to_show(tmp_path: Path) -> None:
    folder = tmp_path / NAME
    folder.mkdir()
    for name in (b"20_1_0_20170101000000000\xff.jpg", b"21_1_0_20170101000000000\x1b[2J.jpg"):
        Path(os.fsdecode(bytes(folder) + b"/" + name)).touch()
    (folder / "22_1_0_20170101000000000.jpg").write_bytes(b"no")
    with pytest.raises(Problem) as caught:
        merge(tmp_path, extracted(tmp_path, label_format="utkface"))
    shown = "0 of 3 faces (2 bad-file-name, e.g. 20_1_0_20170101000000000\N{REPLACEMENT CHARACTER}.jpg"
    assert shown in caught.value.detail and caught.value.detail.isprintable()
    assert len((folder / SPACE.id / "removed-images.jsonl").read_bytes().splitlines()) == 3


def test_links_are_followed_within_the_data_folder_and_no_further(tmp_path: Path) -> None:
    data_dir, outside = tmp_path / "data", tmp_path / "outside"
    folder = made(data_dir, ["1.jpg,3,f"])
    (data_dir / "other").mkdir()
    outside.mkdir()
    targets = {
        "link-inside.jpg": folder / "1.jpg",
        "link-other.jpg": data_dir / "other" / "2.jpg",
        "link-outside.jpg": outside / "3.jpg",
        "link-gone.jpg": folder / "4.jpg",
        "link-circle.jpg": folder / "link-circle.jpg",
    }
    for path in (data_dir / "other" / "2.jpg", outside / "3.jpg"):
        path.write_bytes(b"x")
    for name, target in targets.items():
        (folder / name).symlink_to(target)
    (folder / "link-relative.jpg").symlink_to("1.jpg")
    names = [*targets, "link-relative.jpg"]
    images = [LabelledImage(name, 3.0, 3.0, Gender.MALE) for name in names]
    with NoHttp() as client:
        chunk = embed_images(client, extraction(), folder, data_dir, images, 0, one_face_only=False)
    assert [names[row] for row in chunk.row] == ["link-inside.jpg", "link-other.jpg", "link-relative.jpg"]
    removed = {names[row]: str(reason) for row, reason in zip(chunk.removed_row, chunk.reason, strict=True)}
    assert removed == {
        "link-outside.jpg": Reason.LINK_OUTSIDE,
        "link-gone.jpg": Reason.IMAGE_MISSING,
        "link-circle.jpg": Reason.IMAGE_MISSING,
    }


@pytest.mark.parametrize(("in_folder", "in_table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_are_found_in_either_form_of_unicode(tmp_path: Path, in_folder: Any, in_table: Any) -> None:
    folder = made(tmp_path, [])
    (folder / normalize(in_folder, "José.jpg")).write_bytes(b"x")
    image = LabelledImage(normalize(in_table, "José.jpg"), 3.0, 3.0, Gender.MALE)
    with NoHttp() as client:
        chunk = embed_images(client, extraction(), folder, tmp_path, [image], 0, one_face_only=False)
    assert chunk.row.tolist() == [0]


_opened: Counter[str] | None = None


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        _opened[Path(os.fsdecode(arguments[0])).name] += 1


@contextmanager
def opened_files() -> Iterator[Counter[str]]:
    """Count how often the interpreter opens each file, by name."""
    global _opened
    if not getattr(_count, "hooked", False):
        sys.addaudithook(_count)  # cannot be removed; outside of a block it does nothing
        _count.hooked = True  # type: ignore[attr-defined]
    counted: Counter[str] = Counter()
    _opened = counted
    try:
        yield counted
    finally:
        _opened = None


def test_merge_opens_each_shard_and_each_chunk_once(tmp_path: Path) -> None:
    made(tmp_path, [f"{number}.jpg,{number % 90},f" for number in range(4 * CHUNK + 5)])
    ready = extracted(tmp_path, shard_size=2 * CHUNK)
    with opened_files() as opened:
        merge(tmp_path, ready)
    inputs = {name: count for name, count in opened.items() if name.startswith(("shard-", "chunk-"))}
    assert inputs == {
        **{f"shard-{number:05d}.json": 1 for number in range(3)},
        "chunk-0000.npz": 3,  # of each shard
        "chunk-0001.npz": 2,
    }


def test_merge_of_unfinished_shards_names_them_and_writes_nothing(tmp_path: Path) -> None:
    made(tmp_path, [f"{number}.jpg,{number % 90},f" for number in range(3 * CHUNK)])
    ready = extracted(tmp_path)
    shards = sorted(work_dir(tmp_path, ready).glob("*/chunk-0000.npz"))
    shards[0].unlink()
    with pytest.raises(Problem) as caught:
        merge(tmp_path, ready)
    assert caught.value.slug == "extraction-incomplete"
    assert len(caught.value.extra["shards"]) == 1
    folder = tmp_path / NAME / SPACE.id
    assert not list(folder.glob("data-*")) and not list(folder.glob("removed-*"))


def test_merge_keeps_the_rows_in_order_when_images_between_them_are_removed(tmp_path: Path) -> None:
    rows = [f"{'no' if number % 3 == 0 else ''}{number}.jpg,{number % 90},f" for number in range(3 * CHUNK)]
    made(tmp_path, rows)
    merge(tmp_path, extracted(tmp_path))
    faces = read_embedding_set(tmp_path, NAME, SPACE, "images")
    assert faces.file.tolist() == [f"{number}.jpg" for number in range(3 * CHUNK) if number % 3]
    for file, embedding in zip(faces.file, faces.embedding, strict=True):
        expected = faces_of(str(file).encode(), SPACE).faces[0].embedding
        assert np.allclose(embedding, expected)
