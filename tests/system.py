"""What is asked of the whole system, however it was started: by `make up` or by Compose."""

import io
import time
from pathlib import Path
from typing import Any

import httpx
import insightface
import numpy as np
from agegender.datasets import write_embedding_set
from agegender.spaces import Space
from made_faces import made_faces
from PIL import Image

SIX_ADULTS = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"
EXPERIMENT = {
    "task": "age-gender",
    "dataset": "made",
    "seeds": 2,
    "head": {"hidden": [32]},
    "optimizer": {"epochs": 5, "batch_size": 64},
}


def predict(predictor: str) -> dict[str, Any]:
    with SIX_ADULTS.open("rb") as file:
        answer = httpx.post(f"{predictor}/age-gender", files={"image": file}, timeout=60)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def faces_from_left(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(answer["images"][0]["faces"], key=lambda face: float(face["bbox"][0]))


def assert_six_adults(answer: dict[str, Any]) -> None:
    """Six faces of about 25 to 40 years; from the left: woman, woman, man, man, man, woman."""
    faces = faces_from_left(answer)
    assert len(faces) == 6
    assert [face["gender"]["label"] for face in faces] == [
        "female",
        "female",
        "male",
        "male",
        "male",
        "female",
    ]
    for face in faces:
        assert 18 <= face["age"]["mean"] <= 50
        low, high = face["age"]["interval"]
        assert low <= face["age"]["mean"] <= high
        assert abs(sum(face["age"]["groups"].values()) - 1) < 1e-3


def made_data(data_dir: Path, space: Space) -> None:
    """The data set `made` of `EXPERIMENT`."""
    write_embedding_set(data_dir, "made", "images", made_faces(400, space=space), {"kind": "made up"})


def train_and_promote(trainer: str, data_dir: Path, space: Space) -> dict[str, str]:
    """Run an experiment on made-up faces over the queue, check its table, promote it: task → version."""
    made_data(data_dir, space)
    created = httpx.post(f"{trainer}/experiments", json=EXPERIMENT, timeout=30)
    assert created.status_code == 202, created.text
    url = f"{trainer}/experiments/{created.json()['id']}"
    end = time.monotonic() + 300
    while (status := httpx.get(url, timeout=30).json())["state"] in ("queued", "running"):
        assert time.monotonic() < end, status
        time.sleep(0.5)
    assert status["state"] == "finished", status
    report = httpx.get(f"{url}/report?format=json", timeout=30).json()
    assert [len(report["tables"][task]) for task in ("age", "gender")] == [6, 6]
    promoted = httpx.post(f"{url}/promote", params={"refit": False}, timeout=60)
    assert promoted.status_code == 200, promoted.text
    return dict(promoted.json())


def wait_until_served(predictor: str, versions: dict[str, str]) -> dict[str, Any]:
    end = time.monotonic() + 30
    while True:
        answer = predict(predictor)
        if all(version in str(answer["models"]) for version in versions.values()):
            return answer
        assert time.monotonic() < end, answer["models"]
        time.sleep(0.5)


def picture(form: str, size: tuple[int, int] = (64, 64), **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "grey").save(file, form, **options)
    return file.getvalue()


def bad_inputs() -> dict[str, tuple[bytes, int]]:
    """Name → bytes and the status that must be answered."""
    photograph = SIX_ADULTS.read_bytes()
    frames = [Image.fromarray(np.full((64, 64, 3), shade, np.uint8)) for shade in (0, 128, 255)]
    animation = io.BytesIO()
    frames[0].save(animation, "GIF", save_all=True, append_images=frames[1:])
    huge = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(huge, "PNG")
    return {
        "0 bytes": (b"", 400),
        "text as JPEG": (b"this is no picture", 415),
        "truncated JPEG": (photograph[: len(photograph) // 2], 422),
        "20,000 x 20,000 PNG": (huge.getvalue(), 413),
        "animated GIF": (animation.getvalue(), 200),
        "50 MB body": (b"\xff\xd8" + bytes(50 * 1024 * 1024), 413),
        "no face": (picture("JPEG"), 200),
    }
