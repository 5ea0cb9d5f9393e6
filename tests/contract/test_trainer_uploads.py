"""Uploads of data sets: what arrives whole appears at once, and what is refused leaves nothing behind."""

import io
import os
import re
import socket
import stat
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from agegender.errors import Problem
from agegender.keys import ApiKey, Scope
from fastapi.testclient import TestClient
from PIL import Image
from pydantic import SecretStr
from trainer.app import create_trainer
from trainer.datasets import uploads
from trainer.datasets.uploads import STALE_SECONDS, Upload, delete_stale_uploads
from trainer.settings import TrainerSettings

from tests.support.redis_server import RedisServer, redis_server
from tests.support.serving import serving, until
from tests.support.small_volumes import small_volume

TABLE = b"file,age,gender\na.jpg,25,f\nb.jpg,31,m\n"


def image(shade: int = 128) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (shade, shade, shade)).save(file, "JPEG")
    return file.getvalue()


def archive(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as opened:
        for name, content in entries:
            opened.writestr(name, content)
    return file.getvalue()


def good_archive(folder: str = "") -> bytes:
    return archive((f"{folder}a.jpg", image()), (f"{folder}b.jpg", image(90)), (f"{folder}labels.csv", TABLE))


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def with_sizes(content: bytes, old: int, new: int) -> bytes:
    """Return the archive whose headers state another size of the entry of `old` bytes."""
    before, after = old.to_bytes(4, "little"), new.to_bytes(4, "little")
    assert content.count(before) >= 2
    return content.replace(before, after)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def trainer(redis: RedisServer, data_dir: Path) -> Iterator[httpx.Client]:
    settings = TrainerSettings(data_dir=data_dir, redis_url=redis.url)
    with serving(create_trainer(settings)) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Return a name of its own for the test's data set."""
    return "d" + re.sub(r"\W+", "-", request.node.name)[:80]


def send(client: httpx.Client, name: str, *files: tuple[str, bytes]) -> httpx.Response:
    return client.post(f"/datasets/{name}/files", files=[("file", file) for file in files])


def refused(response: httpx.Response, status: int, slug: str, data_dir: Path, name: str) -> str:
    """Check that nothing was stored; return the problem's detail."""
    assert (response.status_code, response.json()["type"].rpartition(":")[2]) == (status, slug), response.text
    assert not (data_dir / name).exists()
    assert not list(data_dir.glob(".upload-*"))
    return str(response.json()["detail"])


def test_zip_becomes_a_data_set_without_the_folder_at_its_top(
    trainer: httpx.Client, data_dir: Path, name: str
) -> None:
    entries = [
        ("My faces/a.jpg", image()),
        ("My faces/b.jpg", image(90)),
        ("My faces/labels.csv", TABLE),
        ("__MACOSX/My faces/._a.jpg", b"resource fork"),
        ("My faces/.DS_Store", b"x"),
        ("My faces/read me.md", b"x"),
    ]
    answer = send(trainer, name, ("faces.zip", archive(*entries)))
    assert answer.status_code == 201, answer.text
    assert answer.json() == {
        "name": name,
        "images": 2,
        "tables": ["labels.csv"],
        "size": len(image()) + len(image(90)) + len(TABLE),
        "skipped": {".md": 1},
        "format": "labels.csv",
        "problem": None,
    }
    assert {path.name for path in (data_dir / name).iterdir()} == {"a.jpg", "b.jpg", "labels.csv"}
    assert (data_dir / name / "a.jpg").read_bytes() == image()
    assert name in [one["name"] for one in trainer.get("/datasets").json()]
    assert not list(data_dir.glob(".upload-*"))


def test_images_and_a_table_become_a_data_set_with_their_folders(
    trainer: httpx.Client, data_dir: Path, name: str
) -> None:
    table = TABLE.replace(b"a.jpg", b"one/a.jpg")
    answer = send(trainer, name, ("one/a.jpg", image()), ("b.jpg", image(90)), ("labels.csv", table))
    assert answer.status_code == 201 and answer.json()["images"] == 2
    rows = trainer.get(f"/datasets/{name}/images").json()
    assert [(row["file"], row["age_low"], row["gender"]) for row in rows] == [
        ("one/a.jpg", 25, "female"),
        ("b.jpg", 31, "male"),
    ]
    shown = trainer.get(f"/datasets/{name}/images/thumbnail", params={"file": "one/a.jpg"})
    assert shown.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(shown.content)).size == (64, 64)
    for outside in ("../secret.jpg", "/etc/passwd", "none.jpg", "labels.csv"):
        params = {"file": outside}
        assert trainer.get(f"/datasets/{name}/images/thumbnail", params=params).status_code == 404


def test_images_without_recognised_labels_are_stored_with_the_reason(
    trainer: httpx.Client, data_dir: Path, name: str
) -> None:
    answer = send(
        trainer, name, ("faces.zip", archive(("a.jpg", image()))), ("people.csv", b"who,when\nx,y\n")
    )
    assert answer.status_code == 201
    assert answer.json()["format"] is None and answer.json()["tables"] == ["people.csv"]
    assert "a data set that can be read" in answer.json()["problem"]
    listed = {one["name"]: one for one in trainer.get("/datasets?all_folders=true").json()}
    assert listed[name]["problem"] == answer.json()["problem"]
    assert name not in [one["name"] for one in trainer.get("/datasets").json()]
    assert not {"experiments", "models"} & set(listed)


def test_names_in_utf8_without_the_flag_are_read_as_macos_writes_them(
    trainer: httpx.Client, data_dir: Path, name: str
) -> None:
    content = archive(("Zoë.jpg", image()), ("labels.csv", "file,age\nZoë.jpg,30\n".encode()))
    flagged = (0x800).to_bytes(2, "little")
    assert content.count(b"\x14\x00" + flagged) >= 2
    content = content.replace(b"\x14\x00" + flagged, b"\x14\x00\x00\x00")
    assert send(trainer, name, ("mac.zip", content)).status_code == 201
    assert (data_dir / name / "Zoë.jpg").exists()


def test_names_with_backslashes_are_read_as_old_windows_programs_write_them(
    trainer: httpx.Client, data_dir: Path, name: str
) -> None:
    content = archive(("faces\\", b""), ("faces\\a.jpg", image()), ("faces\\labels.csv", TABLE))
    assert send(trainer, name, ("net.zip", content)).status_code == 201
    assert (data_dir / name / "a.jpg").exists()


def lying(stated: int) -> Callable[[], bytes]:
    """Return an archive of an entry of 3,000,017 bytes whose headers state another size."""
    return lambda: with_sizes(archive(("a.jpg", bytes(3_000_017))), 3_000_017, stated)


def overlapping() -> bytes:
    """Return an archive whose directory names the content of one entry many times."""
    noise = os.urandom(50_000)
    content = archive(("0.jpg", noise), method=zipfile.ZIP_STORED)
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entries = b"".join(content[start:end].replace(b"0.jpg", b"%d.jpg" % n) for n in range(10))
    tail = bytearray(content[end:])
    tail[8:12] = (10).to_bytes(2, "little") * 2
    tail[12:16] = len(entries).to_bytes(4, "little")
    return content[:start] + entries + bytes(tail)


def encrypted() -> bytes:
    entry, flag = b"PK\x01\x02\x14\x03\x14\x00", b"\x01"  # of an entry in the directory
    content = good_archive()
    assert content.count(entry + b"\x00") == 3
    return content.replace(entry + b"\x00", entry + flag)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "entry larger than stated": (lying(17), "states wrong sizes"),
    "entry smaller than stated": (lying(3_500_017), "states wrong sizes"),
    "overlapping entries": (overlapping, "larger than the file"),
    "link": (lambda: archive((link("a.jpg"), b"/etc/passwd")), "a link"),
    "absolute name": (lambda: archive(("/tmp/a.jpg", image())), "leads out of"),
    "parent folder": (lambda: archive(("x/../../a.jpg", image())), "leads out of"),
    "parent of a hidden folder": (lambda: archive(("../.ssh/a.jpg", image())), "leads out of"),
    "drive": (lambda: archive(("C:/a.jpg", image())), "leads out of"),
    "nested archive": (lambda: archive(("part1.zip", good_archive())), "is an archive"),
    "duplicates by case": (lambda: archive(("a.jpg", image()), ("A.JPG", image())), "ignore case"),
    "file that is a folder": (lambda: archive(("a.jpg", image()), ("A.jpg/b.jpg", image())), "ignore case"),
    "folder that is a file": (lambda: archive(("a.jpg/b.jpg", image()), ("A.jpg", image())), "ignore case"),
    "long name": (lambda: archive((f"{'x' * 300}.jpg", image())), "too long"),
    "deep name": (lambda: archive(("x/" * 40 + "a.jpg", image())), "too deep"),
    "bzip2": (lambda: archive(("a.jpg", image()), method=zipfile.ZIP_BZIP2), "method 12"),
    "encrypted": (encrypted, "encrypted"),
    "no zip": (lambda: b"this is no archive", "not a zip file"),
    "cut off": (lambda: good_archive()[:-30], "not a zip file"),
    "no image": (lambda: archive(("read me.md", b"x")), "no image and no table. Send"),
    "empty": (lambda: archive(), "no image"),
}


@pytest.mark.parametrize("case", BAD)
def test_archive_that_is_not_what_it_states_is_refused_and_leaves_nothing(
    trainer: httpx.Client, data_dir: Path, name: str, case: str
) -> None:
    content, reason = BAD[case]
    answer = send(trainer, name, ("faces.zip", content()))
    assert reason in refused(answer, 422, "bad-upload", data_dir, name)


@pytest.mark.parametrize("limit", ["MAX_FILES", "MAX_UNPACKED", "MAX_DIRECTORY"])
def test_limit_of_an_upload_is_enforced(
    trainer: httpx.Client, data_dir: Path, name: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, limit, 2)
    answer = send(trainer, name, ("faces.zip", good_archive()))
    status, slug = (422, "bad-upload") if limit == "MAX_DIRECTORY" else (413, "upload-too-large")
    refused(answer, status, slug, data_dir, name)
    if limit == "MAX_FILES":
        files = [(f"{number}.jpg", image()) for number in range(3)]
        refused(send(trainer, name, *files), 413, slug, data_dir, name)


def test_size_of_a_body_is_limited_whether_it_is_declared_or_not(
    trainer: httpx.Client, data_dir: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.routes.files.MAX_BYTES", 100_000)
    answer = send(trainer, name, ("a.jpg", bytes(200_000)))
    refused(answer, 413, "body-too-large", data_dir, name)

    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
        for _ in range(100):
            yield bytes(10_000)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = trainer.post(f"/datasets/{name}/files", content=endless(), headers=headers)
    refused(answer, 413, "body-too-large", data_dir, name)


def test_existing_or_reserved_folder_is_not_changed(trainer: httpx.Client, data_dir: Path, name: str) -> None:
    assert send(trainer, name, ("faces.zip", good_archive())).status_code == 201
    answer = send(trainer, name, ("x.jpg", image()))
    assert answer.status_code == 409 and answer.json()["type"].endswith(":dataset-exists")
    assert not (data_dir / name / "x.jpg").exists()
    for reserved in ("experiments", "Models"):
        refused(send(trainer, reserved, ("x.jpg", image())), 422, "bad-upload", data_dir, reserved)
    refused(send(trainer, ".hidden", ("x.jpg", image())), 404, "not-found", data_dir, ".hidden")


FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "no form": ({"content": b"x"}, "invalid-request"),
    "text in the field": ({"files": {"file": (None, b"faces.zip")}}, "invalid-request"),
    "another field": ({"files": {"image": ("a.jpg", b"x")}}, "invalid-request"),
    "no closing boundary": (
        {
            "content": b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\nabc',
            "headers": {"Content-Type": "multipart/form-data; boundary=x"},
        },
        "bad-multipart",
    ),
    "no multipart": (
        {"content": b"abc" * 100, "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        "bad-multipart",
    ),
}


@pytest.mark.parametrize("case", FORMS)
def test_malformed_form_is_refused(trainer: httpx.Client, data_dir: Path, name: str, case: str) -> None:
    request, slug = FORMS[case]
    answer = trainer.post(f"/datasets/{name}/files", **request)
    refused(answer, 400 if slug == "bad-multipart" else 422, slug, data_dir, name)


def test_upload_that_is_cut_off_or_falls_silent_leaves_nothing(
    trainer: httpx.Client, data_dir: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = urlsplit(str(trainer.base_url))
    head = (
        f"POST /datasets/{name}/files HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\nabc'
    ).encode()

    def hidden() -> list[Path]:
        return list(data_dir.glob(".upload-*"))

    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head)
        until(hidden, "the upload began", 20)
    until(lambda: not hidden(), "the upload was given up", 20)
    monkeypatch.setattr("trainer.routes.files._SILENCE", 0.2)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head)
        assert b" 408 " in connection.recv(4096)
    until(lambda: not hidden(), "the upload was given up", 20)
    assert not (data_dir / name).exists()


def test_only_so_many_uploads_run_at_once(
    trainer: httpx.Client, data_dir: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.routes.files._free.acquire", lambda blocking: False)
    refused(send(trainer, name, ("faces.zip", good_archive())), 429, "busy", data_dir, name)


def test_upload_needs_a_key_for_training_before_its_body_is_read(redis: RedisServer, tmp_path: Path) -> None:
    predict, predict_secret = ApiKey.new("predict", [Scope.PREDICT])
    train, train_secret = ApiKey.new("train", [Scope.TRAIN])
    settings = TrainerSettings(
        data_dir=tmp_path,
        redis_url=redis.url,
        api_keys=(predict, train),
        service_key=SecretStr("a secret among the services"),
    )
    client = TestClient(create_trainer(settings))  # without its lifespan: metrics exist once per process
    for secret, status in ((None, 401), (predict_secret, 403), (train_secret, 201)):
        client.headers = httpx.Headers({} if secret is None else {"Authorization": f"Bearer {secret}"})
        assert send(client, "faces", ("faces.zip", good_archive())).status_code == status
        assert (tmp_path / "faces").exists() == (status == 201)
    client.headers = httpx.Headers({})
    for path in ("/datasets/faces/images", "/datasets/faces/images/thumbnail?file=a.jpg"):
        assert client.get(path).status_code == 401


def test_full_volume_is_answered_by_507_and_nothing_is_left(redis: RedisServer, tmp_path: Path) -> None:
    with small_volume(tmp_path / "data", 24) as volume:
        client = TestClient(create_trainer(TrainerSettings(data_dir=volume.path, redis_url=redis.url)))
        # By its declared length, by the sizes in the directory, and while it arrives.
        answer = send(client, "faces", ("faces.zip", bytes(9 * 1024**2)))
        refused(answer, 507, "volume-full", volume.path, "faces")
        zeros = archive(("a.jpg", bytes(9 * 1024**2)), ("labels.csv", TABLE))
        answer = send(client, "faces", ("faces.zip", zeros))
        assert "needs 9 MB" in refused(answer, 507, "volume-full", volume.path, "faces")
        form = httpx.Request("POST", "http://x", files=[("file", ("a.jpg", bytes(30 * 1024**2)))])
        kind = {"Content-Type": form.headers["Content-Type"]}
        answer = client.post("/datasets/faces/files", content=iter([form.read()]), headers=kind)
        assert "became full" in refused(answer, 507, "volume-full", volume.path, "faces")
        assert send(client, "faces", ("faces.zip", good_archive())).status_code == 201


def test_upload_that_a_killed_process_left_is_deleted_later(tmp_path: Path) -> None:
    alive, dead = tmp_path / ".upload-alive", tmp_path / ".upload-dead"
    for folder in (alive, dead):
        (folder / "content").mkdir(parents=True)
    os.utime(dead, (0, time.time() - STALE_SECONDS - 1))
    delete_stale_uploads(tmp_path)
    assert alive.exists() and not dead.exists()


def test_folder_that_appears_during_an_upload_wins(tmp_path: Path) -> None:
    with Upload(tmp_path, "faces") as new:
        with new.open("a.jpg") as file:
            file.write(image())
        (tmp_path / "faces").mkdir()
        with pytest.raises(Problem, match="already"):
            new.publish()
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]
    assert not list((tmp_path / "faces").iterdir())
