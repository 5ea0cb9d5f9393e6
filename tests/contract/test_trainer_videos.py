"""Routes of videos: what is no video is rejected at once, and leaves nothing behind."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from trainer.app import create_trainer
from trainer.datasets.uploads import STALE_SECONDS
from trainer.settings import TrainerSettings
from trainer.videos.video import delete_stale_videos, uploaded_name

from tests.support.made_videos import quartered, write_sound, write_video
from tests.support.redis_server import redis_server
from tests.support.serving import serving

PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n" + b"#EXTINF:1,\nfile:///etc/hostname\n" * 50


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[httpx.Client]:
    with redis_server(tmp_path_factory.mktemp("redis")) as redis:
        settings = TrainerSettings(data_dir=data_dir, redis_url=redis.url)
        with serving(create_trainer(settings)) as url, httpx.Client(base_url=url, timeout=60) as client:
            yield client


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", [quartered()] * 30)
    return path.read_bytes()


def send(client: httpx.Client, *contents: bytes, name: str = "clip.mp4", **params: str) -> httpx.Response:
    return client.post("/videos", files=[("file", (name, one)) for one in contents], params=params)


def slug(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


def left_behind(data_dir: Path) -> list[str]:
    return [path.name for path in [*data_dir.glob(".upload-*"), *data_dir.glob("videos/video-*")]]


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("text", (415, "bad-video")),
        ("nothing", (415, "bad-video")),
        ("playlist", (415, "bad-video")),
        ("index cut off", (415, "bad-video")),
        ("sound", (415, "no-video")),
        ("two files", (422, "bad-upload")),
        ("unknown option", (422, "invalid-request")),
    ],
)
def test_what_is_no_video_is_rejected_at_once(
    trainer: httpx.Client, data_dir: Path, clip: bytes, tmp_path: Path, what: str, problem: tuple[int, str]
) -> None:
    contents = {
        "text": [b"hello" * 1000],
        "nothing": [b""],
        "playlist": [PLAYLIST],
        "index cut off": [clip[:-200]],
        "sound": [write_sound(tmp_path / "sound.mp4").read_bytes()],
        "two files": [clip, clip],
        "unknown option": [clip],
    }[what]
    params = {"each": "1"} if what == "unknown option" else {}
    assert slug(send(trainer, *contents, **params)) == problem
    assert left_behind(data_dir) == []


@pytest.mark.parametrize("name", ["../models/x.mp4", "/etc/passwd", "..", "absent.mp4", "a\x00b", "link.mp4"])
def test_only_files_of_the_videos_folder_can_be_named(
    trainer: httpx.Client, data_dir: Path, tmp_path: Path, clip: bytes, name: str
) -> None:
    outside = tmp_path / "outside.mp4"
    outside.write_bytes(clip)
    folder = data_dir / "videos"
    folder.mkdir(exist_ok=True)
    (folder / "link.mp4").unlink(missing_ok=True)
    (folder / "link.mp4").symlink_to(outside)
    assert slug(trainer.post("/videos", params={"file": name})) == (404, "no-such-video")


def test_run_is_listed_cancelled_and_deleted_with_its_video(
    trainer: httpx.Client, data_dir: Path, clip: bytes
) -> None:
    sent = send(trainer, clip, name="..\\my <clip>.mp4", annotated="true", segment_seconds="2")
    assert sent.status_code == 202, sent.text
    run = sent.json()
    assert (run["state"], run["file"], run["segments"]) == ("queued", "my _clip_.mp4", 2)
    assert (run["video"]["width"], run["video"]["seconds"]) == (96, 3.0)
    folder = data_dir / "videos" / run["id"]
    assert (folder / "source" / "my _clip_.mp4").read_bytes() == clip
    assert [one["id"] for one in trainer.get("/videos").json()] == [run["id"]]
    assert "videos" not in [one["name"] for one in trainer.get("/datasets").json()]
    for part in ("answer", "summary", "annotated", "report"):
        assert slug(trainer.get(f"/videos/{run['id']}/{part}")) == (409, "not-finished")
    assert slug(trainer.delete(f"/videos/{run['id']}")) == (409, "still-running")
    assert trainer.post(f"/videos/{run['id']}/cancel").json()["state"] == "cancelled"
    assert trainer.delete(f"/videos/{run['id']}").status_code == 200
    assert not folder.exists() and trainer.get("/videos").json() == []


def test_repeated_key_starts_one_run(trainer: httpx.Client, data_dir: Path, clip: bytes) -> None:
    (data_dir / "videos").mkdir(exist_ok=True)
    (data_dir / "videos" / "stored.mp4").write_bytes(clip)
    key = {"Idempotency-Key": "once"}
    ids = {trainer.post("/videos", params={"file": "stored.mp4"}, headers=key).json()["id"] for _ in range(2)}
    (run,) = ids
    assert slug(trainer.get(f"/videos/{run}/annotated")) == (404, "not-requested")
    trainer.post(f"/videos/{run}/cancel")
    assert trainer.delete(f"/videos/{run}").status_code == 200
    assert (data_dir / "videos" / "stored.mp4").exists()


def test_left_over_folder_of_a_killed_upload_is_deleted(tmp_path: Path) -> None:
    import os

    old, new = tmp_path / "videos" / "video-old", tmp_path / "videos" / "video-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - STALE_SECONDS - 1,) * 2)
    delete_stale_videos(tmp_path)
    assert not old.exists() and new.exists()


@pytest.mark.parametrize("given", ["", "...", "/", "a/b/c.mp4", "x" * 300 + ".mp4", "\x00\n.mp4", "-rf"])
def test_uploaded_name_is_a_safe_file_name(given: str) -> None:
    name = uploaded_name(given)
    assert 0 < len(name) <= 100 and "/" not in name and name.isprintable() and name[0] not in ".-"
