"""A video answered once per person by a real trainer, worker, predictor and embedder."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.made_videos import write_video
from tests.support.serving import until
from tests.support.trainer_processes import Trainer, running_trainer
from tools.stack import PHOTOGRAPH, Stack

SECONDS, RATE = 6, 5
OPTIONS: dict[str, str | float] = {"segment_seconds": 2, "every": 0.5, "annotated": "true"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people whom the camera passes."""
    with Image.open(PHOTOGRAPH) as opened:
        image = np.asarray(opened.convert("RGB").resize((640, 443)))
    frames = [image[4:436, 2 * step : 2 * step + 560] for step in range(SECONDS * RATE)]
    return write_video(
        tmp_path_factory.mktemp("video") / "family.mp4", frames, rate=RATE, options={"g": "5", "bf": "0"}
    )


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, human_system: Stack) -> Iterator[Trainer]:
    """A trainer of its own, whose workers may be killed, with the predictor of the shared system."""
    predictor = human_system.url("predictor")
    with running_trainer(tmp_path_factory.mktemp("videos"), PREDICTOR_URL=predictor) as trainer:
        yield trainer


def status(trainer: Trainer, video: str) -> dict[str, Any]:
    return dict(trainer.http.get(f"/videos/{video}").json())


def ended(trainer: Trainer, video: str) -> dict[str, Any]:
    until(lambda: status(trainer, video)["state"] not in ("queued", "running"), "it ends", 240)
    return status(trainer, video)


def test_video_is_answered_though_its_worker_is_killed_and_it_is_cancelled(
    videos: Trainer, clip: Path
) -> None:
    with clip.open("rb") as file:
        answer = videos.http.post("/videos", files={"file": ("my family.mp4", file)}, params=OPTIONS)
    assert answer.status_code == 202, answer.text
    video = answer.json()["id"]
    folder = videos.data_dir / "videos" / video
    assert (answer.json()["segments"], answer.json()["file"]) == (3, "my family.mp4")
    assert (folder / "source" / "my family.mp4").read_bytes() == clip.read_bytes()

    worker = videos.start_worker()
    until(lambda: status(videos, video)["seconds"] > 0, "it searches", 240)
    videos.kill(worker)
    assert videos.http.post(f"/videos/{video}/cancel").json()["state"] == "cancelled"
    assert videos.http.get(f"/videos/{video}/answer").status_code == 409
    done = {path.name: path.stat().st_mtime_ns for path in (folder / "segments").glob("*.json")}
    videos.start_worker()
    assert videos.http.post(f"/videos/{video}/resume").json()["state"] in ("queued", "running")
    until(lambda: status(videos, video)["segments_done"] > len(done), "it resumes", 240)
    for name, changed in done.items():
        if (folder / "segments" / name).exists():
            assert (folder / "segments" / name).stat().st_mtime_ns == changed
    finished = ended(videos, video)

    assert (finished["state"], finished["result"]["complete"]) == ("finished", True), finished
    found = videos.http.get(f"/videos/{video}/answer").json()
    assert len(found["persons"]) == 6
    throughout = [one for one in found["persons"] if one["seconds_visible"] > SECONDS - 1]
    assert len(throughout) >= 4  # the others leave the frame
    assert all(len(person["appearances"]) == 1 for person in throughout)  # no segment's border divides one
    table = videos.http.get(f"/videos/{video}/answer", params={"format": "csv"})
    assert len(table.text.splitlines()) == 7
    assert b"<svg" in videos.http.get(f"/videos/{video}/summary").content
    copy = videos.http.get(f"/videos/{video}/annotated")
    assert copy.headers["content-type"] == "video/mp4" and len(copy.content) > 10_000
    report = videos.http.get(f"/videos/{video}/report", params={"format": "md"}).text
    assert "6 persons" in report
    assert "embedding" not in found["persons"][0] or found["persons"][0]["embedding"] is None
    assert not (folder / "segments").exists()
    assert not any(b"centroid" in path.read_bytes() for path in folder.rglob("*.json"))

    assert videos.http.delete(f"/videos/{video}").status_code == 200
    assert not folder.exists()
    assert videos.http.post(f"/videos/{video}/restore").status_code in (404, 405)


def test_truncated_video_has_the_answers_of_its_first_part(videos: Trainer, clip: Path) -> None:
    whole = io.BytesIO()
    with av.open(str(clip)) as source, av.open(whole, "w", format="matroska") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [one for one in source.demux(source.streams.video[0]) if one.dts is not None]
        missing = bytes(packets[4 * RATE])
        for packet in packets:
            packet.stream = stream
            target.mux(packet)
    (videos.data_dir / "videos").mkdir(exist_ok=True)
    stored = videos.data_dir / "videos" / "part.mkv"
    stored.write_bytes(whole.getvalue()[: whole.getvalue().index(missing)])
    if not videos.workers:
        videos.start_worker()
    answer = videos.http.post("/videos", params={"file": "part.mkv", "every": 1})
    assert answer.status_code == 202, answer.text
    finished = ended(videos, answer.json()["id"])
    assert finished["state"] == "finished" and not finished["result"]["complete"]
    assert (finished["result"]["searched_frames"], finished["result"]["analysed_seconds"]) == (4, 3)
    assert finished["result"]["persons"] == 5  # the sixth is behind the edge until then
    assert "part.mkv is damaged or truncated: it ends at 3.8 s of 6.0 s" in finished["warnings"][0]
    httpx.Response.raise_for_status(videos.http.delete(f"/videos/{finished['id']}"))
    assert stored.exists()
