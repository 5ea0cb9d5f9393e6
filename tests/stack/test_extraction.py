"""Extraction through the whole chain: HTTP → Redis → RQ workers → embedder-proxy → embedding container."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agegender.spaces import Space
from PIL import Image
from trainer.datasets.embedding_set import meta_data_path, read_embedding_set
from trainer.extraction.extraction import CHUNK
from trainer.runs.scheduler import connect, job_queue

from tests.support.embedder_double import SPACE, EmbedderDouble
from tests.support.extraction_system import SHARD, System, is_ready
from tests.support.packs import buffalo_sc_dir, research_data
from tests.support.serving import free_port, until

IMAGES = 4 * CHUNK + 9


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_dataset(folder: Path) -> None:
    """A labels.csv folder with one of each thing that can be wrong."""
    folder.mkdir()
    rows = [["file", "age", "gender", "subject"]]
    for number in range(IMAGES):
        (folder / f"{number:03d}.png").write_bytes(picture(number))
        rows.append([f"{number:03d}.png", str(number % 90), "mf"[number % 2], f"s{number // 3}"])
    (folder / "text.jpg").write_text("this is no image")
    rows.insert(20, ["text.jpg", "30", "f", ""])
    rows.insert(40, ["gone.jpg", "30", "f", ""])
    rows.insert(60, ["000.png", "30", "f", ""])
    rows.insert(70, ["../outside.png", "30", "f", ""])
    rows.insert(80, ["unknown.png", "old", "f", ""])
    (folder / "link.png").symlink_to(folder.parent.parent / "outside.png")
    rows.insert(90, ["link.png", "30", "f", ""])
    (folder.parent.parent / "outside.png").write_bytes(picture(1))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., System]]:
    with ExitStack() as stack:
        numbers = iter(range(100))

        def make(double: EmbedderDouble | None = None) -> System:
            root = tmp_path / f"system-{next(numbers)}"
            system = System(stack, root)
            system.start_proxy(stack.enter_context((double or EmbedderDouble()).served()).url)
            write_dataset(system.data_dir / "faces")
            return system

        yield make


def test_faces_come_out_with_their_labels_and_the_rest_with_reasons(
    start: Callable[..., System],
) -> None:
    system = start()
    system.start_worker()
    started = system.extract()
    assert started["state"] == "planning"
    assert started["progress"] == {"done": 0, "total": 0, "images_per_second": None, "seconds_left": None}
    assert system.ended()["state"] == "finished"
    faces, _, _ = system.result()
    assert len(faces) == IMAGES
    assert faces.file.tolist() == [f"{number:03d}.png" for number in range(IMAGES)]
    assert faces.age_low.tolist() == [number % 90 for number in range(IMAGES)]
    assert set(faces.fold.tolist()) == {0, 1, 2, 3, 4}
    for subject in set(faces.subject):
        assert len(set(faces.fold[faces.subject == subject])) == 1
    (extracted,) = system.client.get("/datasets/faces").json()["extracted"]
    meta_data = extracted["meta_data"]
    assert meta_data["removed"] == {
        "bad-file-name": 1,
        "image-missing": 1,
        "link-outside": 1,
        "no-age": 1,
        "repeated-row": 1,
        "unreadable-image": 1,
    }
    assert meta_data["images"] == IMAGES + 5  # all but the repeated row
    assert sum(meta_data["gender"].values()) == IMAGES
    sentence = (
        f"{IMAGES} of {IMAGES + 6} faces (1 bad-file-name, e.g. ../outside.png; "
        "1 image-missing, e.g. gone.jpg; "
        "1 link-outside, e.g. link.png; 1 no-age, e.g. unknown.png: 'old'; 1 repeated-row, e.g. 000.png; "
        "1 unreadable-image, e.g. text.jpg)"
    )
    assert (meta_data["summary"], extracted["summary"]) == (sentence, sentence)
    ended = system.extraction()
    assert (ended["summary"], ended["faces"], ended["removed"]) == (sentence, IMAGES, meta_data["removed"])
    notes = (system.data_dir / "faces" / SPACE.id / "removed-images.jsonl").read_text()
    assert '{"file": "text.jpg", "reason": "unreadable-image"}' in notes
    assert '{"file": "unknown.png", "reason": "no-age", "cell": "old"}' in notes
    until(lambda: not list(system.data_dir.glob("faces/*/extract-images")), "the work is cleared away")
    (listed,) = system.client.get("/datasets").json()
    assert (listed["name"], listed["kind"], listed["variants"]) == ("faces", "labels.csv", ["images"])


def test_a_killed_worker_and_two_workers_give_the_same_bytes(start: Callable[..., System]) -> None:
    undisturbed = start()
    undisturbed.start_worker()
    undisturbed.extract(mirrored=True)
    assert undisturbed.ended()["state"] == "finished"

    disturbed = start(EmbedderDouble(seconds=0.2))
    worker = disturbed.start_worker()
    disturbed.extract(mirrored=True)
    until(lambda: disturbed.chunks() > 0, "a chunk is done", 60, 0.05)
    worker.kill()
    done = disturbed.chunks()
    assert 0 < done < 5
    disturbed.start_worker()
    disturbed.start_worker()
    assert disturbed.ended()["state"] == "finished"

    expected, data, meta_data = undisturbed.result()
    assert len(expected.embedding_mirrored) == IMAGES
    assert not (expected.embedding == expected.embedding_mirrored).all()
    _, data_again, meta_data_again = disturbed.result()
    assert data_again == data
    assert meta_data_again == meta_data


def test_an_extraction_resumes_from_its_chunks_by_itself_after_redis_lost_its_data(
    start: Callable[..., System],
) -> None:
    double = EmbedderDouble(seconds=0.2)
    system = start(double)
    worker = system.start_worker()
    system.extract()
    until(lambda: system.chunks() > 0, "a chunk is done", 60, 0.05)
    worker.kill()
    done = system.chunks()
    system.redis.client.flushall()
    double.seconds = 0
    asked = len(double.batches)
    system.start_worker()
    assert system.ended()["state"] == "finished"
    assert system.extraction()["attempt"] == 1
    # Four requests a chunk; only the missing chunks were asked for.
    assert len(double.batches) - asked <= 4 * (5 - done)


def test_an_extraction_that_runs_is_not_started_twice(start: Callable[..., System]) -> None:
    system = start()
    first, second = system.extract(), system.extract()
    assert (first["id"], first["attempt"]) == (second["id"], second["attempt"])
    answer = system.client.post("/datasets/faces/extract", json={"mirrored": True, "shard_size": SHARD})
    assert answer.status_code == 409
    assert answer.json()["type"].endswith("extraction-running")


def test_a_cancelled_extraction_stops_and_can_be_resumed(start: Callable[..., System]) -> None:
    system = start(EmbedderDouble(seconds=0.15))
    system.start_worker()
    system.extract()
    until(lambda: system.chunks() > 0, "a chunk is done", 60, 0.05)
    (cancelled,) = system.client.post("/datasets/faces/cancel").json()
    assert cancelled["state"] == "cancelled"
    until(lambda: job_queue(connect(system.settings)).count == 0, "the jobs give up", 30)
    assert system.extraction()["state"] == "cancelled"
    assert system.extract()["attempt"] == 2
    assert system.ended()["state"] == "finished"


def test_a_change_of_space_in_the_middle_ends_it_with_both_names(
    start: Callable[..., System],
) -> None:
    double = EmbedderDouble(seconds=0.15)
    system = start(double)
    system.start_worker()
    system.extract()
    until(lambda: system.chunks() > 0, "a chunk is done", 60, 0.05)
    double.space = Space(id="other-2", dimension=512)
    ended = system.ended()
    assert ended["state"] == "failed"
    assert ended["problem"]["status"] == 409
    assert (ended["problem"]["wanted"], ended["problem"]["given"]) == (str(SPACE), "other-2 (512-d)")
    assert not (system.data_dir / "faces" / SPACE.id / "data-images.npz").exists()


def test_progress_is_reported_as_events_until_the_end(start: Callable[..., System]) -> None:
    system = start(EmbedderDouble(seconds=0.1))
    system.start_worker()
    system.extract()
    with system.client.stream("GET", "/datasets/faces/events") as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in events.iter_lines() if line.startswith("data:")]
    assert '"state":"finished"' in lines[-1]
    assert any('"state":"extracting"' in line for line in lines)


def test_no_proxy_is_503_and_no_data_set_404_and_no_labels_422(
    start: Callable[..., System],
) -> None:
    system = start()
    (system.data_dir / "empty").mkdir()
    assert system.client.post("/datasets/empty/extract").status_code == 422
    for name in ("none", "..%2Ffaces", ".."):
        assert system.client.post(f"/datasets/{name}/extract").status_code in (404, 405)
    answer = system.client.post("/datasets/faces/extract", json={"variant": "../x"})
    assert answer.status_code == 404
    answer = system.client.post("/datasets/faces/extract", json={"shard_size": 1})
    assert "shard_size" in answer.json()["detail"]
    system.settings.proxy_url = "http://127.0.0.1:9"
    answer = system.client.post("/datasets/faces/extract")
    assert answer.status_code == 503
    assert answer.headers["retry-after"]


def test_labels_that_cannot_be_read_fail_the_extraction_with_the_reason(
    start: Callable[..., System],
) -> None:
    system = start()
    (system.data_dir / "faces" / "labels.csv").write_bytes(b"file,age\n\xff.jpg,3\n")
    system.start_worker()
    system.extract()
    ended = system.ended()
    assert ended["state"] == "failed"
    assert "UTF-8" in ended["problem"]["detail"]


def test_data_set_with_a_blank_in_its_name_and_no_readable_row_fails_with_the_counts(
    start: Callable[..., System],
) -> None:
    system = start()
    folder = system.data_dir / "My faces (1)"
    folder.mkdir()
    (folder / "labels.csv").write_text("file;age;gender\na.jpg;30;0\nb.jpg;40;1\nc.jpg;140;m\n")
    system.start_worker()
    system.extract("My faces (1)")
    ended = system.ended("My faces (1)")
    counts = "0 of 3 faces (2 gender-not-mapped, e.g. a.jpg: '0'; 1 age-out-of-range, e.g. c.jpg: '140')"
    assert (ended["state"], ended["faces"], ended["summary"]) == ("failed", 0, counts)
    assert counts in ended["problem"]["detail"] and "--gender 0=male" in ended["problem"]["detail"]
    system.extract("My faces (1)", genders={"0": "male", "1": "female"})
    ended = system.ended("My faces (1)")
    counts = "0 of 3 faces (2 image-missing, e.g. a.jpg; 1 age-out-of-range, e.g. c.jpg: '140')"
    assert (ended["state"], ended["summary"]) == ("failed", counts)
    answer = system.client.post("/datasets/Adience/extract", json={"genders": {"0": "m"}})
    assert answer.status_code == 404


def test_embeddings_of_the_original_are_imported(start: Callable[..., System]) -> None:
    system = start()
    generator = np.random.default_rng(0)
    samples: dict[int, list[dict[str, Any]]] = {fold: [] for fold in range(5)}
    for number in range(60):
        vector = generator.normal(size=512).astype(np.float32)
        path = f"data/Adience/aligned/{number % 20}@N01/landmark_aligned_face.{number}.x.jpg"
        samples[number % 5].append(
            {
                "image_path": path,
                "age": [28.5, 1.0, 80.0][number % 3],
                "gender": "mf"[number % 2],
                "fold": number % 5,
                "embedding": vector / np.linalg.norm(vector),
            }
        )
    (system.data_dir / "Adience").mkdir()
    np.save(system.data_dir / "Adience" / "data-aligned.npy", np.array(samples), allow_pickle=True)
    system.start_worker()
    assert system.client.post("/datasets/Adience/import").status_code == 202
    assert system.ended("Adience")["state"] == "finished"
    space = Space(id="original-512", dimension=512)
    faces = read_embedding_set(system.data_dir, "Adience", space, "aligned")
    assert len(faces) == 60
    assert faces.file[0] == "0@N01/landmark_aligned_face.0.x.jpg"
    assert (faces.age_low[0], faces.age_high[0]) == (25, 32)
    assert np.bincount(faces.fold).tolist() == [12] * 5
    assert meta_data_path(system.data_dir, "Adience", space, "aligned").is_file()
    assert system.client.post("/datasets/faces/import").status_code == 422


def write_utkface(folder: Path, images: int) -> None:
    """Evenly spaced images of UTKFace, whose labels stand in their names."""
    folder.mkdir()
    with tarfile.open(research_data() / "utkface.tar") as archive:
        faces = sorted(member.name for member in archive if member.name.endswith(".jpg"))
        for name in faces[:: len(faces) // images][:images]:
            content = archive.extractfile(name)
            assert content is not None
            (folder / Path(name).name).write_bytes(content.read())


@contextmanager
def real_embedder(data_dir: Path) -> Iterator[str]:
    """The embedding container's process with InsightFace's smallest pack."""
    port = free_port()
    environment = {
        **os.environ,
        "DATA_DIR": str(data_dir),
        "EMBEDDER_PORT": str(port),
        "EMBEDDER_PACK": "buffalo_sc",
        "EMBEDDER_PACK_DIR": str(buffalo_sc_dir()),
        "EMBEDDER_THREADS": "1",
    }
    process = subprocess.Popen([sys.executable, "-m", "embedder"], env=environment)
    try:
        until(lambda: is_ready(f"http://127.0.0.1:{port}"), "the embedder is ready", 60)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def test_real_faces_give_the_same_bytes_with_one_worker_and_with_two_and_a_killed_one(tmp_path: Path) -> None:
    if not (research_data() / "utkface.tar").is_file():
        pytest.skip(f"there is no utkface.tar in {research_data()}")
    with ExitStack() as stack:
        embedder = stack.enter_context(real_embedder(tmp_path))
        write_utkface(tmp_path / "faces", 40)
        results = []
        for disturbed in (False, True):
            system = System(stack, tmp_path / f"disturbed-{disturbed}")
            system.start_proxy(embedder)
            shutil.copytree(tmp_path / "faces", system.data_dir / "faces")
            first = system.start_worker()
            if disturbed:
                system.start_worker()
            system.extract(shard_size=CHUNK, varied=True)
            if disturbed:
                until(lambda: system.chunks() > 0, "a chunk is done", 60, 0.05)  # noqa: B023
                first.kill()
            assert system.ended(seconds=180)["state"] == "finished"
            space = Space.model_validate(system.extraction()["space"])
            results.append(system.result(space))
    (faces, data, meta_data), (_, data_again, meta_data_again) = results
    assert len(faces) > 36  # of 40; SCRFD finds no face in a few
    assert json.loads(meta_data)["varied"]
    varied = (faces.embedding * faces.embedding_mirrored).sum(axis=1)
    assert 0.6 < np.median(varied) < 0.99  # the same persons, changed
    assert json.loads(meta_data)["mirrored_not_found"] < len(faces) / 10
    strangers = faces.embedding @ faces.embedding.T
    assert np.median(strangers) < 0.3
    assert meta_data_again == meta_data
    assert data_again == data
