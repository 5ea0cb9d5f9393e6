"""Compare with other packages on PyPI and npm, on the same photographs."""

import tarfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from agegender.images import ImageLimits, decode
from embedder.packs.pack import Pack

from benchmarks.packs import buffalo_sc, human
from benchmarks.peers import Answer, NotInstalled, Peer, peers
from benchmarks.photographs import one_face
from benchmarks.serving import local_heads
from benchmarks.table import Goal, Row, seconds_of
from tools.stack import PHOTOGRAPH, RESEARCH_DATA

FACES = 200
_TURNS = 4  # runs after a warm-up
_HUMAN = "ours searches the image at three sizes or more, and embeds each face by five networks"
_BUFFALO_SC = "ours puts each face and its mirror image through a network of 0.9 billion operations"


def rows() -> list[Row]:
    packs = [(pack, reason) for pack, reason in ((human(), _HUMAN), (buffalo_sc(), _BUFFALO_SC)) if pack]
    found = []
    with TemporaryDirectory() as folder:
        crop = Path(folder) / "crop.jpg"
        crop.write_bytes(one_face())
        labelled = _labelled(Path(folder))
        crops = [path for path, _, _ in labelled]
        ours = [_accuracy(_ours(pack, crops), labelled) for pack, _ in packs]
        for peer in peers():
            try:
                peer.install()
            except NotInstalled as error:
                found.append(Row(peer.name, "", None, note=str(error)))
                continue
            theirs = _accuracy(peer.answers(crops), labelled)
            for (pack, reason), accuracy in zip(packs, ours, strict=True):
                note = _accuracies(len(labelled), accuracy, theirs)
                found.append(_compared(PHOTOGRAPH, pack, peer, 1.5, note, reason))
                found.append(_compared(crop, pack, peer, 1, "", reason))
    return [*found, _deepface()]


def _deepface() -> Row:
    return Row(
        "deepface, analyze age and gender",
        "",
        None,
        note="not measured: its weights are on GitHub's releases, not on PyPI",
    )


def _accuracies(crops: int, ours: str, theirs: str) -> str:
    if not crops:
        return "no labelled faces for the accuracy: set AGEGENDER_DATA"
    return (
        f"on {crops} UTKFace crops ours: {ours}; theirs: {theirs}. Our heads were "
        "trained on UTKFace, so this is optimistic; docs/accuracy.md has out-of-fold metrics"
    )


def _compared(image: Path, pack: Pack, peer: Peer, goal: float, note: str, if_missed: str) -> Row:
    turns = [image] * (1 + _TURNS)
    theirs, ours = peer.answers(turns), _ours(pack, turns)
    seconds = {
        side: min(answer.seconds for answer in answers[1:])
        for side, answers in (("ours", ours), ("theirs", theirs))
    }
    what = "t1.jpg (six faces)" if image == PHOTOGRAPH else "one small crop"
    return Row(
        f"{what}, `{pack.space.id}` and heads: {ours[0].faces} found",
        f"{peer.name}: {theirs[0].faces} found",
        seconds["theirs"] / seconds["ours"],
        Goal(goal),
        seconds=seconds,
        note="; ".join(text for text in (peer.note, note) if text),
        if_missed=if_missed,
    )


def _ours(pack: Pack, images: Sequence[Path]) -> list[Answer]:
    age, gender = local_heads(pack)
    answers = []
    for path in images:
        found: list[Answer] = []

        def answer(path: Path = path, found: list[Answer] = found) -> None:
            faces = pack.faces([decode(path.read_bytes(), ImageLimits())])[0]
            if not faces:
                found.append(Answer(0, 0, None, None))
                return
            embeddings = np.array([face.embedding for face in faces], np.float32)
            years = age.probabilities(embeddings)[0] @ np.arange(101)
            female = gender.probabilities(embeddings)[0, 0]
            found.append(Answer(0, len(faces), float(years), "female" if female > 0.5 else "male"))

        seconds = seconds_of(answer)
        answers.append(Answer(seconds, found[0].faces, found[0].age, found[0].gender))
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


def _accuracy(answers: list[Answer], labelled: list[tuple[Path, float, str]]) -> str:
    both = [
        (answer.age, answer.gender, age, gender)
        for answer, (_, age, gender) in zip(answers, labelled, strict=True)
        if answer.age is not None
    ]
    if not both:
        return "no face found"
    error = np.mean([abs(predicted - age) for predicted, _, age, _ in both])
    right = np.mean([predicted == gender for _, predicted, _, gender in both])
    return f"{len(both)} faces found, mean error {error:.1f} years, gender {right:.2f}"
