"""Send attacks to the running system or put them into its data folder; each returns all outcomes."""

import json
import socket
import time

import httpx
from agegender.heads.head import Task

import tests.support.hostile_data as data
import tests.support.hostile_messages as messages
import tests.support.hostile_pictures as pictures
from tests.support.fault_record import record
from tests.support.hostile_system import System, outcome
from tests.support.made_heads import made_head
from tests.support.system import SIX_ADULTS


def crowd(system: System) -> set[str]:
    """One face 2,500 times; then somebody else asks."""
    photograph = SIX_ADULTS.read_bytes()
    (found,) = httpx.post(
        system.url("predictor", "/age-gender"),
        content=photograph,
        headers={"Content-Type": "image/jpeg"},
        timeout=90,
    ).json()["images"]
    (face, *_) = found["faces"]
    answered = system.image(pictures.crowd(photograph, face["bbox"], side=5000, rows=50))
    over = time.monotonic()
    while system.image(photograph) != "200":
        if time.monotonic() > over + 120:
            return {answered, "nobody is answered afterwards"}
    record("2,500 faces in one image", others_answered_after=round(time.monotonic() - over, 1))
    return {answered}


def other_systems(system: System) -> set[str]:
    """Send bodies in other systems' formats that swell in memory, or whose boundary never comes."""
    form, packed, fields = "multipart/form-data", "application/msgpack", "application/x-www-form-urlencoded"
    compreface, deepface = "/compreface/api/v1/detection/detect", "/deepface/analyze"
    bodies = [
        (compreface, b"-" * 20_000_000, form),
        (compreface, b"--b\r\n" + b"x" * 20_000_000, form),
        (compreface, b'{"file": [' + b"0," * 10_000_000, "application/json"),
        (deepface, b"a=b&" * 5_000_000, fields),
        (deepface, b'{"img": "", "actions": [' + b"[]," * 6_000_000, "application/json"),
        (deepface, b'{"img": "' + b"A" * 20_000_000 + b'"}', "application/json"),
        ("/insightface-rest/extract", (b"\xdc\x03\xe8" + b"\x90" * 1000) * 20_000, packed),
        ("/insightface-rest/extract", b"\x91" * 20_000_000, packed),
        ("/insightface-rest/extract", b"\xc6\xff\xff\xff\xff" + bytes(20_000_000), packed),
    ]
    return {
        str(
            httpx.post(
                system.url("predictor", path), content=body, headers={"Content-Type": media_type}, timeout=60
            ).status_code
        )
        for path, body, media_type in bodies
    }


def embeddings(system: System) -> set[str]:
    """Send bad embeddings as JSON, and in the original's wire format."""
    others = ", ".join(["0.0"] * (system.space.dimension - 1))
    body = '{{"space": "{}", "embeddings": [[{}, {}]]}}'
    values = [*messages.not_finite_or_no_numbers(), "0.0", "1e-320", "1e308", "1" * 400]
    pickled = [
        messages.original("embeddings", messages.bytes_of(one)) for one in messages.pickled_not_finite()
    ]
    return {
        *(
            system.json("predictor", "/age-gender/embeddings", body.format(system.space.id, value, others))
            for value in values
        ),
        *(system.json("predictor", "/", sent) for sent in pickled),
        system.json("predictor", "/", json.dumps('{"embeddings": NaN}')),
    }


def text_for_numbers(system: System) -> set[str]:
    (system.stack.data_dir / "texts").mkdir()
    (system.stack.data_dir / "texts" / "labels.csv").write_text("file,age\nx.jpg,30\n")
    asked: list[dict[str, object]] = [
        {"seeds": "3"},
        {"seed": "1"},
        {"folds": ["1"]},
        {"validation": "0.1"},
        {"optimizer": {"epochs": "5"}},
    ]
    asked += [
        {"head": {"hidden": ["64"]}},
        {"augmentation": {"mirrored": "yes"}},
        {"loss": {"label_width": "2"}},
    ]
    extraction: list[dict[str, object]] = [{"shard_size": "32"}, {"mirrored": "1"}, {"min_det_score": "0.5"}]
    return {
        *(system.json("trainer", "/experiments", json.dumps({"dataset": "x", **one})) for one in asked),
        *(system.json("trainer", "/datasets/texts/extract", json.dumps(one)) for one in extraction),
    }


def gadgets(system: System) -> set[str]:
    """Every third: each name in four ways, each way with a third of the names. tests/unit has all of them."""
    sent = list(messages.gadgets(f"touch {system.mark}"))[::3]
    with httpx.Client(headers={"Content-Type": "application/json"}, timeout=60) as client:
        return {
            outcome(client.post(system.url(service, "/"), content=messages.original(name, one)))
            for service, name, part in (("predictor", "embeddings", 1), ("embedder-proxy", "image", 20))
            for one in sent[::part]
        }


def addresses(system: System) -> set[str]:
    """Send URLs wherever an image, a name or a file is expected; none of them may be requested."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.5)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/x.jpg"
        svg = f"<svg xmlns='http://www.w3.org/2000/svg'><image href='{url}'/></svg>"
        answered = {
            system.image(url.encode()),
            system.image(svg.encode()),
            system.json("predictor", "/age-gender", json.dumps({"images": [url]})),
            system.json("predictor", "/age-gender/embeddings", json.dumps({"space": url, "embeddings": []})),
            system.json("predictor", "/", messages.original("embeddings", {"py/ref": url})),
            system.json("trainer", "/experiments", json.dumps({"dataset": url})),
            system.json("trainer", "/experiments", json.dumps({"dataset": "x", "space": url})),
            system.json("trainer", f"/datasets/{url}/extract", "{}"),
            system.json(
                "trainer", "/datasets/x/import", json.dumps({"space": {"id": url, "dimension": 512}})
            ),
        }
        try:
            listening.accept()
        except TimeoutError:
            return answered
        return {"it was fetched"}


def labels(system: System) -> set[str]:
    names = system.folders("labels", data.LABELS, "labels.csv")
    (system.stack.data_dir / names[1] / "out").symlink_to("/etc")
    return system.jobs("extract", names)


def tables(system: System) -> set[str]:
    return system.jobs("extract", system.folders("tables", data.tables(), "wiki.mat"))


def original_files(system: System) -> set[str]:
    return system.jobs("import", system.folders("original", data.original_files(system.mark), "data.npy"))


def extracted_sets(system: System) -> set[str]:
    space = system.space
    names = system.folders("extracted", data.extracted_sets(), f"{space.id}/data-images.npz")
    meta_data = {"space": space.model_dump(), "faces": 10**12}
    for name in names:
        (system.stack.data_dir / name / space.id / "meta-data-images.json").write_text(json.dumps(meta_data))
    return {system.json("trainer", "/experiments", json.dumps({"dataset": name})) for name in names}


def heads(system: System) -> set[str]:
    models = system.stack.data_dir / "models"
    answered = {system.served_age_head(version) for version in data.lying_heads(models, system.space)}
    made_head(models, Task.AGE, system.space, "true")
    return answered | {f"true one {system.served_age_head('true')}"}
