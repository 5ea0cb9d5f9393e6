"""`agegender predict` and `models` against a predictor that runs."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.command_line import Run
from tests.support.embedder_double import SPACE, EmbedderDouble
from tests.support.made_heads import promoted_heads


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "inner").mkdir(parents=True)
    for name in ("one.png", "inner/two.PNG"):
        Image.new("RGB", (100, 100), "grey").save(folder / name, "PNG")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def proxy(proxy: EmbedderDouble) -> EmbedderDouble:
    proxy.faces = 2
    return proxy


def printed(out: str) -> list[Any]:
    """The JSON lines; the predictor, which runs in this process, logs between them."""
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def test_folder_is_answered_image_by_image(run: Run, images: Path) -> None:
    code, out, _ = run("predict", str(images))
    assert code == 0 and "one.png" in out and "two.PNG" in out and "notes" not in out
    code, out, _ = run("predict", str(images), "--json", "--max-faces", "1", "--coverage", "0.5")
    lines = printed(out)
    assert [Path(line["file"]).name for line in lines] == ["two.PNG", "one.png"]
    assert [len(line["faces"]) for line in lines] == [1, 1]
    assert lines[0]["faces"][0]["age"]["coverage"] == 0.5


def test_images_of_cropped_faces_are_answered_whole(run: Run, images: Path, proxy: EmbedderDouble) -> None:
    _, out, _ = run("predict", str(images), "--json", "--faces", "whole")
    assert [[face["whole"] for face in line["faces"]] for line in printed(out)] == [[True], [True]]
    proxy.faces = 0
    code, out, _ = run("predict", str(images), "--faces", "found-or-whole")
    assert code == 0 and "undetected" in out
    code, _, err = run("predict", str(images), "--faces", "all")
    assert code == 2 and "found-or-whole" in err


def test_turned_images_are_shown_with_their_rotation(run: Run, images: Path, proxy: EmbedderDouble) -> None:
    proxy.rotation = 270
    _, out, _ = run("predict", str(images / "one.png"))
    assert "one.png turned 270°" in out
    _, out, _ = run("predict", str(images / "one.png"), "--json")
    assert '"rotation": 270' in out


def test_annotated_images_are_written(run: Run, images: Path, tmp_path: Path) -> None:
    code, _, _ = run("predict", str(images / "one.png"), "--annotate", str(tmp_path / "out"))
    assert code == 0
    assert Image.open(tmp_path / "out" / "one-annotated.png").size == (100, 100)


def test_annotated_images_mirror_the_folder_and_replace_nothing_unasked(
    run: Run, tmp_path: Path, proxy: EmbedderDouble
) -> None:
    for name, colour in (("in/a/1.png", "red"), ("in/b/1.png", "blue"), ("in/b/1.bmp", "green")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 100), colour).save(tmp_path / name)
    proxy.faces = 0
    arguments = ("predict", str(tmp_path / "in"), "--annotate", str(tmp_path / "out"))
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    written = {Path(line["file"]).relative_to(tmp_path): line["annotated"] for line in printed(out)}
    colours = {name: Image.open(path).getpixel((50, 50)) for name, path in written.items()}
    expected = {"in/a/1.png": (255, 0, 0), "in/b/1.bmp": (0, 128, 0), "in/b/1.png": (0, 0, 255)}
    assert colours == {Path(name): colour for name, colour in expected.items()}
    assert sorted(
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")
    ) == [*("a/1-annotated.png", "b/1-annotated.png", "b/1.png-annotated.png")]
    (tmp_path / "out/a/1-annotated.png").write_text("mine")
    code, out, err = run(*arguments)
    assert code == 2 and "--overwrite" in err and (tmp_path / "out/a/1-annotated.png").read_text() == "mine"
    assert run(*arguments, "--overwrite")[0] == 0
    assert Image.open(tmp_path / "out/a/1-annotated.png").size == (100, 100)


def test_table_names_images_by_their_place_in_the_folder(run: Run, tmp_path: Path) -> None:
    for name in ("in/a/1.png", "in/b/[red]1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 100)).save(tmp_path / name)
    code, out, _ = run("predict", str(tmp_path / "in"))
    assert code == 0 and "a/1.png" in out and "b/[red]1.png" in out


def test_skipped_files_are_named_and_only_skipped_files_end_with_one(run: Run, images: Path) -> None:
    video = b"\0\0\0\x18ftypisom\0\0\0\0isommp41"
    (images / "phone.MP4").write_bytes(video)
    code, out, err = run("predict", str(images))
    (line,) = [line for line in err.splitlines() if line.startswith("Skipped")]
    assert code == 0 and "one.png" in out
    assert "2 files" in line and "video; use agegender video" in line and "notes.txt" in line
    (images / "only").mkdir()
    (images / "only" / "phone.mp4").write_bytes(video)
    code, out, err = run("predict", str(images / "only"), "--json")
    assert (code, printed(out)) == (1, []) and "video; use agegender video" in err
    code, out, _ = run("predict", str(images / "one.png"), str(images / "phone.MP4"))
    assert code == 1 and "one.png" in out  # what was named itself is missed
    (images / "nothing").mkdir()
    assert run("predict", str(images / "nothing"))[0] == 1


def test_removed_option_names_the_command_that_replaced_it(run: Run) -> None:
    code, _, err = run("predict", "--webcam", "0")
    assert code == 2 and "agegender video 0" in err


def test_output_that_cannot_be_written_is_reported(run: Run, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert run("predict", str(images), "--annotate", str(tmp_path / "file"))[0] == 2
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "inner").write_text("no folder")
    code, _, err = run("predict", str(images), "--annotate", str(tmp_path / "out"))
    assert code == 1 and "cannot be written" in err and "Traceback" not in err


def test_bad_image_is_printed_with_the_good_ones_and_ends_with_one(
    run: Run, images: Path, proxy: EmbedderDouble
) -> None:
    (images / "bad.jpg").write_bytes(b"bad")
    proxy.broken = lambda image: image == b"bad"
    code, out, _ = run("predict", str(images), "--json")
    entries = {Path(line["file"]).name: line for line in printed(out)}
    assert code == 1
    assert entries["bad.jpg"]["problem"]["status"] == 422 and len(entries["one.png"]["faces"]) == 2


def test_models_are_listed_and_rolled_back(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("models")
    assert code == 0 and SPACE.id in out and "v1" in out
    promoted_heads(tmp_path / "models", SPACE, "v2")
    code, out, _ = run("rollback", "gender", "--json")
    (answer,) = printed(out)
    assert {head["task"]: head["version"] for head in answer["models"]}["gender"] == "v1"
    code, _, err = run("rollback", "gender")
    assert code == 1 and "no previous gender head" in err and "Promote an experiment" in err
    code, out, err = run("rollback", "age")
    assert code == 0 and "v1" in out and "agegender promote ID" in err
    code, _, err = run("rollback", "gender", "--space", "nowhere-1")
    assert code == 1 and "nowhere-1" in err


def test_predictions_are_written_as_a_table_with_a_row_per_face(
    run: Run, images: Path, proxy: EmbedderDouble, tmp_path: Path
) -> None:
    (images / "damaged.jpg").write_bytes(b"bad")
    proxy.broken = lambda image: image == b"bad"
    table = tmp_path / "faces.csv"
    code, out, err = run("predict", str(images), "--csv", str(table), "--coverage", "0.8")
    assert code == 1 and "one.png" not in out and "faces.csv" in err
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["face"]) for row in rows] == [
        ("damaged.jpg", ""),
        *[(name, number) for name in ("inner/two.PNG", "one.png") for number in "12"],
    ]
    assert rows[0]["problem"] and not rows[1]["problem"]
    code, out, _ = run("predict", str(images / "one.png"), "--json", "--coverage", "0.8")
    expected = printed(out)[0]["faces"][0]
    assert float(rows[3]["mean"]) == expected["age"]["mean"] and rows[3]["coverage"] == "0.8"
    assert float(rows[3]["p_female"]) == expected["gender"]["probability"]["female"]
    assert [float(rows[3][name]) for name in ("x1", "y1", "x2", "y2")] == expected["bbox"]
    code, _, err = run("predict", str(images), "--csv", str(table))
    assert code == 2 and "--overwrite" in err
    assert run("predict", str(images / "one.png"), "--csv", str(table), "--overwrite")[0] == 0
    assert run("predict", str(images / "one.png"), "--csv", str(tmp_path / "no" / "f.csv"))[0] == 1
