"""Clients of other systems against the whole system: the examples of docs/migrating.md on six adults."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from tests.support.aws import rekognition
from tests.support.compreface import JAVASCRIPT_PINS, PYTHON_PINS, detect_with_javascript, detect_with_python
from tests.support.insightface_rest import extract, extract_packed
from tests.support.npm import npm_folder, run_node
from tests.support.own_environment import python_with
from tests.support.system import SIX_ADULTS
from tools.stack import ROOT, Stack

AWS_SDK = "@aws-sdk/client-rekognition@3.1142.0"
JPEG = {"Content-Type": "image/jpeg"}
FROM_LEFT = ["Female", "Female", "Male", "Male", "Male", "Female"]
SECTION = re.compile(r"^## (.+?)$(.*?)(?=^## |\Z)", re.M | re.S)
EXAMPLE = re.compile(r"```(\w+)\n(.*?)```", re.S)


def example(section: str, language: str, stack: Stack) -> str:
    """Return an example of docs/migrating.md, with the address of the system under test."""
    sections = dict(SECTION.findall((ROOT / "docs" / "migrating.md").read_text()))
    (code,) = (code for found, code in EXAMPLE.findall(sections[section]) if found == language)
    port = stack.url("predictor").rpartition(":")[2]
    assert "127.0.0.1" in code and "10003" in code
    return str(code.replace("10003", port))


def printed_by(code: str, folder: Path, interpreter: Path = Path(sys.executable)) -> list[str]:
    (folder / "t1.jpg").write_bytes(SIX_ADULTS.read_bytes())
    environment = {
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    done = subprocess.run(
        [str(interpreter), "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_boto3_gets_six_faces_with_ages_and_genders(human_system: Stack, tmp_path: Path) -> None:
    lines = printed_by(example("Amazon Rekognition", "python", human_system), tmp_path)
    assert len(lines) == 6 and sorted(line.split()[-1] for line in lines) == sorted(FROM_LEFT)

    client = rekognition(human_system.url("predictor"))
    answer = client.detect_faces(Image={"Bytes": SIX_ADULTS.read_bytes()}, Attributes=["ALL"])
    faces = sorted(answer["FaceDetails"], key=lambda face: face["BoundingBox"]["Left"])
    assert [face["Gender"]["Value"] for face in faces] == FROM_LEFT
    for face in faces:
        assert face["AgeRange"]["Low"] <= 40 and face["AgeRange"]["High"] >= 20
        assert 50 <= face["Gender"]["Confidence"] <= 100
        assert all(0 <= face["BoundingBox"][name] <= 1 for name in face["BoundingBox"])
        assert set(face["Quality"]) == {"Brightness", "Sharpness"}
        assert abs(face["Pose"]["Roll"]) < 45 and all(abs(angle) < 75 for angle in face["Pose"].values())
    for error, image in (("InvalidImageFormatException", b"not an image"),):
        with pytest.raises(getattr(client.exceptions, error)):
            client.detect_faces(Image={"Bytes": image})


def test_aws_sdk_for_javascript_gets_the_same(human_system: Stack) -> None:
    folder = npm_folder(AWS_SDK)
    code = example("Amazon Rekognition", "javascript", human_system)
    report = """
        import { readFileSync } from "node:fs";
        const image = readFileSync(process.env.IMAGE);
        const seen = answer.FaceDetails.map((face) => [face.BoundingBox.Left, face.Gender.Value]);
        console.log(JSON.stringify(seen));
        const bad = new DetectFacesCommand({ Image: { Bytes: Buffer.from("not an image") } });
        console.log(await client.send(bad).catch((error) => error.name));
        const stored = new DetectFacesCommand({ Image: { S3Object: { Bucket: "b", Name: "n" } } });
        console.log(await client.send(stored).catch((error) => error.name));
    """
    declared, rest = report.split("const seen", 1)
    environment = {
        "IMAGE": str(SIX_ADULTS),
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "eu-central-1",
    }
    faces, *errors = run_node(folder, f"{declared}{code}const seen{rest}", environment).splitlines()
    assert [gender for _, gender in sorted(json.loads(faces))] == FROM_LEFT
    assert errors == ["InvalidImageFormatException", "InvalidS3ObjectException"]


def test_client_of_triton_gets_six_faces(human_system: Stack, tmp_path: Path) -> None:
    lines = printed_by(example("KServe V2 and Triton", "python", human_system), tmp_path)
    assert sorted(line.split()[-1] for line in lines) == sorted(gender.lower() for gender in FROM_LEFT)

    with triton.InferenceServerClient(human_system.url("predictor").removeprefix("http://")) as client:
        tensor = triton.InferInput("image", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([SIX_ADULTS.read_bytes()], dtype=np.object_))
        answer = client.infer("age-gender", [tensor])
        female = answer.as_numpy("p_female")[answer.as_numpy("bbox")[:, 0].argsort()] > 0.5
        assert ["Female" if one else "Male" for one in female] == FROM_LEFT
        low, age, high = (answer.as_numpy(name) for name in ("age_low", "age", "age_high"))
        assert (low <= age).all() and (age <= high).all()
        for bad in (b"not an image", b""):
            tensor.set_data_from_numpy(np.array([bad], dtype=np.object_))
            with pytest.raises(InferenceServerException) as raised:
                client.infer("age-gender", [tensor])
            assert raised.value.status() in ("400", "415")


def test_sdk_of_compreface_for_python_gets_six_faces(human_system: Stack, tmp_path: Path) -> None:
    interpreter = python_with("compreface", *PYTHON_PINS)
    lines = printed_by(example("CompreFace", "python", human_system), tmp_path, interpreter)
    assert sorted(line.split()[-1] for line in lines) == sorted(gender.lower() for gender in FROM_LEFT)

    url, options = human_system.url("predictor"), {"face_plugins": "age,gender,landmarks", "status": "true"}
    faces = detect_with_python(url, SIX_ADULTS, options)["result"]
    faces.sort(key=lambda face: face["box"]["x_min"])
    assert [face["gender"]["value"] for face in faces] == [gender.lower() for gender in FROM_LEFT]
    for face in faces:
        assert face["age"]["low"] <= 40 and face["age"]["high"] >= 20 and face["age"]["probability"] == 0.9
        assert face["box"]["x_min"] < face["landmarks"][0][0] < face["landmarks"][1][0] < face["box"]["x_max"]
    for content, code in ((b"not an image", 21), (b"", 5)):
        (tmp_path / "bad.jpg").write_bytes(content)
        assert detect_with_python(url, tmp_path / "bad.jpg", options)["code"] == code


def test_sdk_of_compreface_for_javascript_gets_the_same(human_system: Stack) -> None:
    folder = npm_folder(*JAVASCRIPT_PINS)
    (folder / "t1.jpg").write_bytes(SIX_ADULTS.read_bytes())
    code = example("CompreFace", "javascript", human_system)
    report = "console.log(answer.result.map((face) => face.gender.value).join(' '));"
    printed = run_node(folder, code + report, {"NO_PROXY": "127.0.0.1"}).split()
    assert sorted(printed) == sorted(gender.lower() for gender in FROM_LEFT)
    url, options = human_system.url("predictor"), {"face_plugins": "gender", "det_prob_threshold": 0.8}
    assert len(detect_with_javascript(url, SIX_ADULTS, "blob", options)["result"]) == 6


def test_client_of_deepface_gets_six_faces(human_system: Stack, tmp_path: Path) -> None:
    lines = printed_by(example("deepface", "python", human_system), tmp_path)
    genders = {"Woman": "Female", "Man": "Male"}
    assert sorted(genders[line.split()[-1]] for line in lines) == sorted(FROM_LEFT)

    url = f"{human_system.url('predictor')}/deepface/analyze"
    with SIX_ADULTS.open("rb") as image:
        answer = requests.post(url, files={"img": image}, data={"actions": '["age", "gender"]'}, timeout=60)
    faces = sorted(answer.json()["results"], key=lambda face: face["region"]["x"])
    assert [genders[face["dominant_gender"]] for face in faces] == FROM_LEFT
    assert all(18 <= face["age"] <= 50 for face in faces)
    assert all(face["region"]["right_eye"][0] < face["region"]["left_eye"][0] for face in faces)
    for content in (b"not an image", b""):
        answer = requests.post(url, files={"img": ("bad.jpg", content)}, timeout=60)
        assert answer.status_code in (400, 415) and "error" in answer.json()


def test_clients_of_insightface_rest_get_six_faces(human_system: Stack, tmp_path: Path) -> None:
    lines = printed_by(example("InsightFace-REST", "python", human_system), tmp_path)
    assert sorted(line.split()[-1] for line in lines) == sorted(gender.lower() for gender in FROM_LEFT)

    url, image = f"{human_system.url('predictor')}/insightface-rest", SIX_ADULTS.read_bytes()
    options = {"extract_ga": True}
    for answer in (
        extract(url, [image, b"not an image", b""], use_msgpack=True, **options),
        extract(url, [image, b"not an image", b""], use_msgpack=False, **options),
        extract_packed(url, [image, b"not an image", b""], **options),
    ):
        assert [entry["status"] for entry in answer["data"]] == ["ok", "failed", "failed"]
        faces = sorted(answer["data"][0]["faces"], key=lambda face: face["bbox"][0])
        assert [["Female", "Male"][face["gender"]] for face in faces] == FROM_LEFT
        assert all(18 <= face["age"] <= 50 and len(face["vec"]) == 3600 for face in faces)


def test_crops_of_faces_are_answered_without_detection(human_system: Stack) -> None:
    """Clients that cut faces out themselves: deepface's `skip`, and `embed_only` of InsightFace-REST."""
    url, photograph = human_system.url("predictor"), SIX_ADULTS.read_bytes()
    own = requests.post(f"{url}/age-gender", data=photograph, headers=JPEG, timeout=60).json()["images"][0]
    boxes = sorted(face["bbox"] for face in own["faces"])
    crops = [cropped(photograph, box) for box in boxes]
    genders = []
    for crop in crops:
        form = {"actions": '["gender"]', "detector_backend": "skip"}
        answer = requests.post(f"{url}/deepface/analyze", files={"img": crop}, data=form, timeout=60)
        (face,) = answer.json()["results"]
        assert face["face_confidence"] == face["region"]["x"] == 0
        genders.append({"Woman": "Female", "Man": "Male"}[face["dominant_gender"]])
    assert genders == FROM_LEFT
    answer = extract_packed(f"{url}/insightface-rest", crops, embed_only=True, extract_ga=True)
    faces = [image["faces"][0] for image in answer["data"]]
    assert [["Female", "Male"][face["gender"]] for face in faces] == FROM_LEFT
    assert all(face["prob"] == 1 for face in faces)
    about = requests.get(f"{url}/insightface-rest/info", timeout=60).json()
    assert about["models"]["det_name"] == "human-3"


def cropped(photograph: bytes, box: list[float]) -> bytes:
    file = io.BytesIO()
    x1, y1, x2, y2 = map(round, box)
    Image.open(io.BytesIO(photograph)).crop((x1, y1, x2, y2)).save(file, "JPEG", quality=95)
    return file.getvalue()
