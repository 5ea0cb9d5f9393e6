"""An extraction of an earlier release gets hashes, subjects and folds from its images and labels."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from agegender.errors import Problem
from agegender.files import read_npz, write_npz
from agegender.spaces import Space
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from trainer.datasets.duplicates import hash_files, hash_image, photograph_groups
from trainer.datasets.embedding_set import EmbeddingSet, read_embedding_set, read_labels, write_embedding_set
from trainer.datasets.regrouping import contact_sheet, read_groups, regroup

SPACE = Space(id="buffalo_sc-5", dimension=16)
HUMAN = Space(id="human-2", dimension=2304)


def scene(seed: int) -> Image.Image:
    """Return a blurred image of coloured noise, as different from others as photographs are."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((160, 160), Image.Resampling.BICUBIC).filter(ImageFilter.BLUR)


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return content.getvalue()


def old_extraction(data_dir: Path, space: Space = SPACE, count: int = 30) -> EmbeddingSet:
    """Images with labels, extracted by a release that wrote no hashes; the last is a copy of the first."""
    folder = data_dir / "faces"
    folder.mkdir(exist_ok=True)
    for number in range(count - 1):
        (folder / f"{number}.jpg").write_bytes(jpeg(scene(number)))
    (folder / f"{count - 1}.jpg").write_bytes(jpeg(ImageOps.mirror(scene(0)).resize((90, 90)), 50))
    names = [f"{number}.jpg" for number in range(count)]
    rows = "".join(f"{name},{20 + number},f\n" for number, name in enumerate(names))
    (folder / "labels.csv").write_text("file,age,gender\n" + rows)
    embedding = np.random.default_rng(1).normal(size=(count, space.dimension)).astype(np.float32)
    faces = EmbeddingSet(
        space=space,
        file=np.array(names),
        embedding=embedding / np.linalg.norm(embedding, axis=1, keepdims=True),
        age_low=np.arange(20, 20 + count, dtype=np.float32),
        age_high=np.arange(20, 20 + count, dtype=np.float32),
        gender=np.zeros(count, np.int8),
        subject=np.array(["near-duplicates-000000"] * 20 + [""] * (count - 20)),
        fold=(np.arange(count) % 5).astype(np.int16),
        embedding_mirrored=np.zeros((0, space.dimension), np.float32),
    )
    meta_data = {"kind": "labels.csv", "folds": "5, stratified", "images": count, "near_duplicates": {}}
    write_embedding_set(data_dir, "faces", "images", faces, meta_data)
    path = folder / space.id / "data-images.npz"
    arrays = read_npz(path)
    write_npz(path, {name: arrays[name] for name in list(arrays)[:8]})
    return faces


def test_an_old_extraction_is_completed_without_embedding(tmp_path: Path) -> None:
    old = old_extraction(tmp_path)
    with pytest.raises(Problem, match="agegender regroup faces"):
        read_groups(tmp_path, "faces", SPACE, "images")
    meta_data = regroup(tmp_path, "faces", SPACE, "images")
    assert (meta_data["images"], meta_data["subjects"]) == (30, 29)
    faces = read_embedding_set(tmp_path, "faces", SPACE, "images")
    assert (faces.embedding == old.embedding).all()
    assert faces.has_hashes
    first = (tmp_path / "faces" / "0.jpg").read_bytes()
    assert faces.file_sha256[0].tobytes() == hashlib.sha256(first).digest()
    assert faces.subject[0] == faces.subject[29] != ""
    assert faces.fold[0] == faces.fold[29]
    assert (faces.subject[1:29] == "").all()  # what the earlier release took for one person is not
    [group] = read_groups(tmp_path, "faces", SPACE, "images")
    assert (group["files"], group["found_by"]) == (["0.jpg", "29.jpg"], "photographs")
    sheet = Image.open(io.BytesIO(contact_sheet(tmp_path / "faces", [group, {**group, "files": ["gone"]}])))
    assert sheet.format == "JPEG"
    before = (tmp_path / "faces" / SPACE.id / "data-images.npz").read_bytes()
    regroup(tmp_path, "faces", SPACE, "images")
    assert (tmp_path / "faces" / SPACE.id / "data-images.npz").read_bytes() == before


def test_subjects_and_folds_of_changed_labels_are_taken_over(tmp_path: Path) -> None:
    old_extraction(tmp_path)
    rows = "".join(f"{number}.jpg,30,f,s{number // 3},{number // 3 % 4}\n" for number in range(30))
    (tmp_path / "faces" / "labels.csv").write_text("file,age,gender,subject,fold\n" + rows)
    meta_data = regroup(tmp_path, "faces", SPACE, "images")
    assert meta_data["folds"] == "of the data set"
    faces = read_labels(tmp_path, "faces", SPACE, "images")
    assert (faces.fold == np.arange(30) // 3 % 4).all()
    assert faces.subject[4] == "s1"
    assert faces.subject[29] == faces.subject[0] == "s0"  # a copy joins both names


def test_names_that_a_copy_joined_are_found_again_when_the_labels_are_gone(tmp_path: Path) -> None:
    old_extraction(tmp_path)
    rows = "".join(f"{number}.jpg,30,f,s{number // 3}\n" for number in range(30))
    (tmp_path / "faces" / "labels.csv").write_text("file,age,gender,subject\n" + rows)
    regroup(tmp_path, "faces", SPACE, "images")
    faces = read_labels(tmp_path, "faces", SPACE, "images")
    assert faces.subject[27] == "s0" and faces.labelled_subject[27] == "s9"
    (tmp_path / "faces" / "labels.csv").unlink()
    regroup(tmp_path, "faces", SPACE, "images", near_duplicates="off")
    faces = read_labels(tmp_path, "faces", SPACE, "images")
    assert (faces.subject == faces.labelled_subject).all()
    assert faces.subject.tolist() == [f"s{number // 3}" for number in range(30)]


def test_subjects_of_another_space_are_taken_over(tmp_path: Path) -> None:
    old = old_extraction(tmp_path, HUMAN)
    embedding = old.embedding.copy()
    embedding[5] = embedding[6]  # one person
    write_embedding_set(
        tmp_path, "faces", "images", EmbeddingSet(**{**vars(old), "embedding": embedding}), {}
    )
    assert regroup(tmp_path, "faces", HUMAN, "images")["subjects"] == 28
    old_extraction(tmp_path, SPACE)
    with pytest.raises(Problem) as caught:
        regroup(tmp_path, "faces", SPACE, "images", near_duplicates="persons")
    assert caught.value.slug == "no-recogniser"
    assert regroup(tmp_path, "faces", SPACE, "images", subjects_from="human-2")["subjects"] == 28
    human, other = (read_labels(tmp_path, "faces", space, "images") for space in (HUMAN, SPACE))
    assert (human.subject == other.subject).all()
    with pytest.raises(Problem, match="no subjects in the space 'absent-1'"):
        regroup(tmp_path, "faces", SPACE, "images", subjects_from="absent-1")


def test_missing_images_are_counted_and_named(tmp_path: Path) -> None:
    old_extraction(tmp_path)
    (tmp_path / "faces" / "7.jpg").unlink()
    with pytest.raises(Problem, match="1 of 30 images") as caught:
        regroup(tmp_path, "faces", SPACE, "images")
    assert (caught.value.slug, caught.value.extra["files"]) == ("missing-images", ["7.jpg"])
    assert not read_labels(tmp_path, "faces", SPACE, "images").has_hashes


@pytest.mark.parametrize("made", ["compressed", "smaller", "brighter", "mirrored", "grey", "png"])
def test_a_made_copy_is_a_copy_and_another_scene_is_not(tmp_path: Path, made: str) -> None:
    image = scene(1)
    content = {
        "compressed": lambda: jpeg(image, 25),
        "smaller": lambda: jpeg(image.resize((70, 70))),
        "brighter": lambda: jpeg(ImageEnhance.Brightness(image).enhance(1.2)),
        "mirrored": lambda: jpeg(ImageOps.mirror(image)),
        "grey": lambda: jpeg(image.convert("L").convert("RGB")),
        "png": lambda: png(image),
    }[made]()
    (tmp_path / "a").write_bytes(jpeg(image))
    (tmp_path / "b").write_bytes(content)
    (tmp_path / "c").write_bytes(jpeg(scene(2)))
    hashes = hash_files(tmp_path, ["a", "b", "c"])
    assert photograph_groups(hashes.file_sha256, hashes.image_hash).tolist() == [0, 0, 2]
    assert hash_image(content)[0] == hashlib.sha256(content).digest()


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()
