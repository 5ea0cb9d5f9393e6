"""The predictor as its own process: heads swapped under load, SIGTERM."""

import io
import threading
import time
from pathlib import Path

import httpx
import pytest
from agegender.heads.head import Task, set_current
from agegender.predictions import ImageAnswer
from PIL import Image

from tests.support.embedder_double import SPACE, EmbedderDouble
from tests.support.fault_record import record
from tests.support.made_heads import made_head, make_answer_wrongly, promoted_heads
from tests.support.predictor_process import predictor_process
from tests.support.serving import until
from tests.support.system import SIX_ADULTS, assert_six_adults, client_of
from tools.stack import Stack

SWAPS = 200
CLIENTS = 4
NOT_CACHED = SIX_ADULTS.read_bytes() + b"a file of its own"  # the system is shared with other tests


class Load:
    """Clients that ask without a pause and note every status, its seconds, and the heads that answered."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(CLIENTS)]
        self.statuses: list[int] = []
        self.seconds: list[float] = []
        self.versions: set[str] = set()

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _ask(self, seed: int) -> None:
        with httpx.Client(base_url=self._url, timeout=20) as client:
            while not self._stop.is_set():
                asked = time.monotonic()
                try:
                    answer = client.post("/age-gender", content=f"image {seed}".encode())
                except httpx.TransportError:
                    self.statuses.append(0)
                    continue
                self.statuses.append(answer.status_code)
                self.seconds.append(time.monotonic() - asked)
                self.versions |= set(answer.json().get("models", {}).values())


def test_200_swaps_under_load_fail_no_request_and_a_corrupted_head_is_never_served(tmp_path: Path) -> None:
    models = tmp_path / "models"
    promoted_heads(models, SPACE, "v0")
    made_head(models, Task.AGE, SPACE, "v1", seed=1)
    damaged = made_head(models, Task.AGE, SPACE, "damaged", seed=2) / "head.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-40] + bytes(40))
    make_answer_wrongly(made_head(models, Task.AGE, SPACE, "wrong", seed=3))
    why = {"damaged": "hash", "wrong": "golden"}
    directory = models / "age" / SPACE.id
    with (
        EmbedderDouble(faces=3).served() as proxy,
        predictor_process(tmp_path, proxy.url) as process,
        httpx.Client(base_url=process.url, timeout=20) as client,
        Load(process.url) as load,
    ):
        started = time.monotonic()
        for swap in range(SWAPS):
            version = {10: "damaged", 15: "wrong"}.get(swap % 20, f"v{swap % 2}")
            set_current(directory, version)
            refreshed = client.post("/models/refresh").json()
            age = next(model for model in refreshed["models"] if model["task"] == "age")
            if version in why:
                assert age["version"] != version and why[version] in age["problem"]
            else:
                assert age["version"] == version and age["problem"] is None
        seconds = time.monotonic() - started
        answered = load.statuses.count(200)
    record(
        "heads swapped under load",
        answered=len(load.seconds),
        failed=len(load.statuses) - load.statuses.count(200),
        slowest=round(max(load.seconds), 3),
        swaps_a_second=round(SWAPS / seconds, 1),
    )
    assert answered > SWAPS
    assert set(load.statuses) == {200}
    assert load.versions == {"v0", "v1"}


def test_sigterm_answers_what_was_accepted(tmp_path: Path) -> None:
    promoted_heads(tmp_path / "models", SPACE)
    statuses: list[int] = []
    with EmbedderDouble(seconds=1).served() as proxy:
        with predictor_process(tmp_path, proxy.url) as process:
            asking = threading.Thread(
                target=lambda: statuses.append(
                    httpx.post(f"{process.url}/age-gender", content=b"x", timeout=20).status_code
                )
            )
            asking.start()
            until(lambda: proxy.working == 1, "the request is at the proxy")
        asking.join(20)
    assert statuses == [200]


def test_six_adults_are_found_through_the_whole_chain(buffalo_system: Stack) -> None:
    url = f"{buffalo_system.url('predictor')}/age-gender"
    answer = httpx.post(url, files={"image": NOT_CACHED}, timeout=60).json()
    (image,) = answer["images"]
    assert (image["width"], image["height"], len(image["faces"])) == (1280, 886, 6)
    assert answer["space"]["dimension"] == 512
    timings = answer["timings"]
    assert min(timings[stage] for stage in ("detect", "embed", "heads")) > 0
    assert timings["decode"] + timings["detect"] + timings["embed"] < timings["proxy"] < timings["total"]
    within = ("check", "cache", "decode", "detect", "embed", "transfer")
    assert sum(timings[stage] for stage in within) < timings["proxy"] + 0.01  # each is rounded
    assert all(face["quality"]["sharpness"] > 50 for face in image["faces"])
    turned = min(image["faces"], key=lambda face: face["quality"]["score"])
    assert "turned" in turned["quality"]["reasons"]  # the man at the upper right looks aside


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_image_of_a_phone_is_answered_upright(human_system: Stack, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    lying = Image.open(SIX_ADULTS).transpose(Image.Transpose.ROTATE_90)
    lying.save(file, kind, exif=exif.tobytes(), quality=90)
    answer = client_of(human_system).predict([file.getvalue()])
    assert_six_adults(answer)
    (image,) = answer.images
    assert isinstance(image, ImageAnswer) and image.rotation == 0 and image.width > image.height
