"""The client takes images in every usual form, and names what it received if it cannot take it."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agegender.errors import Problem
from agegender.faces import FacesAnswer, ImageFaces
from agegender.heads.head import Task
from agegender.predictions import AgeGenderAnswer, ImageAnswer
from agegender_client import AsyncClient, Client, ClientSettings
from fastapi import FastAPI, Request, Response
from starlette.datastructures import UploadFile

from tests.support.service_double import Service
from tests.support.serving import serving

SPACE = {"id": "test-1", "dimension": 2}
BAD = b"bad"


def described(received: list[list[bytes]]) -> FastAPI:
    """Answers each image with its length as its width; BAD is an image with a problem."""
    app = FastAPI()

    @app.post("/age-gender")
    @app.post("/faces")
    async def answered(request: Request) -> Response:
        form = await request.form()
        images = [await part.read() for part in form.getlist("image") if isinstance(part, UploadFile)]
        received.append(images)
        if request.headers["accept"] == "image/png":
            return Response(b"drawn " + images[0])
        problem = {"problem": Problem("damaged-image", 422, "The image file is damaged.").document()}
        entries = [
            problem if image == BAD else {"width": len(image), "height": 1, "faces": []} for image in images
        ]
        return Response(json.dumps({"space": SPACE, "models": {}, "images": entries, "timings": {}}))

    return app


@pytest.fixture
def received() -> list[list[bytes]]:
    return []


@pytest.fixture
def settings(received: list[list[bytes]]) -> Iterator[ClientSettings]:
    with serving(described(received)) as url:
        yield ClientSettings(predictor_url=url, proxy_url=url, trainer_url=url)


@pytest.fixture
def client(settings: ClientSettings) -> Iterator[Client]:
    with Client(settings) as client:
        yield client


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"12345")
    return path


SINGLE: dict[str, Callable[[Path], Any]] = {
    "str": str,
    "Path": lambda path: path,
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "file": lambda path: path.open("rb"),
}


@pytest.mark.parametrize("form", SINGLE)
async def test_one_image_in_any_form_gives_its_own_answer(
    settings: ClientSettings, received: list[list[bytes]], photo: Path, form: str
) -> None:
    make = SINGLE[form]
    with Client(settings) as client:
        answer = client.predict(make(photo))
        assert isinstance(answer, ImageAnswer) and (answer.width, answer.ok, answer.faces) == (5, True, [])
        assert isinstance(client.faces(make(photo)), ImageFaces)
        assert client.annotate(make(photo)) == b"drawn 12345"
    async with AsyncClient(settings) as other:
        assert await other.predict(make(photo)) == answer
        assert isinstance(await other.faces(make(photo)), ImageFaces)
        assert await other.annotate(make(photo)) == b"drawn 12345"
    assert received == [[b"12345"]] * 6


async def test_list_gives_an_entry_for_each_image_in_order(
    settings: ClientSettings, received: list[list[bytes]], photo: Path
) -> None:
    images = [make(photo) for make in SINGLE.values()]
    with Client(settings) as client:
        answer = client.predict(images)
        assert isinstance(answer, AgeGenderAnswer) and all(image.ok for image in answer.images)
        assert len(client.predict(tuple(b"x" * count for count in (1, 2))).images) == 2
        assert len(client.predict([photo]).images) == 1
        assert len(client.predict(path for path in [photo, photo]).images) == 2  # type: ignore[call-overload]
        assert isinstance(client.faces([photo]), FacesAnswer)
    async with AsyncClient(settings) as other:
        assert len((await other.predict([photo, photo])).images) == 2
    assert received[0] == [b"12345"] * 7 and received[1] == [b"x", b"xx"]


def test_image_with_a_problem_is_not_ok_and_has_no_faces(client: Client, tmp_path: Path) -> None:
    for answer in (client.predict([b"good", BAD]), client.faces([b"good", BAD])):
        assert [image.ok for image in answer.images] == [True, False]
        assert [image.faces for image in answer.images] == [[], []]
    with pytest.raises(Problem) as raised:
        client.predict(BAD)
    assert (raised.value.slug, raised.value.status) == ("damaged-image", 422)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (None, TypeError, "images: got None; expected a path"),
        (7, TypeError, "got a int"),
        ([b"x", 7], TypeError, "got a int in the list, at 1"),
        ([["x"]], TypeError, "got a list in the list, at 0"),
        ([None], TypeError, "got None in the list, at 0"),
        ({"image": b"x"}, TypeError, "got a dict"),
        ({b"x"}, TypeError, "got a set"),
        (np.zeros((4, 4, 3), np.uint8), TypeError, "got a ndarray"),
        (io.StringIO("text"), TypeError, r"open it in binary mode \('rb'\)"),
        ([], ValueError, "got an empty list"),
        ("https://example.org/a.jpg", ValueError, "got an address"),
        ("data:image/jpeg,abc", ValueError, "got a data URL"),
        (["data:image/png;base64,AAAA"], ValueError, "got a data URL in the list, at 0"),
    ],
)
async def test_what_is_no_image_is_named_before_anything_is_sent(
    settings: ClientSettings, received: list[list[bytes]], images: Any, error: type[Exception], message: str
) -> None:
    with Client(settings) as client:
        for method in (client.predict, client.faces):
            with pytest.raises(error, match=message):
                method(images)
    async with AsyncClient(settings) as other:
        with pytest.raises(error, match=message):
            await other.predict(images)
    assert received == []


def test_annotated_is_one_image(client: Client, photo: Path) -> None:
    with pytest.raises(TypeError, match="got a list; expected one path"):
        client.annotate([photo])  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", ["http://127.0.0.1:10003", "", {"predictor_url": "http://127.0.0.1"}])
def test_settings_of_another_type_are_named(settings: Any) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(TypeError, match=r"settings: got a (str|dict); expected a ClientSettings"):
            kind(settings)


def test_file_that_cannot_be_read_is_an_os_error(client: Client, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        client.predict(tmp_path / "none.jpg")
    with pytest.raises(IsADirectoryError):
        client.predict(str(tmp_path))


NAMED = (
    *("experiment", "resume", "cancel", "refit", "promote", "report", "search", "resume_search"),
    *(
        "cancel_search",
        "dataset",
        "extract",
        "cancel_extraction",
        "delete_extraction",
        "import_original",
        "watch",
        "watch_search",
        "watch_extraction",
    ),
)


@pytest.mark.parametrize("method", NAMED)
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (["e1"], TypeError, "got a list; expected a str"),
        (None, TypeError, "got None"),
        (Path("e1"), TypeError, "got a PosixPath; expected a str, such as 'e1'"),
        ("", ValueError, "got ''"),
        ("..", ValueError, "got '..'"),
    ],
)
def test_name_that_is_none_is_refused(
    client: Client, method: str, given: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message.replace(".", r"\.")):
        answer = getattr(client, method)(given)
        list(answer)  # the streams ask when they are read


@pytest.mark.parametrize("method", ["create_experiment", "create_search"])
@pytest.mark.parametrize("given", [["Adience"], "Adience", None])
def test_request_is_a_mapping(client: Client, method: str, given: Any) -> None:
    with pytest.raises(TypeError, match=r"request: got .*; expected a dict"):
        getattr(client, method)(given)


def test_embeddings_are_rows_of_numbers() -> None:
    service = Service()
    with serving(service.app()) as url, Client(ClientSettings(predictor_url=url)) as client:
        answer = {"space": SPACE, "models": {}, "faces": [], "timings": {}}
        service.will_answer(answer, answer, answer)
        rows = np.array([[0.6, 0.8]], np.float64)
        for given in (rows, [rows[0]], [[0.6, np.float64(0.8)]]):
            client.predict_embeddings("test-1", given)  # type: ignore[arg-type]
        assert [json.loads(request[3])["embeddings"] for request in service.requests] == [[[0.6, 0.8]]] * 3
        for wrong, message in (([0.6, 0.8], "got a float at 0"), ("rows", "got a str"), (None, "got None")):
            with pytest.raises(TypeError, match=message):
                client.predict_embeddings("test-1", wrong)  # type: ignore[arg-type]


def test_name_cannot_leave_its_place_in_the_path_and_tasks_may_be_text() -> None:
    service = Service()
    with serving(service.app()) as url, Client(ClientSettings(predictor_url=url, trainer_url=url)) as client:
        service.will_answer({"models": [], "warnings": []}, {"name": "x"})
        client.roll_back("age")  # type: ignore[arg-type]
        client.dataset("../models?a=1")
        with pytest.raises(ValueError, match="height"):
            client.roll_back("height")  # type: ignore[arg-type]
    assert service.requests[0][1] == f"/models/{Task.AGE.value}/rollback"
    assert (service.requests[1][1], service.queries[1]) == ("/datasets/../models?a=1", "")


@pytest.mark.parametrize("names", [("image_set", "image_sets", "format"), ("variant", "variants", "kind")])
def test_image_sets_are_read_by_their_name_and_by_that_of_an_older_trainer(names: tuple[str, ...]) -> None:
    service = Service()
    image_set, image_sets, label_format = names
    extracted = {"space": SPACE, image_set: "aligned", "faces": 7}
    extraction = {"dataset": "x", "space": SPACE, image_set: "faces", "state": "failed"}
    with serving(service.app()) as url, Client(ClientSettings(trainer_url=url)) as client:
        service.will_answer(
            {"name": "x", image_sets: ["aligned"], label_format: "Adience"}
            | {"extracted": [extracted], "extractions": [extraction]}
        )
        dataset = client.dataset("x")
    assert (dataset.format, dataset.image_sets) == ("Adience", ["aligned"])
    assert [one.image_set for one in (*dataset.extracted, *dataset.extractions)] == ["aligned", "faces"]
    assert dataset.extracted[0].variant == "aligned"  # the deprecated name
