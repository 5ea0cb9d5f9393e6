"""Every route of the trainer while Redis is away or hangs: an error at once, and nothing half done."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from agegender_service.inputs import operations
from PIL import Image
from trainer.app import create_trainer
from trainer.datasets.embedding_set import write_embedding_set
from trainer.evaluations.evaluation import Evaluation
from trainer.experiments.experiment import Experiment, load_experiment, save_experiment
from trainer.jobs import EVALUATIONS, VIDEOS
from trainer.searches.search import Search, load_search, save_search
from trainer.settings import TrainerSettings
from trainer.training.config import TrainingOptions
from trainer.videos.video import VideoOptions, new_video

from tests.support.made_faces import SPACE, made_faces
from tests.support.made_videos import quartered, write_video
from tests.support.redis_server import RedisServer, redis_server
from tests.support.serving import serving, until

BODIES = {
    "POST /experiments": {"dataset": "made"},
    "POST /evaluations": {"dataset": "made"},
    "PATCH /experiments/{experiment_id}": {"name": "first"},
    "POST /searches": {"dataset": "made", "parameters": {"optimizer.learning_rate": {"low": 0.1, "high": 1}}},
}
FILES = {route: {"file": b"a file"} for route in ("POST /datasets/{name}/files", "POST /videos")}
QUERIES: dict[str, dict[str, str | int]] = {
    "POST /prune": {"older_than_days": 1},
    "GET /experiments/{experiment_id}/paired-comparison": {"with": "other"},
    "GET /datasets/{name}/images/thumbnail": {"file": "a.png"},
}
NEED_REDIS = {
    "POST /datasets/{name}/extract",
    "POST /datasets/{name}/regroup",
    "DELETE /datasets/{name}/extract",
    "POST /datasets/{name}/cancel",
    "POST /datasets/{name}/import",
    "POST /experiments",
    "POST /experiments/{experiment_id}/cancel",
    "POST /experiments/{experiment_id}/refit",
    "POST /experiments/{experiment_id}/resume",
    "DELETE /experiments/{experiment_id}",
    "POST /evaluations",
    "POST /evaluations/{evaluation_id}/cancel",
    "POST /evaluations/{evaluation_id}/resume",
    "DELETE /evaluations/{evaluation_id}",
    "POST /searches",
    "POST /searches/{search_id}/cancel",
    "POST /searches/{search_id}/resume",
    "DELETE /searches/{search_id}",
    "POST /videos",
    "POST /videos/{video_id}/cancel",
    "POST /videos/{video_id}/resume",
    "DELETE /videos/{video_id}",
    "GET /health/ready",
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as started:
        yield started


def made_work(data_dir: Path) -> None:
    write_embedding_set(data_dir, "made", "images", made_faces(100), {"kind": "made up"})
    Image.new("RGB", (8, 8)).save(data_dir / "made" / "a.png")
    (data_dir / "made" / "labels.csv").write_text("file,age\na.png,25\n")
    known = {
        "created": datetime.now(UTC),
        "datasets": ["made"],
        "image_set": "images",
        "space": SPACE,
        "folds": [0, 1],
        "options": TrainingOptions(),
        "preset": "default",
    }
    save_experiment(data_dir, Experiment.model_validate({**known, "id": "known"}))
    search = {
        "held_out": [2],
        "parameters": {},
        "trials": 2,
        "goal": "nll",
        "inner_folds": 2,
        "pruning": True,
    }
    save_search(data_dir, Search.model_validate({**known, **search, "id": "search-known"}))
    evaluation = {"dataset": "made", "image_set": "images", "space": SPACE, "head": "served", "versions": {}}
    evaluation |= {"id": "evaluation-known", "created": known["created"]}
    EVALUATIONS.save(data_dir, Evaluation.model_validate(evaluation))
    (data_dir / "videos").mkdir()
    clip = write_video(data_dir / "videos" / "clip.mp4", [quartered()] * 2)
    VIDEOS.create(
        data_dir, "video-known", lambda: new_video("video-known", clip, VideoOptions(), uploaded=False)
    )


def test_redis_that_is_stopped_is_reported_at_every_route_that_needs_it(
    tmp_path: Path, server: RedisServer
) -> None:
    settings = TrainerSettings(data_dir=tmp_path / "data", redis_url=server.url)
    made_work(settings.data_dir)
    app = create_trainer(settings)
    with serving(app) as url:
        until(lambda: httpx.get(f"{url}/health/ready").is_success, "ready", 30)
        server.process.kill()
        server.process.wait(10)
        names = {
            "name": "made",
            "experiment_id": "known",
            "search_id": "search-known",
            "evaluation_id": "evaluation-known",
            "video_id": "video-known",
        }
        refused = set()
        with httpx.Client(base_url=url, timeout=30) as http:
            for route, _ in operations(app.openapi()):
                method, path = route.split(" ")
                if path.endswith("/events"):
                    continue
                answer = http.request(
                    method,
                    path.format(**names),
                    json=BODIES.get(route),
                    files=FILES.get(route),
                    params=QUERIES.get(route),
                )
                assert answer.status_code in (200, 404, 409, 503), (route, answer.text)
                if answer.status_code == 503:
                    refused.add(route)
                    assert int(answer.headers["Retry-After"]) > 0
                    assert answer.headers["Content-Type"] == "application/problem+json"
                    assert "Redis" in answer.json()["detail"]
        assert refused == NEED_REDIS
    # Nothing was begun, cancelled or deleted that was answered with "not now".
    assert not load_experiment(settings.data_dir, "known").cancelled
    assert not load_search(settings.data_dir, "search-known").cancelled
    assert len(list((settings.data_dir / "experiments").iterdir())) == 1
    assert len(list((settings.data_dir / "searches").iterdir())) == 1
    assert not VIDEOS.load(settings.data_dir, "video-known").cancelled
    assert {path.name for path in (settings.data_dir / "videos").iterdir()} == {"clip.mp4", "video-known"}


def test_redis_that_hangs_is_reported_within_seconds(tmp_path: Path, server: RedisServer) -> None:
    settings = TrainerSettings(data_dir=tmp_path / "data", redis_url=server.url)
    made_work(settings.data_dir)
    with serving(create_trainer(settings)) as url:
        until(lambda: httpx.get(f"{url}/health/ready").is_success, "ready", 30)
        server.hang()
        started = time.monotonic()
        answer = httpx.post(f"{url}/experiments", json=BODIES["POST /experiments"], timeout=60)
        assert time.monotonic() - started < 20
        server.go_on()
        assert answer.status_code == 503 and answer.json()["type"].endswith(":queue-away")
        until(lambda: httpx.get(f"{url}/health/ready").is_success, "Redis is back", 30)
        assert httpx.post(f"{url}/experiments/known/cancel", timeout=60).json()["state"] == "cancelled"
