"""Requests to the whole system, whether `make up` or Compose started it."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from agegender.predictions import AgeGenderAnswer, ImageAnswer
from agegender.spaces import Space
from agegender_client import Client, ClientSettings
from PIL import Image
from pydantic import SecretStr
from trainer.datasets.embedding_set import write_embedding_set

from tests.support.hostile_pictures import flat
from tests.support.made_faces import made_faces
from tools.stack import PHOTOGRAPH

SIX_ADULTS = PHOTOGRAPH
EXPERIMENT = {
    "task": "age-gender",
    "dataset": "made",
    "seeds": 2,
    "head": {"hidden": [32]},
    "optimizer": {"epochs": 5, "batch_size": 64},
}


class System(Protocol):
    """The whole system, however it was started."""

    def url(self, name: str) -> str: ...


def client_of(system: System, key: str | None = None) -> Client:
    return Client(
        ClientSettings(
            predictor_url=system.url("predictor"),
            trainer_url=system.url("trainer"),
            proxy_url=system.url("embedder-proxy"),
            api_key=None if key is None else SecretStr(key),
        )
    )


def predict(client: Client) -> AgeGenderAnswer:
    return client.predict([SIX_ADULTS.read_bytes()])


def assert_six_adults(answer: AgeGenderAnswer) -> None:
    """Six faces of about 25 to 40 years; from the left: woman, woman, man, man, man, woman."""
    (image,) = answer.images
    assert isinstance(image, ImageAnswer)
    faces = sorted(image.faces, key=lambda face: face.bbox[0])
    assert [face.gender.label for face in faces] == ["female", "female", "male", "male", "male", "female"]
    for face in faces:
        assert 18 <= face.age.mean <= 50
        low, high = face.age.interval
        assert low <= face.age.mean <= high
        assert abs(sum(face.age.groups.values()) - 1) < 1e-3


def made_data(data_dir: Path, space: Space) -> None:
    """The data set `made` of `EXPERIMENT`."""
    write_embedding_set(data_dir, "made", "images", made_faces(400, space=space), {"kind": "made up"})


def train_and_promote(client: Client, data_dir: Path, space: Space) -> dict[str, str]:
    """Run an experiment on made-up faces over the queue, check its table, promote it: task → version."""
    made_data(data_dir, space)
    experiment = client.create_experiment(EXPERIMENT)
    end = time.monotonic() + 300
    while not experiment.ended:
        assert time.monotonic() < end, experiment
        time.sleep(0.5)
        experiment = client.experiment(experiment.id)
    assert experiment.state == "finished", experiment
    report = json.loads(client.report(experiment.id))
    assert [len(report["tables"][task]) for task in ("age", "gender")] == [6, 6]
    return client.promote(experiment.id, refit=False, force=True)  # made up: worse than what is served


def wait_until_served(client: Client, versions: dict[str, str]) -> AgeGenderAnswer:
    end = time.monotonic() + 30
    while True:
        answer = predict(client)
        if set(versions.values()) <= set(answer.models.values()):
            return answer
        assert time.monotonic() < end, answer.models
        time.sleep(0.5)


def picture(form: str, size: tuple[int, int] = (64, 64), **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "grey").save(file, form, **options)
    return file.getvalue()


def _truncated() -> bytes:
    photograph = SIX_ADULTS.read_bytes()
    return photograph[: len(photograph) // 2]


def _animation() -> bytes:
    frames = [Image.fromarray(np.full((64, 64, 3), shade, np.uint8)) for shade in (0, 128, 255)]
    animation = io.BytesIO()
    frames[0].save(animation, "GIF", save_all=True, append_images=frames[1:])
    return animation.getvalue()


# Name → what makes the bytes, and the status that must be answered.
BAD_INPUTS: dict[str, tuple[Callable[[], bytes], int]] = {
    "0 bytes": (bytes, 400),
    "text as JPEG": (lambda: b"this is no picture", 415),
    "truncated JPEG": (_truncated, 422),
    "20,000 x 20,000 PNG": (lambda: flat("PNG", (20_000, 20_000), "1"), 413),
    "animated GIF": (_animation, 200),
    "50 MB body": (lambda: b"\xff\xd8" + bytes(50 * 1024 * 1024), 413),
    "no face": (lambda: picture("JPEG"), 200),
}
