"""The real command on a video of the photograph of six adults, against the whole system."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.made_videos import Pixels, write_video
from tests.support.system import SIX_ADULTS
from tools.stack import Stack

FRAMES, RATE = 15, 5
WIDTH, HEIGHT = 800, 480


def moving_photograph() -> list[Pixels]:
    """Return frames of a camera that moves over the photograph for three seconds."""
    photograph = Image.open(SIX_ADULTS).convert("RGB")
    wide = photograph.resize((860, round(860 * photograph.height / photograph.width)))
    frames = []
    for index in range(FRAMES):
        x, y = 4 * index, 20 + index
        frames.append(np.asarray(wide.crop((x, y, x + WIDTH, y + HEIGHT))))
    return frames


def test_video_of_six_adults_has_six_persons(human_system: Stack, tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4", moving_photograph(), rate=RATE)
    table, plot = tmp_path / "persons.csv", tmp_path / "persons.svg"
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("agegender")), "video", str(film), "--json",
            "--csv", str(table), "--annotate", str(tmp_path / "labelled.mp4"), "--summary", str(plot),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "AGEGENDER_PREDICTOR_URL": human_system.url("predictor")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["complete"] and answer["searched_frames"] == 8
    persons = sorted(answer["persons"], key=lambda person: person["best"]["bbox"][0])
    assert [person["gender"]["label"] for person in persons] == [
        "female", "female", "male", "male", "male", "female",
    ]  # fmt: skip
    for person in persons:
        low, high = person["age"]["interval"]
        assert low <= person["age"]["mean"] <= high and 15 <= person["age"]["mean"] <= 50
        assert person["appearances"][0]["first"] == 0 and person["seconds_visible"] == 2.8
    assert len(table.read_text().splitlines()) == 7 and "6 persons" in plot.read_text()
    assert (tmp_path / "labelled.mp4").stat().st_size > 10_000
