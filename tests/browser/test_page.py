"""The predictor's page in a real browser: a real photograph, a webcam, the keyboard, a phone, the dark."""

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from agegender import display
from agegender_client.cli.image_files import FACE_COLUMNS
from PIL import Image

from tests.support.chain import SIX_ADULTS

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

SCREENSHOTS = os.environ.get("AGEGENDER_SCREENSHOTS")  # a folder for those of docs/images

NewPage = Callable[..., "Page"]


@pytest.fixture
def close_up(tmp_path: Path, astronaut: Path) -> Path:
    """The astronaut's face, up to the edges of the image."""
    path = tmp_path / "close-up.png"
    Image.open(astronaut).crop((176, 66, 280, 182)).resize((416, 464)).save(path)
    return path


def choose(page: "Page", *files: Path) -> None:
    page.set_input_files("#files", list(files))


def until_labels_are_whole(page: "Page", faces: int) -> None:
    """Every label is inside the stage, which hides what is not. Raises Playwright's `TimeoutError`."""
    page.wait_for_function(
        """(faces) => {
            const place = (part) => part.getBoundingClientRect();
            const stage = place(document.querySelector("#stage"));
            const labels = [...document.querySelectorAll(".box span")].map(place);
            return labels.length === faces && labels.every((label) => label.width > 0
                && label.left >= stage.left - 1 && label.right <= stage.right + 1
                && label.top >= stage.top - 1 && label.bottom <= stage.bottom + 1);
        }""",
        arg=faces,
    )


def take_screenshot(page: "Page", name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=True)


def test_real_photograph_of_six_is_answered_face_by_face(new_page: NewPage) -> None:
    page = new_page()
    choose(page, SIX_ADULTS)
    page.wait_for_selector(".face")
    assert page.locator(".box").count() == page.locator(".face").count() == 6
    assert page.inner_text("#status") == "6 faces"
    picture = page.locator("#picture").bounding_box()
    assert picture is not None
    for box in page.locator(".box").all():
        inside = box.bounding_box()
        assert inside is not None
        assert (
            picture["x"] <= inside["x"] and inside["x"] + inside["width"] <= picture["x"] + picture["width"]
        )
        assert 0.03 < inside["width"] / picture["width"] < 0.2
    page.locator(".box").nth(4).click()
    assert "selected" in (page.locator(".face").nth(4).get_attribute("class") or "")
    assert page.locator(".face svg[role=img]").count() == 6


@pytest.mark.parametrize("size", [(1280, 860), (390, 740)], ids=["desktop", "phone"])
def test_labels_are_whole_on_the_picture(new_page: NewPage, close_up: Path, size: tuple[int, int]) -> None:
    page = new_page(viewport={"width": size[0], "height": size[1]})
    choose(page, SIX_ADULTS)
    page.wait_for_selector("#status:text-is('6 faces')")
    until_labels_are_whole(page, 6)
    choose(page, close_up)
    page.wait_for_selector("#status:text-is('1 face')")
    until_labels_are_whole(page, 1)
    room = page.evaluate(
        """() => {
            const stage = document.querySelector("#stage").getBoundingClientRect();
            const box = document.querySelector(".box").getBoundingClientRect();
            const label = document.querySelector(".box span").offsetHeight;
            return Math.max(box.top - stage.top, stage.bottom - box.bottom) / label;
        }"""
    )
    assert room < 1, "the label fits beside this face, so nothing was shown"
    page.set_viewport_size({"width": 320, "height": 600})
    until_labels_are_whole(page, 1)


def downloaded(page: "Page", button: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, download.value.path().read_bytes()


def test_answer_can_be_copied_and_downloaded(new_page: NewPage, astronaut: Path) -> None:
    page = new_page(permissions=["clipboard-read", "clipboard-write"])
    choose(page, astronaut)
    page.wait_for_selector(".face")
    page.click("#copy")
    page.wait_for_selector("#status:text-is('Copied.')")
    line = page.evaluate("navigator.clipboard.readText()")
    assert line.startswith("curl -F 'image=@\"astronaut.png\"' 'http://127.0.0.1:")
    (face,) = json.loads(downloaded(page, "#json")[1])["images"][0]["faces"]
    name, table = downloaded(page, "#csv")
    (row,) = csv.DictReader(io.StringIO(table.decode(), newline=""))
    assert (name, tuple(row), row["file"]) == ("astronaut.csv", FACE_COLUMNS, "astronaut.png")
    assert (float(row["interval_low"]), row["whole"]) == (face["age"]["interval"][0], "false")
    name, picture = downloaded(page, "#annotated")
    assert (name, Image.open(io.BytesIO(picture)).size) == ("astronaut-annotated.png", (512, 512))
    take_screenshot(page, "page-light")


def test_wider_interval_can_be_selected(new_page: NewPage, astronaut: Path) -> None:
    page = new_page()
    choose(page, astronaut)
    page.wait_for_selector("text=90 % sure")
    page.select_option("#coverage", "0.5")
    page.wait_for_selector("text=50 % sure")


def test_answer_that_comes_late_does_not_replace_the_one_of_the_last_coverage(
    new_page: NewPage, astronaut: Path
) -> None:
    page = new_page()
    choose(page, astronaut)
    page.wait_for_selector("text=90 % sure")
    held: list[Route] = []
    page.route("**/age-gender?coverage=0.5", lambda route: held.append(route))
    page.select_option("#coverage", "0.5")
    page.select_option("#coverage", "0.8")
    page.wait_for_selector("text=80 % sure")
    with page.expect_response("**/age-gender?coverage=0.5"):
        held[0].continue_()
    page.evaluate("() => new Promise((done) => setTimeout(done, 100))")
    assert page.get_by_text("80 % sure").is_visible()


def test_card_rounds_the_interval_outwards(new_page: NewPage, astronaut: Path) -> None:
    page = new_page()
    with page.expect_response("**/age-gender*") as response:
        choose(page, astronaut)
    face = response.value.json()["images"][0]["faces"][0]
    page.wait_for_selector(".face")
    low, high = display.interval(face["age"]["interval"])
    assert page.inner_text(".face .hint") == f"{low} to {high}, 90 % sure"
    assert page.inner_text(".face .age b") == display.years(face["age"]["mean"])
    assert display.certainty(face["gender"]["probability"]["female"]) in page.inner_text(".face")


def test_file_that_is_no_image_is_named(new_page: NewPage, astronaut: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    page = new_page()
    choose(page, tmp_path / "notes.txt")
    page.wait_for_selector("#status:text-is('Not an image or a video: notes.txt.')")
    choose(page, tmp_path / "notes.txt", astronaut)
    page.wait_for_selector("#status:text-is('1 face. Skipped, not an image: notes.txt.')")
    assert page.locator(".face").count() == 1


def test_several_pictures_are_kept_side_by_side(new_page: NewPage, astronaut: Path) -> None:
    page = new_page()
    choose(page, astronaut, SIX_ADULTS)
    page.wait_for_selector("text=6 faces")
    assert page.locator("#gallery button").count() == 2
    page.locator("#gallery button").first.click()
    page.wait_for_selector("text=1 face")
    assert page.locator(".box").count() == 1


def test_focus_stays_on_the_thumbnail_that_was_selected_by_keyboard(
    new_page: NewPage, astronaut: Path
) -> None:
    page = new_page()
    choose(page, astronaut, SIX_ADULTS)
    page.wait_for_selector("#status:text-is('6 faces')")
    first = page.locator("#gallery button").first
    first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#status:text-is('1 face')")
    assert first.evaluate("button => button === document.activeElement")
    assert page.locator("#gallery [aria-current=true]").get_attribute("aria-label") == astronaut.name


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_picture_can_be_dropped_and_pasted(new_page: NewPage, astronaut: Path, how: str) -> None:
    page = new_page()
    page.evaluate(
        """async ([how, bytes]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], 'given.png', {type: 'image/png'}));
            document.dispatchEvent(how === 'drop'
                ? new DragEvent('drop', {dataTransfer: transfer, cancelable: true})
                : new ClipboardEvent('paste', {clipboardData: transfer}));
        }""",
        [how, list(astronaut.read_bytes())],
    )
    page.wait_for_selector(".face")
    assert page.locator(".face").count() == 1


def test_webcam_is_answered_live_and_stops(new_page: NewPage, astronaut: Path) -> None:
    page = new_page(permissions=["camera"])
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if "/age-gender" in request.url else None)
    page.click("#camera")
    page.wait_for_selector(".face")
    assert page.locator("#video").is_visible() and page.locator(".box").count() == 1
    for _ in range(2):
        with page.expect_response("**/age-gender*") as answered:
            pass
        assert answered.value.status == 200
    page.click("#camera")
    assert page.inner_text("#camera") == "Use the webcam" and page.locator("#result").is_hidden()
    choose(page, astronaut)  # a frame that was taken before the click is sent until this is answered
    page.wait_for_selector("#status:text-is('1 face')")
    until_then = len(sent)
    choose(page, SIX_ADULTS)
    page.wait_for_selector("#status:text-is('6 faces')")
    assert len(sent) == until_then + 1


def test_pictures_are_back_when_the_webcam_stops(new_page: NewPage, astronaut: Path) -> None:
    page = new_page(permissions=["camera"])
    choose(page, astronaut, SIX_ADULTS)
    page.wait_for_selector("#status:text-is('6 faces')")
    page.click("#camera")
    page.wait_for_selector("#status:text-is('1 face')")
    assert page.locator("#video").is_visible() and page.locator("#gallery").is_hidden()
    page.click("#camera")
    page.wait_for_selector("#status:text-is('6 faces')")
    assert page.locator("#picture").get_attribute("alt") == SIX_ADULTS.name
    assert page.locator("#gallery button").count() == 2 and page.locator("#gallery").is_visible()
    assert page.locator("#picture").is_visible() and page.locator("#video").is_hidden()
    assert page.locator(".box").count() == page.locator(".face").count() == 6


def test_selected_face_and_focus_last_from_frame_to_frame(new_page: NewPage) -> None:
    page = new_page(permissions=["camera"])
    page.click("#camera")
    page.wait_for_selector(".box")
    page.locator(".box").focus()
    page.keyboard.press("Enter")
    for _ in range(3):
        with page.expect_response("**/age-gender*"):
            pass
    page.locator(".face").evaluate("card => card.id = 'old'")
    page.locator(".face:not(#old)").wait_for()  # an answer was drawn since
    assert page.locator(".box.selected").count() == page.locator(".face.selected").count() == 1
    assert page.locator(".box").evaluate("box => box === document.activeElement")


def test_selected_face_and_focus_follow_a_face_that_moves_in_the_order(new_page: NewPage) -> None:
    """The larger face comes first, so two people change places; and one is missed for a frame."""
    page = new_page()
    found = page.evaluate(
        """async () => {
            const { Stage } = await import("/static/stage.js");
            const part = document.body.appendChild(document.createElement("div"));
            const stage = new Stage(part, (index) => { stage.selected = index; });
            const face = (x, side) =>
                ({ bbox: [x, 0, x + side, side], age: { mean: 30 }, gender: { label: "male" } });
            const focused = () => [...part.children].indexOf(document.activeElement);
            const draw = (...faces) => {
                stage.draw({ width: 640, height: 480, faces });
                return [stage.selected, focused()];
            };
            draw(face(0, 200), face(300, 190));
            part.children[1].focus();
            part.children[1].click();
            return [
                draw(face(310, 195), face(0, 190)),
                draw(face(5, 195)),
                draw(face(0, 195), face(320, 190)),
            ];
        }"""
    )
    assert found == [[0, 0], [-1, -1], [1, 1]]


def test_bad_file_is_reported_in_the_server_s_words(new_page: NewPage, tmp_path: Path) -> None:
    page = new_page()
    text = tmp_path / "text.jpg"
    text.write_text("this is text")
    choose(page, text)
    page.wait_for_selector("#status.error")
    assert "not an image" in page.inner_text("#status")
    assert page.locator("#json").is_disabled()


def test_keyboard_alone_reaches_faces_and_actions(new_page: NewPage, astronaut: Path) -> None:
    page = new_page()

    def focused() -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.className"))

    def tab_to(target: str) -> None:
        for _ in range(20):
            page.keyboard.press("Tab")
            if target in focused():
                return
        raise AssertionError(f"{target} is not reached by Tab")

    page.on("filechooser", lambda chooser: chooser.set_files(astronaut))
    tab_to("choose")
    page.keyboard.press("Enter")
    page.wait_for_selector(".face")
    tab_to("box")
    page.keyboard.press("Enter")
    assert "selected" in (page.locator(".face").first.get_attribute("class") or "")
    for target in ("copy", "json", "annotated", "coverage"):
        tab_to(target)


def test_phone_shows_all_without_scrolling_sideways(new_page: NewPage, astronaut: Path) -> None:
    page = new_page(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    choose(page, astronaut)
    page.wait_for_selector(".face")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    picture, card = page.locator("#picture").bounding_box(), page.locator(".face").bounding_box()
    assert picture and card and card["y"] >= picture["y"] + picture["height"]
    take_screenshot(page, "page-phone")


def test_dark_mode_is_dark_and_legible(new_page: NewPage, astronaut: Path) -> None:
    page = new_page(color_scheme="dark")
    choose(page, astronaut)
    page.wait_for_selector(".face")
    script = "getComputedStyle(document.body).{} .match(/\\d+/g).slice(0, 3).map(Number)"
    ground, ink = (page.evaluate(script.format(name)) for name in ("backgroundColor", "color"))
    assert sum(ground) < 150 and sum(ink) > 600
    take_screenshot(page, "page-dark")


def test_page_states_that_nothing_is_stored(new_page: NewPage) -> None:
    page = new_page()
    assert page.inner_text("#privacy").endswith("Nothing is stored.")  # its proxy has no cache


def test_page_may_load_nothing_from_elsewhere(new_page: NewPage, url: str) -> None:
    page = new_page()
    response = page.goto(url)
    assert response is not None
    headers = response.headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    script = page.request.get(f"{url}/static/main.js")
    assert script.headers["content-security-policy"] == headers["content-security-policy"]
