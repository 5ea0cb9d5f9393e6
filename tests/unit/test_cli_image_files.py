"""Which files `agegender predict` takes, which it skips and why, and where it writes."""

import io
import os
import sys
from pathlib import Path

import pytest
from agegender_client.cli import image_files
from agegender_client.cli.image_files import found_files, planned_outputs, why_no_image
from PIL import Image
from pillow_heif import register_heif_opener

VIDEO = b"\0\0\0\x18ftypisom\0\0\0\0isommp41" + bytes(20)


register_heif_opener()  # the command line itself reads no pixels


def image(path: Path, form: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "grey").save(path, form)
    return path


def encoded(form: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "grey").save(file, form)
    return file.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF"])
def test_image_is_known_by_its_content_whatever_its_name(form: str) -> None:
    assert why_no_image(encoded(form)[:32], "") is None
    assert why_no_image(encoded(form)[:32], ".txt") is None


@pytest.mark.parametrize(
    ("head", "suffix", "reason"),
    [
        (b"", ".jpg", image_files.EMPTY),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ".jpg", None),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif" + bytes(4), ".avif", None),
        (VIDEO[:32], ".mp4", image_files.VIDEO),
        (VIDEO[:32], ".jpg", image_files.VIDEO),
        (b"\x1aE\xdf\xa3" + bytes(20), ".webm", image_files.VIDEO),
        (b"file,age,gender\n", ".csv", image_files.OTHER),
        (b"BMW is a maker of cars", "", image_files.OTHER),
        (b"damaged", ".jpg", None),
        (b"damaged", ".JFIF", None),
    ],
)
def test_other_content_is_named(head: bytes, suffix: str, reason: str | None) -> None:
    assert why_no_image(head, suffix) == reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_file_without_permission_is_skipped_with_the_reason(tmp_path: Path) -> None:
    image(tmp_path / "a.png").chmod(0)
    assert "cannot be read: Permission denied" in found_files([tmp_path]).summary()


def test_folder_is_searched_to_the_bottom_and_what_is_skipped_is_named(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/noending", "a/1.JFIF", "a/deep/3.png"):
        image(tmp_path / name)
    (tmp_path / "one.mp4").write_bytes(VIDEO)
    (tmp_path / "two.jpg").write_bytes(VIDEO)
    (tmp_path / "labels.csv").write_text("file,age")
    (tmp_path / "empty.jpg").touch()
    image(tmp_path / "._1.png")
    image(tmp_path / ".thumbnails/1.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "twin.png").symlink_to(tmp_path / "b/2.png")
    found = found_files([tmp_path])
    names = ["a/1.JFIF", "a/deep/3.png", "b/2.png", "b/noending", "twin.png"]
    assert [str(file.shown) for file in found.files] == names
    assert {reason: len(paths) for reason, paths in found.skipped.items()} == {
        image_files.VIDEO: 2,
        image_files.OTHER: 1,
        image_files.EMPTY: 1,
        image_files.HIDDEN: 2,
        image_files.LINK: 1,
        image_files.SPECIAL: 1,
        "cannot be read: No such file or directory": 1,
    }
    summary = found.summary()
    assert summary.startswith("Skipped 9 files: 2 ") and summary.count("\n") == 0
    assert "video; use agegender video FILE" in summary and "one.mp4, …" in summary
    assert "1 not an image (" in summary and found.missed == {tmp_path / "gone.jpg"}


def test_named_file_that_is_skipped_is_counted_and_a_repeated_one_is_not(tmp_path: Path) -> None:
    good = image(tmp_path / "a.png")
    (tmp_path / "b.mp4").write_bytes(VIDEO)
    found = found_files([good, tmp_path / "b.mp4", good, tmp_path])
    assert [file.path for file in found.files] == [good] and len(found.missed) == 1
    assert found.skipped[image_files.AGAIN] == [good, good, tmp_path / "b.mp4"]


def outputs(given: list[Path], folder: Path) -> list[str]:
    files = found_files(given, folder).files
    planned = planned_outputs(files, folder)
    assert list(planned) == [file.path for file in files] and len(set(planned.values())) == len(files)
    return [path.relative_to(folder).as_posix() for path in planned.values()]


def test_outputs_mirror_the_folder(tmp_path: Path) -> None:
    for name in ("in/a/1.png", "in/b/1.png", "in/1.png"):
        image(tmp_path / name)
    mirrored = ["1-annotated.png", "a/1-annotated.png", "b/1-annotated.png"]
    assert outputs([tmp_path / "in"], tmp_path / "out") == mirrored


def test_outputs_of_several_folders_begin_with_their_names(tmp_path: Path) -> None:
    for name in ("x/1.png", "y/1.png", "z/x/1.png"):
        image(tmp_path / name)
    named = outputs([tmp_path / "x", tmp_path / "y", tmp_path / "z/x"], tmp_path / "out")
    assert named == ["x/1-annotated.png", "y/1-annotated.png", "x/1.png-annotated.png"]


def test_images_of_one_stem_get_names_that_differ_on_every_file_system(tmp_path: Path) -> None:
    for name, form in (
        ("a.jpg", "JPEG"),
        ("a.png", "PNG"),
        ("A.PNG", "PNG"),
        ("\u00e9.png", "PNG"),
        ("e\u0301.png", "PNG"),
    ):
        image(tmp_path / "in" / name, form)
    named = outputs([tmp_path / "in"], tmp_path / "out")
    assert len({name.casefold() for name in named}) == len(named) == 5
    assert {"A-annotated.png", "a.jpg-annotated.png", "a.png-annotated.png"} <= set(named)
    single = [image(tmp_path / folder / "1.png") for folder in ("p", "q", "r")]
    assert outputs(single, tmp_path / "out") == [
        *("1-annotated.png", "1.png-annotated.png", "1.png-annotated-2.png")
    ]


def test_output_never_takes_the_place_of_an_input(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "a-annotated.png")
    assert outputs([tmp_path], tmp_path) == ["a-annotated-annotated.png", "a.png-annotated.png"]


def test_outputs_inside_the_folder_are_no_inputs_of_the_next_run(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "out/a-annotated.png")
    found = found_files([tmp_path], tmp_path / "out")
    assert [file.shown for file in found.files] == [Path("a.png")] and image_files.OUTPUT in found.skipped


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
def test_name_that_is_no_text_can_be_shown(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4"))
    path.write_bytes(VIDEO)
    assert "\ufffd.mp4" in found_files([tmp_path]).summary().encode().decode()
