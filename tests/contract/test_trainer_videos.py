"""Videos at the trainer: bad ones are rejected at once, the others uploaded, followed and answered."""

import csv
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from agegender.errors import Problem
from agegender.keys import ApiKey, Scope
from agegender.video.analysis import VideoAnswer
from agegender_client import Client, ClientSettings
from fastapi.testclient import TestClient
from pydantic import SecretStr
from trainer.app import create_trainer
from trainer.datasets.uploads import STALE_SECONDS
from trainer.settings import TrainerSettings
from trainer.videos import video
from trainer.videos.video import delete_stale_videos, uploaded_name

from tests.support.command_line import Run, command_line
from tests.support.embedder_double import EmbedderDouble
from tests.support.made_videos import quartered, write_sound, write_video
from tests.support.redis_server import redis_server
from tests.support.serving import serving, until
from tests.support.trainer_processes import Trainer, running_trainer

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


@pytest.fixture(scope="module")
def with_worker(tmp_path_factory: pytest.TempPathFactory, predictor_url: str) -> Iterator[Trainer]:
    """A trainer with a worker, before a predictor that finds one face at the same place of each frame."""
    with running_trainer(tmp_path_factory.mktemp("trainer"), PREDICTOR_URL=predictor_url) as started:
        started.start_worker()
        yield started


@pytest.fixture
def run(with_worker: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return command_line(monkeypatch, capsys, trainer=with_worker.url)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Three seconds that change all the time, so that no frame is a copy."""
    return write_video(tmp_path / "film.mp4", [np.roll(quartered(), index, axis=1) for index in range(30)])


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


def test_file_that_crashes_the_decoder_is_rejected_and_the_trainer_goes_on(
    trainer: httpx.Client, data_dir: Path, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(video, "OPENING_PROGRAM", (sys.executable, "-c", crash))
    answer = send(trainer, clip)
    assert slug(answer) == (415, "bad-video") and "SIGKILL" in answer.json()["detail"]
    assert left_behind(data_dir) == []
    monkeypatch.undo()
    assert trainer.get("/health/ready").status_code == 200


@pytest.mark.parametrize(("name", "step"), [("slow.ts", 0.5), ("slow.flv", 0.5), ("lapse.mp4", 2.0)])
def test_slow_video_whose_frames_refer_to_later_ones_has_a_duration(
    tmp_path: Path, name: str, step: float
) -> None:
    shades = [quartered(corner=(200, shade, 0)) for shade in range(0, 240, 8)]
    times = [step * number for number in range(len(shades))]
    path = write_video(tmp_path / name, shades, times=times, options={"bf": "3", "b-adapt": "0"})
    seconds = video.described(path).seconds
    assert seconds is not None and abs(seconds - step * len(shades)) <= 2 * step


def test_file_that_takes_the_decoder_too_long_or_too_much_memory_is_rejected(
    clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip)
    assert video.described(path).codec == "h264"
    with pytest.raises(Problem) as raised:
        video.described(path, memory=1 << 20)
    assert raised.value.slug == "bad-video"
    monkeypatch.setattr(video, "OPENING_PROGRAM", (sys.executable, "-c", "import time; time.sleep(600)"))
    with pytest.raises(Problem, match=r"clip\.mp4 has no frame .* longer than 0\.1 seconds") as raised:
        video.described(path, seconds=0.1)
    assert raised.value.slug == "bad-video"


@pytest.mark.parametrize("name", ["camera.ts", "camera.mp4"])
def test_video_whose_time_begins_again_is_one_segment(tmp_path: Path, name: str) -> None:
    """FFmpeg finds a segment of it by a time stamp, of which there are two."""
    options = video.VideoOptions(segment_seconds=2)
    layout = {"movflags": "empty_moov+frag_keyframe+dash"} if name.endswith("mp4") else {}
    path = write_video(tmp_path / name, [quartered()] * 60, options={"g": "10", "bf": "0"}, layout=layout)
    plain = video.new_video("video-a", path, options, uploaded=False)
    assert (plain.segments, plain.video.seconds) == (3, 6.0)
    path.write_bytes(path.read_bytes() * 2)
    twice = video.new_video("video-b", path, options, uploaded=False)
    assert (twice.segments, twice.video.seconds) == (1, None)


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


def test_videos_need_a_key_for_training_before_their_bodies_are_read(tmp_path: Path, clip: bytes) -> None:
    predict, predict_secret = ApiKey.new("predict", [Scope.PREDICT])
    train, train_secret = ApiKey.new("train", [Scope.TRAIN])
    with redis_server(tmp_path) as redis:
        settings = TrainerSettings(
            data_dir=tmp_path / "data",
            redis_url=redis.url,
            api_keys=(predict, train),
            service_key=SecretStr("a secret among the services"),
        )
        client = TestClient(create_trainer(settings))  # without its lifespan: metrics exist once per process
        for secret, status in ((None, 401), (predict_secret, 403), (train_secret, 202)):
            client.headers = httpx.Headers({} if secret is None else {"Authorization": f"Bearer {secret}"})
            sent = send(client, clip)
            assert sent.status_code == status
            assert bool(left_behind(tmp_path / "data")) == (status == 202)
        path = f"/videos/{sent.json()['id']}"
        parts = ("", "/events", "/answer", "/summary", "/annotated", "/report")
        requests = [("GET", path + part) for part in parts]
        requests += [
            ("GET", "/videos"),
            ("POST", f"{path}/cancel"),
            ("POST", f"{path}/resume"),
            ("DELETE", path),
        ]
        for secret, status in ((None, 401), (predict_secret, 403)):
            client.headers = httpx.Headers({} if secret is None else {"Authorization": f"Bearer {secret}"})
            for method, one in requests:
                assert client.request(method, one).status_code == status, one


def test_command_answers_a_file_on_the_server(
    run: Run, with_worker: Trainer, proxy: EmbedderDouble, film: Path, tmp_path: Path
) -> None:
    table, copy = tmp_path / "persons.csv", tmp_path / "copy.mp4"
    code, out, err = run(
        "video", str(film), "--on-server", "--every", "0.5", "--coverage", "0.8",
        "--csv", str(table), "--annotate", str(copy), "--summary", str(tmp_path / "plot.svg"),
    )  # fmt: skip
    assert code == 0, err
    assert "0:00.0" in out and "segments" in err and "1/1" in err
    (row,) = csv.DictReader(table.open())
    assert (row["first"], row["last"], row["coverage"], row["faces"]) == ("0.0", "2.5", "0.8", "6")
    with av.open(str(copy)) as annotated:
        assert len(list(annotated.decode(video=0))) == 30
    assert "1 person in" in (tmp_path / "plot.svg").read_text()
    (run_id,) = re.findall(r"agegender cancel (\S+) --delete", err)

    listed = run("videos")[1]
    assert run_id in listed and "film.mp4" in listed and "finished" in listed
    (shown,) = (one for one in json.loads(run("videos", "--json")[1]) if one["id"] == run_id)
    assert shown == json.loads(run("show", run_id, "--json")[1])
    assert (shown["segments_done"], shown["result"]["persons"]) == (1, 1)
    with Client(ClientSettings(trainer_url=with_worker.url)) as client:
        answer = VideoAnswer.model_validate_json(client.video_answer(run_id))
    assert answer.complete and [str(one.age.mean) for one in answer.persons] == [row["mean"]]
    code, _, err = run("cancel", run_id)
    assert code == 1 and "has ended already" in err
    assert run("cancel", run_id, "--delete")[0] == 0
    assert json.loads(run("videos", "--json")[1]) == []


def test_video_is_cancelled_and_resumed_by_the_command(
    run: Run, with_worker: Trainer, proxy: EmbedderDouble, film: Path
) -> None:
    proxy.fault = "hang"
    with Client(ClientSettings(trainer_url=with_worker.url)) as client:
        run_id = client.create_video(film, segment_seconds=2).id
        until(lambda: client.video(run_id).state == "running" and proxy.working, "a frame is sent", 240)
        assert "running" in run("videos")[1]
        assert run("cancel", run_id)[0] == 0
        shown = json.loads(run("show", run_id, "--json")[1])
        assert (shown["state"], shown["segments_done"], shown["segments"]) == ("cancelled", 0, 2)
        proxy.fault = None
        proxy.released.set()
        client.resume_video(run_id)
        states = list(client.watch_video(run_id))
        assert states[-1].state == "finished", states[-1]
        done = [one.segments_done for one in states]
        assert done == sorted(done) and done[-1] == 2
        seconds = [one.seconds for one in states]
        assert seconds[-1] == pytest.approx(2.8, abs=0.3)  # the last searched frame
        (person,) = VideoAnswer.model_validate_json(client.video_answer(run_id)).persons
        assert len(person.appearances) == 1  # the border of the segments does not divide it
        client.delete_video(run_id)


@pytest.mark.parametrize(("copies", "last"), [(1, 5.6), (2, 11.6)])
def test_no_second_of_a_transport_stream_is_left_out(
    with_worker: Trainer, tmp_path: Path, copies: int, last: float
) -> None:
    """It has one key frame, and the second copy has the time stamps of the first."""
    path = write_video(tmp_path / "camera.ts", [quartered()] * 60, options={"g": "60"})
    path.write_bytes(path.read_bytes() * copies)
    with Client(ClientSettings(trainer_url=with_worker.url)) as client:
        run_id = client.create_video(path, segment_seconds=2).id
        assert list(client.watch_video(run_id))[-1].state == "finished"
        answer = VideoAnswer.model_validate_json(client.video_answer(run_id))
        client.delete_video(run_id)
    assert answer.complete and answer.searched_frames == round(last / 0.4) + 1
    (person,) = answer.persons
    assert (person.first, person.last) == pytest.approx((0, last)) and len(person.appearances) == 1


def test_command_reports_what_the_server_rejects_and_what_is_incomplete(
    run: Run, proxy: EmbedderDouble, tmp_path: Path
) -> None:
    (tmp_path / "text.mp4").write_bytes(b"hello" * 1000)
    code, _, err = run("video", str(tmp_path / "text.mp4"), "--on-server")
    assert code == 1 and "text.mp4 cannot be opened as a video" in err
    code, _, err = run("video", str(tmp_path / "absent.mp4"), "--on-server")
    assert code == 1 and "absent.mp4 cannot be read: No such file or directory." in err
    path = write_video(tmp_path / "film.mkv", [quartered()] * 90, options={"g": "5"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, out, err = run("video", str(path), "--on-server")
    assert code == 1 and "Incomplete:" in err and "film.mkv is damaged or truncated" in err, err
    assert "0:00.0" in out
