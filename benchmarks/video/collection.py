"""The clips that are measured: made once per folder, each with a cast of its own."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks.packs import human
from benchmarks.video.clips import ENCODINGS, write_clip
from benchmarks.video.held_out import held_out_heads
from benchmarks.video.measured import Measured, measure
from benchmarks.video.observing import Stored, answer
from benchmarks.video.portraits import Portrait, Split, alternating, portraits
from benchmarks.video.scenes import make_scene

SECONDS: Final = 10.0
HEAD_FACES: Final = 2400  # to train and calibrate the heads with
_FIRST_SEED: Final[dict[Split, int]] = {"training": 0, "development": 1000, "confirmation": 2000}
_ODD: Final = (533, 301)


def made(data: Path, folder: Path, split: Split, count: int, seconds: float = SECONDS) -> list[Path]:
    """Return so many clips of a split with four or three persons each, and make those that are missing.

    The encodings take turns. No person is in two clips.
    """
    cast = _castings(data, split)
    clips: list[Path] = []
    for number in range(count):
        persons = 3 if number % 4 == 3 else 4
        name = list(ENCODINGS)[number % len(ENCODINGS)]
        stem, encoding = f"{split}-{number:03d}-{name}", ENCODINGS[name]
        if (folder / f"{stem}.json").exists():
            clips.append(folder / f"{stem}{encoding.suffix}")
            next(itertools.islice(cast, persons - 1, persons))
            continue
        width, height = _ODD if name == "odd" else (640, 360)
        scene = make_scene(
            _FIRST_SEED[split] + number, list(itertools.islice(cast, persons)), width, height, seconds
        )
        clips.append(write_clip(folder, stem, scene, seconds, encoding))
    return clips


def _castings(data: Path, split: Split) -> Iterator[Portrait]:
    """Yield the portraits of a split; the same pack finds their faces, whatever is measured."""
    return portraits(human(1, name="human-3"), alternating(data, split))


def measured_clips(
    data: Path, folder: Path, pack_name: str, split: Split, count: int
) -> Callable[[float], list[Measured]]:
    """Return a function that analyses the clips in steps of so many seconds, with held-out heads.

    folder : keeps clips, heads and answers.
    """
    pack = human(1, name=pack_name)
    heads = held_out_heads(pack, data, folder / "models", HEAD_FACES)
    answers = folder / f"answers-{pack.space.id}"
    answers.mkdir(parents=True, exist_ok=True)
    stored = [
        (clip, Stored(answers / f"{clip.stem}.jsonl", lambda image: answer(pack, heads, image)))
        for clip in made(data, folder / "clips", split, count)
    ]
    return lambda every: [measure(clip, observe, every) for clip, observe in stored]
