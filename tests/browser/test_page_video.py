"""Videos on the predictor's page: labels that do not flicker, and a table of persons."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from agegender.video.analysis import PERSON_COLUMNS
from PIL import Image

from tests.support.made_videos import write_video

if TYPE_CHECKING:
    from playwright.sync_api import Page

NewPage = Callable[..., "Page"]


def test_video_is_answered_per_person_with_steady_labels(
    new_page: NewPage, astronaut: Path, tmp_path: Path
) -> None:
    portrait = np.asarray(Image.open(astronaut).convert("RGB").resize((400, 400)), np.float32)
    light = [0.75 + 0.5 * (step % 5) / 4 for step in range(16)]  # it flickers
    frames = [
        np.roll(np.clip(portrait * one, 0, 255), 3 * step, axis=1).astype(np.uint8)
        for step, one in enumerate(light)
    ]
    clip = write_video(tmp_path / "clip.webm", frames, "libvpx", rate=5)
    page = new_page()
    single: list[int] = []

    def remember(response: Any) -> None:
        if "/age-gender" in response.url:
            single.extend(round(face["age"]["mean"]) for face in response.json()["images"][0]["faces"])

    page.on("response", remember)
    page.evaluate("""() => {
        window.labels = new Set();
        new MutationObserver(() => document.querySelectorAll(".box span").forEach(
            (label) => window.labels.add(label.textContent))
        ).observe(document.querySelector("#boxes"), { childList: true, subtree: true, characterData: true });
    }""")
    page.set_input_files("#files", [clip])
    page.wait_for_function("() => document.querySelector('#status').textContent.startsWith('1 person in')")
    labels = page.evaluate("[...window.labels]")
    for _ in range(50):  # the page knows its last response before the test does
        if len(single) >= 9:
            break
        page.wait_for_timeout(100)
    assert len(single) == 9 and len(set(single)) > 1  # single frames differ
    assert len(labels) < len(set(single)) and all(label.startswith("1: ") for label in labels)
    row = page.locator("#persons tbody tr")
    assert row.count() == 1 and row.locator("td").first.inner_text() == "1"
    with page.expect_download() as saved:
        page.click("#persons-csv")
    (person,) = csv.DictReader(io.StringIO(Path(saved.value.path()).read_text()))
    assert tuple(person) == PERSON_COLUMNS
    # The page seeks from frame to frame, so it is the same frames on every machine: 0, 0.4, …, 3.2 s.
    assert (person["first"], person["last"], person["faces"]) == ("0.000", "3.200", "9")
    assert float(person["interval_low"]) < float(person["mean"]) < float(person["interval_high"])


def test_table_has_no_tracks_of_which_the_detector_is_never_certain(new_page: NewPage) -> None:
    """Apply the rule of `is_person` in `agegender.video.persons`."""
    rows = new_page().evaluate(
        """async () => {
            const { Persons } = await import("/static/persons.js");
            const face = (x, score, quality) => ({
                bbox: [x, 0, x + 40, 40], det_score: score, quality: { score: quality },
                age: { mean: 30, interval: [20, 40], coverage: 0.9, groups: { "25-32": 1 } },
                gender: { label: "male", probability: { female: 0.2, male: 0.8 } },
            });
            const persons = new Persons();
            const [hand, small, lone] = [face(0, 0.76, 0.41), face(100, 0.9, 0.16), face(200, 0.7, 0.6)];
            persons.update(0, { faces: [hand, small, lone] });
            persons.update(0.4, { faces: [hand, small] });
            const numbers = persons.csv().trim().split("\\n").slice(1).map((line) => line.split(",")[0]);
            return [persons.count, persons.table()[1].rows.length, numbers];
        }"""
    )
    assert rows == [2, 2, ["2", "3"]]


def test_video_that_the_browser_cannot_play_is_reported(new_page: NewPage, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"not a video")
    page = new_page()
    page.set_input_files("#files", [clip])
    page.wait_for_selector("#status.error")
    assert page.inner_text("#status").startswith("The browser cannot play clip.mp4")
