"""Clients of other systems against the whole system: the examples of docs/migrating.md on six adults."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from tests.support.aws import rekognition
from tests.support.npm import npm_folder, run_node
from tests.support.system import SIX_ADULTS
from tools.stack import ROOT, Stack

pytestmark = pytest.mark.xdist_group("human-system")

AWS_SDK = "@aws-sdk/client-rekognition@3.1142.0"
FROM_LEFT = ["Female", "Female", "Male", "Male", "Male", "Female"]
SECTION = re.compile(r"^## (.+?)$(.*?)(?=^## |\Z)", re.M | re.S)
EXAMPLE = re.compile(r"```(\w+)\n(.*?)```", re.S)


def example(section: str, language: str, stack: Stack) -> str:
    """Return an example of docs/migrating.md, with the address of the system under test."""
    sections = dict(SECTION.findall((ROOT / "docs" / "migrating.md").read_text()))
    (code,) = (code for found, code in EXAMPLE.findall(sections[section]) if found == language)
    address = stack.url("predictor").removeprefix("http://")
    assert "127.0.0.1:10003" in code
    return str(code.replace("127.0.0.1:10003", address))


def printed_by(code: str, folder: Path) -> list[str]:
    (folder / "t1.jpg").write_bytes(SIX_ADULTS.read_bytes())
    environment = {
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
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
