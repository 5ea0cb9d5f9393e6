"""`agegender video` against a predictor that runs: files, damaged files, Ctrl-C, a camera."""

import csv
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.support.command_line import Run
from tests.support.embedder_double import SPACE, EmbedderDouble
from tests.support.made_videos import quartered, write_sound, write_video
from tests.support.rtsp_server import rtsp_server


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two seconds that change all the time, so that no frame is a copy."""
    frames = [np.roll(quartered(), index, axis=1) for index in range(20)]
    return write_video(tmp_path / "clip.mp4", frames)


def printed(out: str) -> list[Any]:
    return [json.loads(line) for line in out.splitlines() if line.startswith("{") and '"event"' not in line]


def test_video_has_one_answer_per_person(run: Run, clip: Path, proxy: EmbedderDouble) -> None:
    code, out, err = run("video", str(clip), "--json", "--coverage", "0.8")
    (answer,) = printed(out)
    assert code == 0, err
    assert answer["complete"] and answer["file"] == "clip.mp4" and answer["searched_frames"] == 5
    (person,) = answer["persons"]
    assert (person["first"], person["last"], person["seconds_visible"]) == (0, 1.6, 1.6)
    assert person["age"]["coverage"] == 0.8 and person["faces"] == 5 and person["effective_faces"] > 1
    assert "embedding" not in person and sum(proxy.batches) == 5
    (with_embedding,) = printed(run("video", str(clip), "--json", "--embeddings")[1])
    assert len(with_embedding["persons"][0]["embedding"]) == SPACE.dimension
    code, out, _ = run("video", str(clip), "--every", "1")
    assert code == 0 and "0:00.0" in out and "0:01.0" in out


def test_table_copy_and_plot_are_written(run: Run, clip: Path, tmp_path: Path) -> None:
    table, copy, plot = tmp_path / "persons.csv", tmp_path / "copy.mp4", tmp_path / "plot.svg"
    outputs = ("--csv", str(table), "--annotate", str(copy), "--summary", str(plot))
    code, _, err = run("video", str(clip), *outputs)
    assert code == 0, err
    (row,) = csv.DictReader(table.open())
    assert row["person"] == "1" and float(row["interval_low"]) <= float(row["mean"])
    assert "1 person in 2 s" in plot.read_text()
    with av.open(str(copy)) as annotated, av.open(str(clip)) as original:
        drawn = [frame.to_ndarray(format="rgb24") for frame in annotated.decode(video=0)]
        plain = [frame.to_ndarray(format="rgb24") for frame in original.decode(video=0)]
    assert len(drawn) == 20 and drawn[0].shape == plain[0].shape
    changed = [np.abs(one.astype(int) - other).max() > 100 for one, other in zip(drawn, plain, strict=True)]
    assert all(changed[:17])  # until the last sighting
    code, _, err = run("video", str(clip), *outputs)
    assert code == 2 and "--overwrite" in err
    assert run("video", str(clip), *outputs, "--overwrite", "--until", "0.5")[0] == 0
    assert "1 person in 0 s" in plot.read_text()
    code, _, err = run("video", str(clip), "--annotate", str(tmp_path / "copy.gif"))
    assert code == 2 and ".mp4" in err
    code, _, err = run("video", str(clip), "--annotate", str(clip), "--overwrite")
    assert code == 2 and "is the video itself" in err


def test_outputs_follow_links_and_are_checked_before_the_video_is_read(
    run: Run, clip: Path, tmp_path: Path, proxy: EmbedderDouble
) -> None:
    for option, name in (("--csv", "t.csv"), ("--summary", "p.svg"), ("--annotate", "c.mp4")):
        code, _, err = run("video", str(clip), option, str(tmp_path / "missing" / name))
        assert code == 1 and err.startswith("Output not writable.") and not proxy.batches
    assert run("video", str(clip), "--csv", str(tmp_path))[0] == 1
    assert not (tmp_path / "missing").exists()
    (tmp_path / "inner").mkdir()
    for name in ("t.csv", "c.mp4"):
        (tmp_path / "inner" / name).write_text("old")
        (tmp_path / name).symlink_to(f"inner/{name}")
    outputs = ("--csv", str(tmp_path / "t.csv"), "--annotate", str(tmp_path / "c.mp4"))
    assert run("video", str(clip), *outputs)[0] == 2
    assert run("video", str(clip), *outputs, "--overwrite")[0] == 0
    assert all((tmp_path / name).is_symlink() for name in ("t.csv", "c.mp4"))
    assert (tmp_path / "inner/t.csv").read_text().startswith("person,")
    assert (tmp_path / "inner/c.mp4").stat().st_size > 1000
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()), daemon=True)
    reader.start()
    assert run("video", str(clip), "--annotate", str(pipe))[0] == 0
    reader.join(10)
    assert pipe.is_fifo() and received[0][4:8] == b"ftyp"


def test_video_of_which_nothing_was_searched_keeps_the_old_table(
    run: Run, clip: Path, tmp_path: Path, proxy: EmbedderDouble
) -> None:
    table = tmp_path / "t.csv"
    table.write_text("old")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    proxy.broken = lambda image: os.kill(os.getpid(), signal.SIGINT) or True  # type: ignore[func-returns-value]
    assert run("video", str(clip), "--csv", str(table), "--overwrite")[0] == 1
    assert table.read_text() == "old"


def test_truncated_video_is_answered_and_marked(run: Run, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(100, 150, (40, 64, 96, 3), dtype=np.uint8)
    path = write_video(tmp_path / "cut-off.mkv", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, out, _ = run("video", str(path), "--json")
    (answer,) = printed(out)
    assert code == 1 and not answer["complete"] and len(answer["persons"]) == 1
    assert answer["problem"]["type"].endswith("video-incomplete")
    code, _, err = run("video", str(path), "--until", "1")
    assert code == 0, err  # that second is complete


def test_what_is_no_video_is_reported(run: Run, tmp_path: Path) -> None:
    code, _, err = run("video", str(write_sound(tmp_path / "song.m4a")))
    assert code == 1 and "no video" in err
    code, _, err = run("video", str(tmp_path / "missing.mp4"))
    assert code == 1 and "not a file" in err
    code, _, err = run("video", "https://example.org/film.mp4")
    assert code == 1 and "Download the video first" in err
    code, _, err = run("video", "/dev/video99")
    assert code == 1 and "/dev/video99" in err
    assert run("video", "0", "--annotate", str(tmp_path / "copy.mp4"))[0] == 2


def test_interrupted_video_prints_what_was_found(run: Run, clip: Path, proxy: EmbedderDouble) -> None:
    interrupted: list[bool] = []

    def interrupt(image: bytes) -> bool:
        if len(proxy.batches) >= 6 and not interrupted:
            interrupted.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return False

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if pytest runs in the background
    proxy.broken = interrupt
    code, out, _ = run("video", str(clip), "--json", "--every", "0.1")
    (answer,) = printed(out)
    assert code == 1 and not answer["complete"] and "problem" not in answer
    assert 1 <= answer["searched_frames"] < 20 and len(answer["persons"]) == 1


def test_predictor_that_stops_leaves_the_answers_until_then(
    run: Run, clip: Path, proxy: EmbedderDouble
) -> None:
    proxy.broken = lambda image: len(proxy.batches) >= 6
    code, out, _ = run("video", str(clip), "--json", "--every", "0.1")
    (answer,) = printed(out)
    assert code == 1 and not answer["complete"] and answer["problem"]["status"] == 422
    assert len(answer["persons"]) == 1


def test_camera_is_answered_as_it_is_watched(run: Run, tmp_path: Path) -> None:
    frames = [np.roll(quartered(), index, axis=1) for index in range(50)]
    stream = write_video(tmp_path / "camera.ts", frames, "mpeg2video", rate=25)
    with rtsp_server(stream, seconds=2.0) as address:
        code, out, err = run("video", address, "--json", "--every", "0.2", "--until", "1.5")
    *moments, answer = printed(out)
    assert code == 0, err
    assert moments and all(len(moment["faces"]) == 1 for moment in moments)
    assert [moment["seconds"] for moment in moments] == sorted(moment["seconds"] for moment in moments)
    assert answer["video"]["live"] and len(answer["persons"]) == 1 and answer["file"] == address
