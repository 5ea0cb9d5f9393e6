"""Forms and buttons of the trainer's page that start work: each submission starts it once."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from trainer.datasets.embedding_set import write_embedding_set

from tests.support.made_faces import made_faces
from tests.support.trainer_page import jpeg, open_page, read_by_page, served_trainer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request, Route

SETTLED = 600  # ms; what a second click starts has arrived by then


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_embedding_set(folder, "made", "images", made_faces(60, folds=3), {"kind": "made up"})
    (folder / "own").mkdir()
    (folder / "own" / "a.jpg").write_bytes(jpeg())
    (folder / "own" / "labels.csv").write_text("file,age\na.jpg,30\n")
    return folder


@pytest.fixture(scope="module")
def url(data_dir: Path) -> Iterator[str]:
    with served_trainer(data_dir) as url:
        yield url


@pytest.fixture
def page(browser: "Browser", url: str) -> Iterator["Page"]:
    with open_page(browser, f"{url}/#runs") as page:
        page.set_default_timeout(15_000)
        page.locator("#start [name=dataset] option[value=made]").wait_for(state="attached")
        yield page
    for path in ("experiments", "searches"):  # so that each test begins without active runs
        for one in httpx.get(f"{url}/{path}").json():
            if one["state"] == "queued":
                httpx.post(f"{url}/{path}/{one['id']}/cancel")


def runs(url: str, path: str) -> set[str]:
    return {run["id"] for run in httpx.get(f"{url}/{path}").json()}


def sent_to(page: "Page", path: str) -> "list[Request]":
    """Return a list that gets the page's POST requests to a path."""
    found: list[Request] = []
    page.on(
        "request",
        lambda one: found.append(one) if one.method == "POST" and one.url.endswith(path) else None,
    )
    return found


@pytest.mark.parametrize(
    "button, path", [("Train", "experiments"), ("Look for better options first", "searches")]
)
def test_double_click_starts_one_run(page: "Page", url: str, button: str, path: str) -> None:
    before = runs(url, path)
    page.get_by_role("button", name=button, exact=True).dblclick()
    page.get_by_text("Started.").wait_for()
    page.wait_for_timeout(SETTLED)
    assert len(runs(url, path) - before) == 1
    page.get_by_role("button", name=button, exact=True).click()  # a second run of the same form
    page.wait_for_function(f"() => document.querySelectorAll('#{path} article').length >= {len(before) + 2}")
    assert len(runs(url, path) - before) == 2


def test_enter_does_nothing_until_the_trainer_has_answered(page: "Page") -> None:
    held: list[Route] = []
    page.route("**/experiments", lambda route: held.append(route))
    name = page.get_by_label("Name", exact=True)
    name.press("Enter")
    page.wait_for_timeout(SETTLED)
    name.press("Enter")
    train = page.get_by_role("button", name="Train", exact=True)
    assert train.get_attribute("aria-disabled") == "true"
    read_by_page(page)
    assert len(held) == 1
    held[0].fulfill(json={"type": "urn:x:y", "status": 422, "detail": "It has no faces."}, status=422)
    page.get_by_text("It has no faces.").wait_for()
    page.wait_for_function("() => !document.querySelector('#start .primary').ariaDisabled")
    with page.expect_request("**/experiments"):
        name.press("Enter")


def test_run_whose_answer_was_lost_is_not_started_twice(page: "Page", url: str) -> None:
    before = runs(url, "experiments")

    def lose(route: "Route") -> None:
        route.fetch()  # the trainer has it, and the page never hears of it
        route.abort("connectionreset")

    page.route("**/experiments", lose, times=1)
    train = page.get_by_role("button", name="Train", exact=True)
    train.click()
    page.locator("#hint.error").wait_for()
    page.wait_for_timeout(SETTLED)
    train.click()
    page.get_by_text("Started.").wait_for()
    (started,) = runs(url, "experiments") - before
    assert started.startswith("key-")


def test_evaluation_is_started_once(page: "Page") -> None:
    sent = sent_to(page, "/evaluations")
    page.get_by_role("tab", name="Data").click()
    card = page.locator("#datasets article", has=page.get_by_role("heading", name="made"))
    card.get_by_role("button", name="Judge heads").click()
    card.get_by_role("button", name="Start").dblclick()
    card.locator("footer .message.error").wait_for()  # no heads are served
    page.wait_for_timeout(SETTLED)
    assert [len(one.headers.get("idempotency-key", "")) for one in sent] == [32]


def test_extraction_is_started_once(page: "Page") -> None:
    sent = sent_to(page, "/datasets/own/extract")
    page.route("**/datasets/own/extract", lambda route: route.fulfill(json={}, status=202))
    page.get_by_role("tab", name="Data").click()
    card = page.locator("#datasets article", has=page.get_by_role("heading", name="own"))
    card.get_by_role("button", name="Extract").click()
    form = card.locator("form")
    page.evaluate("form => { form.requestSubmit(); form.requestSubmit(); }", form.element_handle())
    form.wait_for(state="detached")
    read_by_page(page)
    assert len(sent) == 1


def test_button_of_a_run_acts_once(page: "Page", url: str) -> None:
    page.get_by_role("button", name="Train", exact=True).click()
    page.get_by_text("Started.").wait_for()
    cancelled = sent_to(page, "/cancel")
    page.locator("#experiments article").first.get_by_role("button", name="Cancel").dblclick(force=True)
    page.wait_for_timeout(SETTLED)
    assert len(cancelled) == 1


def test_pane_opened_meanwhile_is_not_replaced_by_a_late_one(page: "Page") -> None:
    held: list[Route] = []
    page.get_by_role("tab", name="Data").click()
    page.route("**/experiments", lambda route: held.append(route))
    card = page.locator("#datasets article", has=page.get_by_role("heading", name="made"))
    with page.expect_request("**/experiments"):
        card.get_by_role("button", name="Judge heads").click()
    card.get_by_role("button", name="Judge heads").click()
    held[0].fulfill(json=[])
    read_by_page(page)
    assert card.locator("form").count() == 0


def choose(page: "Page", *names: str) -> None:
    files: Any = [{"name": name, "mimeType": "image/jpeg", "buffer": jpeg()} for name in names]
    page.set_input_files("#files", files)


def test_upload_is_sent_once_and_files_chosen_meanwhile_stay(page: "Page", data_dir: Path) -> None:
    held: list[Route] = []
    page.route("**/files", lambda route: held.append(route))
    page.get_by_role("tab", name="Data").click()
    choose(page, "a.jpg")
    name = page.get_by_label("Name of the data set")
    name.fill("first upload")
    with page.expect_request("**/files"):
        name.press("Enter")
    page.wait_for_timeout(SETTLED)
    name.press("Enter")
    choose(page, "b.jpg", "c.jpg")
    name.fill("second upload")
    name.press("Enter")
    read_by_page(page)
    assert len(held) == 1 and page.get_by_role("button", name="Stop").is_visible()
    held[0].continue_()
    page.get_by_text("first upload: 1 image, no table.").wait_for()
    assert page.get_by_role("button", name="Stop").is_hidden()
    assert page.get_by_text("2 files").is_visible() and name.input_value() == "second upload"
    page.unroute("**/files")
    page.get_by_role("button", name="Upload", exact=True).click()
    page.get_by_text("second upload: 2 images, no table.").wait_for()
    assert {path.name for path in (data_dir / "first upload").iterdir()} == {"a.jpg"}
    assert {path.name for path in (data_dir / "second upload").iterdir()} == {"b.jpg", "c.jpg"}
    assert page.locator("#selected").is_hidden()


def test_stopped_upload_can_be_sent_again(page: "Page") -> None:
    page.route("**/files", lambda route: None)
    page.get_by_role("tab", name="Data").click()
    choose(page, "a.jpg")
    page.get_by_label("Name of the data set").fill("stopped")
    with page.expect_request("**/files"):
        page.get_by_role("button", name="Upload", exact=True).click()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped. Nothing was stored.").wait_for()
    page.unroute("**/files")
    page.get_by_role("button", name="Upload", exact=True).click()
    page.get_by_text("stopped: 1 image, no table.").wait_for()


def test_double_click_writes_the_labels_once(page: "Page") -> None:
    page.get_by_role("tab", name="Data").click()
    own = page.locator("#datasets article", has=page.get_by_role("heading", name="own"))
    own.get_by_role("button", name="Labels").click()
    sent = sent_to(page, "/datasets/own/labels")
    own.get_by_role("button", name="Use these labels").dblclick()
    own.get_by_role("button", name="Use these labels").wait_for(state="detached")
    page.wait_for_timeout(SETTLED)
    assert len(sent) == 1
