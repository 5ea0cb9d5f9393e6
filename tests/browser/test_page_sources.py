"""Images, videos and the webcam take turns on the predictor's page, whatever arrives late."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.support.made_videos import write_video
from tests.support.trainer_page import read_by_page

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

NewPage = Callable[..., "Page"]
# Every stream of the webcam, each given once `open` was called.
WATCHED = """() => {
    const devices = navigator.mediaDevices;
    const ask = devices.getUserMedia.bind(devices);
    const opened = new Promise((done) => { window.open = done; });
    window.streams = [];
    devices.getUserMedia = async (options) => {
        await opened;
        const stream = await ask(options);
        window.streams.push(stream);
        return stream;
    };
}"""
LIVE = "streams.flatMap((one) => one.getTracks()).filter((track) => track.readyState === 'live').length"


@pytest.fixture
def page(new_page: NewPage) -> "Page":
    page = new_page(permissions=["camera"])
    page.evaluate(WATCHED)
    return page


def held_first(page: "Page", path: str) -> "list[Route]":
    """Hold the page's next request to a path until the test continues it; later ones pass."""
    held: list[Route] = []
    page.route(path, lambda route: route.continue_() if held else held.append(route))
    return held


def release(page: "Page", held: "list[Route]") -> None:
    """Continue the held request, and wait until the page has drawn the answer."""
    request = held[0].request
    with page.expect_event("requestfinished", lambda finished: finished == request):
        held[0].continue_()
    read_by_page(page)


def test_double_click_starts_one_webcam(page: "Page") -> None:
    page.evaluate("open()")
    page.dblclick("#camera")
    page.wait_for_selector(".face")
    assert page.evaluate("streams.length") == page.evaluate(LIVE) == 1
    assert page.inner_text("#camera") == "Stop the webcam"
    page.click("#camera")
    assert page.evaluate(LIVE) == 0 and page.inner_text("#camera") == "Use the webcam"


def test_webcam_that_is_starting_is_not_started_again(page: "Page") -> None:
    button = page.locator("#camera")
    button.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-disabled") == "true"
    assert button.evaluate("button => button === document.activeElement")
    page.evaluate("open()")
    page.wait_for_selector(".face")
    assert page.evaluate("streams.length") == 1 and button.get_attribute("aria-disabled") is None


@pytest.mark.parametrize("kind", ["picture", "video"])
def test_webcam_that_arrives_after_another_source_was_opened_is_released(
    page: "Page", astronaut: Path, tmp_path: Path, kind: str
) -> None:
    frames = [np.asarray(Image.open(astronaut).convert("RGB").resize((400, 400)))] * 4
    clip = write_video(tmp_path / "clip.webm", frames, "libvpx", rate=5)
    page.click("#camera")
    page.set_input_files("#files", astronaut if kind == "picture" else clip)
    page.wait_for_selector(".face")
    page.evaluate("open()")
    page.wait_for_function("() => streams.length === 1")
    read_by_page(page)
    assert page.evaluate(LIVE) == 0 and page.inner_text("#camera") == "Use the webcam"
    assert page.locator("#picture").is_visible() == (kind == "picture")


def test_late_answer_of_a_picture_does_not_hide_the_webcam(page: "Page", astronaut: Path) -> None:
    page.evaluate("open()")
    held = held_first(page, "**/age-gender*")
    with page.expect_request("**/age-gender*"):
        page.set_input_files("#files", astronaut)
    page.click("#camera")
    page.wait_for_selector(".face")
    release(page, held)
    assert page.locator("#video").is_visible() and page.locator("#picture").is_hidden()
    page.click("#camera")
    page.wait_for_selector("#picture:visible")
    assert page.locator("#picture").get_attribute("alt") == astronaut.name
    page.wait_for_selector("#status:text-is('1 face')")


def test_late_answer_for_another_coverage_does_not_hide_the_webcam(page: "Page", astronaut: Path) -> None:
    page.evaluate("open()")
    page.set_input_files("#files", astronaut)
    page.wait_for_selector("text=90 % sure")
    held = held_first(page, "**/age-gender?coverage=0.5")
    with page.expect_request("**/age-gender?coverage=0.5"):
        page.select_option("#coverage", "0.5")
    page.click("#camera")
    page.wait_for_selector("text=50 % sure")
    release(page, held)
    assert page.locator("#video").is_visible() and page.locator("#picture").is_hidden()
    assert "undefined" not in str(page.locator("#picture").get_attribute("src"))
    page.click("#camera")
    page.wait_for_selector("#picture:visible")
    page.wait_for_selector("text=50 % sure")


def test_buttons_wait_for_the_first_frame(page: "Page", astronaut: Path) -> None:
    page.evaluate("open()")
    page.set_input_files("#files", astronaut)
    page.wait_for_selector(".face")
    held = held_first(page, "**/age-gender*")
    with page.expect_request("**/age-gender*"):
        page.click("#camera")
    buttons = [page.locator(f"#{name}") for name in ("copy", "json", "csv", "annotated")]
    assert not any(button.is_enabled() for button in buttons)
    release(page, held)
    assert all(button.is_enabled() for button in buttons)


def test_webcam_that_is_missing_leaves_the_picture(page: "Page", astronaut: Path) -> None:
    page.set_input_files("#files", astronaut)
    page.wait_for_selector(".face")
    page.evaluate(
        """() => {
            const missing = new DOMException("", "NotFoundError");
            navigator.mediaDevices.getUserMedia = () => Promise.reject(missing);
        }"""
    )
    page.click("#camera")
    page.wait_for_selector("#status.error:text-is('No webcam was found.')")
    assert page.locator("#picture").is_visible()
    assert page.locator("#camera").get_attribute("aria-disabled") is None
