"""`python -m tools.fit_covers IMAGES…`: fit the network that recognises covered faces.

Take faces from each folder of crops (UTKFace, All-Age-Faces), no labels, and cover them in two ways: with the
covers of `tools.damage`, after which the face is detected again, and with random shapes on the aligned crop.
Undamaged crops and crops with other light, blur and framing are the counterexamples. Write
services/insightface/embedder/covers.safetensors, or the file that `--to` names. Only files whose SHA-256 of
the name starts with 0 to 3 are used, so that `python -m benchmarks.quality_intervals` judges on others.

For a trial, take fewer faces: `--faces 30 --to /tmp/covers.safetensors`.
"""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from agegender.files import write_safetensors
from agegender.images import ImageLimits, decode
from embedder.alignment import COVER_MODEL, SIZE, cover_features, crop, similarity, template
from embedder.packs.pack import Pack
from embedder.packs.store import load_pack
from rich.progress import track
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from tools.damage import DAMAGE, damaged
from tools.stack import ROOT

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating]

FACES = 800  # per folder
RANDOM, VARIED = 9000, 6000
UNITS = 32
_SIZE = (SIZE, SIZE)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools.fit_covers", description=__doc__)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--faces", type=int, default=FACES, help="number per folder")
    parser.add_argument("--to", type=Path, default=COVER_MODEL, help="file to write")
    arguments = parser.parse_args()
    directory = ROOT / "data" / "packs" / "human"
    pack = load_pack("human", directory.parent, directory, None, 1)
    clean: list[Image] = []
    covered: list[Image] = []
    for folder in arguments.images:
        for file in track(_files(folder, arguments.faces), folder.name):
            _add_crops(pack, file, clean, covered)
    if not covered:
        raise SystemExit("No face was found. The folders need JPEG files named *.jpg, some hundred each.")
    share = min(1.0, arguments.faces / FACES)
    tensors = fit(clean, covered, random=round(RANDOM * share), varied=round(VARIED * share))
    write_safetensors(arguments.to, tensors, {})
    print(f"{len(clean)} faces, {len(covered)} covered → {arguments.to}")


def _files(folder: Path, count: int) -> list[Path]:
    hashes = {file: hashlib.sha256(file.name.encode()).hexdigest() for file in folder.glob("*.jpg")}
    return sorted((file for file in hashes if hashes[file][0] in "0123"), key=hashes.__getitem__)[:count]


def _add_crops(pack: Pack, file: Path, clean: list[Image], covered: list[Image]) -> None:
    image = decode(file.read_bytes(), ImageLimits())
    for landmarks in pack.detect([image])[0].landmarks[:1]:
        clean.append(_aligned(image, landmarks))
        for name, (reason, _) in DAMAGE.items():
            if reason == "covered":
                worse = damaged(image, landmarks, name, file.name)
                covered += [_aligned(worse, found) for found in pack.detect([worse])[0].landmarks[:1]]


def _aligned(image: Image, landmarks: Array) -> Image:
    return crop(image, similarity(landmarks, template(SIZE, 1.0)), SIZE)


def fit(
    clean: Sequence[Image], covered: Sequence[Image], *, random: int = RANDOM, varied: int = VARIED
) -> dict[str, npt.NDArray[np.generic]]:
    """Return the tensors of `embedder.alignment.CoverModel`, from aligned RGB crops [112, 112, 3].

    random : number of clean crops to cover with random shapes. varied : number of covered crops to change.
    """
    draws = np.random.default_rng(0)
    turns = [clean[index % len(clean)] for index in range(random)]
    shapes = [_randomly_covered(_varied(image, draws), clean, draws) for image in turns]
    changed = [_varied(image, draws) for image in turns]
    again = [_varied(covered[index], draws) for index in draws.integers(0, len(covered), varied)]
    without = [*clean, *clean, *clean, *changed]
    features = np.stack([cover_features(image) for image in [*without, *shapes, *covered, *again]])
    truth = np.arange(len(features)) >= len(without)
    scaler = StandardScaler().fit(features)
    network = MLPClassifier((UNITS,), alpha=3, max_iter=20, batch_size=256, random_state=0)
    network.fit(scaler.transform(features), truth)
    (hidden, output), (hidden_bias, output_bias) = network.coefs_, network.intercepts_
    tensors = {
        "mean": scaler.mean_,
        "scale": scaler.scale_,
        "hidden": hidden,
        "hidden_bias": hidden_bias,
        "output": output,
        "output_bias": output_bias,
    }
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}


def _randomly_covered(image: Image, others: Sequence[Image], draws: np.random.Generator) -> Image:
    """Draw a shape over 12 to 60 % of the face, in one colour, cloth, skin, or a part of another crop."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    face = ((x - 56) / 34) ** 2 + ((y - 77) / 42) ** 2 <= 1
    for _ in range(30):
        shape = _shape(draws)
        if 0.12 <= (shape[face] > 0).mean() <= 0.6:
            break
    alpha: Floats = shape.astype(np.float32)[..., None] / 255 * draws.uniform(0.88, 1)
    soft = draws.uniform(0, 1.5)
    if soft > 0.4:
        alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), soft), np.float32)[..., None]
    surface = _surface(image, others, draws)
    if draws.random() < 0.3:
        shade = cv2.resize(draws.normal(0.8, 0.25, (5, 5)).astype(np.float32), _SIZE)
        surface *= np.clip(shade, 0.2, 1.3)[..., None]
    return np.asarray(np.clip(image * (1 - alpha) + surface * alpha, 0, 255), np.uint8)


def _surface(image: Image, others: Sequence[Image], draws: np.random.Generator) -> Array:
    kind = draws.integers(0, 4)
    if kind == 0:
        surface = np.broadcast_to(draws.integers(0, 256, 3), (*_SIZE, 3)).astype(np.float32)
    elif kind == 1:
        shape = (int(draws.integers(2, 30)), int(draws.integers(1, 12)), 3)
        cloth = draws.integers(0, 256, shape).astype(np.uint8)
        method = cv2.INTER_LINEAR if draws.random() < 0.5 else cv2.INTER_NEAREST
        surface = cv2.resize(cloth, _SIZE, interpolation=method).astype(np.float32)
    elif kind == 2:
        y, x = draws.integers(60, 90), draws.integers(30, 80)
        skin = np.median(image[y - 4 : y + 4, x - 4 : x + 4].reshape(-1, 3), axis=0)
        surface = np.broadcast_to(skin * draws.uniform(0.75, 1.15), (*_SIZE, 3)).astype(np.float32)
    else:
        turn = _turn(draws.uniform(0, 360), draws.uniform(0.8, 3), draws.uniform(-30, 30, 2))
        other = others[int(draws.integers(0, len(others)))]
        surface = cv2.warpAffine(other, turn, _SIZE, borderMode=cv2.BORDER_REFLECT).astype(np.float32)
        surface *= draws.uniform(0.5, 1.3)
    cells = (int(draws.integers(3, 20)),) * 2
    rough = cv2.resize(draws.normal(0, draws.uniform(0, 14), cells).astype(np.float32), _SIZE)
    fine = draws.normal(0, draws.uniform(0, 4), _SIZE)
    return np.asarray(np.clip(surface + (rough + fine)[..., None], 0, 255), np.float32)


def _shape(draws: np.random.Generator) -> Image:
    """Return a rectangle, an ellipse, a polygon, fingers on a palm, or a pair of glasses, 255 inside."""
    shape = np.zeros(_SIZE, np.uint8)
    centre = draws.uniform([10, 25], [102, 110])
    middle = _point(centre)
    kind = draws.integers(0, 5)
    if kind == 0:
        angle = draws.uniform(0, 180) if draws.random() < 0.5 else 0.0
        corners = cv2.boxPoints((middle, _point(draws.uniform(20, 90, 2)), angle))
        cv2.fillPoly(shape, [corners.astype(np.int32)], 255)
    elif kind == 1:
        cv2.ellipse(shape, middle, _point(draws.uniform(10, 45, 2)), draws.uniform(0, 180), 0, 360, 255, -1)
    elif kind == 2:
        count = draws.integers(3, 8)
        angles, radii = np.sort(draws.uniform(0, 2 * np.pi, count)), draws.uniform(15, 55, count)
        outline = centre + np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
        cv2.fillPoly(shape, [outline.astype(np.int32)], 255)
    elif kind == 3:
        towards = draws.uniform(0, 2 * np.pi)
        for _ in range(draws.integers(2, 6)):
            angle = towards + draws.uniform(-0.5, 0.5)
            tip = centre + draws.uniform(20, 60) * np.array([np.cos(angle), np.sin(angle)])
            root = _point(centre + draws.uniform(-14, 14, 2))
            cv2.line(shape, root, _point(tip), 255, int(draws.integers(7, 16)))
        cv2.ellipse(shape, middle, _point(draws.uniform(10, 24, 2)), 0, 0, 360, 255, -1)
    else:
        axes, y = _point(draws.uniform([10, 7], [19, 16])), int(draws.uniform(48, 57))
        for x in (38, 74):
            cv2.ellipse(shape, (x, y), axes, 0, 0, 360, 255, -1)
        cv2.line(shape, (14, y - 5), (98, y - 5), 255, int(draws.integers(2, 6)))
    return shape


def _turn(degrees: float, scale: float, shift: Floats) -> Floats:
    """Return a turn about the middle of the crop [2, 3], then a shift in pixels."""
    turn = np.asarray(cv2.getRotationMatrix2D((56, 56), degrees, scale), np.float64)
    turn[:, 2] += shift
    return turn


def _point(values: Floats) -> tuple[int, int]:
    return int(values[0]), int(values[1])


def _varied(image: Image, draws: np.random.Generator) -> Image:
    """Change the light, colour, sharpness and position of a crop, and what lies beyond the image's edge."""
    varied: Floats = image.astype(np.float32)
    if draws.random() < 0.5:
        varied = varied[:, ::-1]
    if draws.random() < 0.5:
        varied = 255 * (varied / 255) ** draws.uniform(0.6, 1.7)
    light = draws.random()
    if light < 0.15:
        varied = varied * draws.uniform(0.06, 0.6) + draws.normal(0, 1.5, varied.shape)
    elif light < 0.4:
        varied = varied * draws.uniform(1.2, 4)
    varied = np.clip(varied, 0, 255).astype(np.float32)
    if draws.random() < 0.2:
        varied = varied * draws.uniform(0.8, 1.2, 3)
    if draws.random() < 0.3:
        varied = np.asarray(cv2.GaussianBlur(varied, (0, 0), draws.uniform(0.5, 4)), np.float32)
    if draws.random() < 0.25:
        varied = np.repeat(varied.mean(axis=-1, keepdims=True), 3, axis=-1)
    if draws.random() < 0.3:
        turn = _turn(draws.uniform(-10, 10), draws.uniform(0.92, 1.08), draws.uniform(-3, 3, 2))
        varied = np.asarray(cv2.warpAffine(varied, turn, _SIZE, borderMode=cv2.BORDER_REPLICATE), np.float32)
    if draws.random() < 0.2:
        varied = _beyond_edge(varied, draws)
    pixels = np.ascontiguousarray(np.clip(varied, 0, 255).astype(np.uint8))
    if draws.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(draws.integers(25, 90))]
        pixels = np.asarray(
            cv2.imdecode(cv2.imencode(".jpg", pixels, quality)[1], cv2.IMREAD_COLOR), np.uint8
        )
    return pixels


def _beyond_edge(crop: Floats, draws: np.random.Generator) -> Floats:
    """Repeat the crop's last row or column, as alignment does beyond the edge of an image."""
    count, side = int(draws.integers(3, 45)), draws.integers(0, 4)
    crop = crop.copy()
    if side == 0:
        crop[:count] = crop[count]
    elif side == 1:
        crop[-(count // 2 + 1) :] = crop[-(count // 2 + 2)]
    elif side == 2:
        crop[:, : count // 2] = crop[:, count // 2, None]
    else:
        crop[:, -(count // 2 + 1) :] = crop[:, -(count // 2 + 2), None]
    return crop


if __name__ == "__main__":
    main()
